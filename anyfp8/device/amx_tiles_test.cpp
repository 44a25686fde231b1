#include "anyfp8/device/amx_tiles.h"

#include <gtest/gtest.h>

#include "anyfp8/device/cpu_isa.h"

namespace anyfp8 {
namespace {

TEST(AmxTiles, AreGrantedWhereTheIsaHasThem) {
  const CpuIsa isa = detect_isa();
  if (!isa.amx_bf16) GTEST_SKIP() << "this CPU has " << isa_text(isa);
  EXPECT_TRUE(obtain_amx_tiles());
  EXPECT_TRUE(obtain_amx_tiles()) << "asking again";
}

}  // namespace
}  // namespace anyfp8
