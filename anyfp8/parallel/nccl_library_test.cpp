#include "anyfp8/parallel/nccl_library.h"

#include <gtest/gtest.h>

#include "anyfp8/base/error.h"

namespace anyfp8 {
namespace {

TEST(NcclLibrary, VersionsWithOtherFunctionsAreRefused) {
  EXPECT_TRUE(check_nccl_version(21300));
  EXPECT_TRUE(check_nccl_version(22809));
  EXPECT_TRUE(check_nccl_version(23007));
  for (const int code : {0, 2604, 20800, 30000}) {
    const Verdict verdict = check_nccl_version(code);
    EXPECT_FALSE(verdict) << code;
    EXPECT_NE(verdict.reason().find("2.13"), std::string::npos) << verdict.reason();
  }
}

// Where NCCL is installed it is opened; where it is not, the refusal says what to install.
TEST(NcclLibrary, IsOpenedOrSaysWhatToInstall) {
  try {
    const NcclLibrary& nccl = nccl_library();
    EXPECT_TRUE(nccl.version.starts_with("2.")) << nccl.version;
    EXPECT_STRNE(nccl.get_error_string(kNcclSuccess), "");
    EXPECT_EQ(&nccl, &nccl_library());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    const std::string_view text = error.what();
    EXPECT_NE(text.find("libnccl.so.2"), std::string_view::npos) << text;
    EXPECT_NE(text.find("install"), std::string_view::npos) << text;
  }
}

}  // namespace
}  // namespace anyfp8
