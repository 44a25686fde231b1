#include "anyfp8/kernels/plugin.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <vector>

#include "anyfp8/base/error.h"
#include "anyfp8/kernels/select.h"

// The shared objects of plugins/faulty_plugin.cpp and the example in examples/kernel_plugin. Every load stays
// for the life of the process, so the tests ask only for what holds in any order.
namespace anyfp8 {
namespace {

namespace fs = std::filesystem;

fs::path faulty(const std::string& fault) { return fs::path(ANYFP8_TEST_PLUGINS) / (fault + ".so"); }
fs::path example() { return ANYFP8_EXAMPLE_PLUGIN; }

std::vector<std::string> names() {
  std::vector<std::string> names;
  for (const Kernel* kernel : all_kernels()) names.emplace_back(kernel->name);
  return names;
}

struct Refused {
  std::string fault;
  ErrorCode code;
  std::string says;  // part of the sentence
};

class RefusedPlugin : public testing::TestWithParam<Refused> {};

TEST_P(RefusedPlugin, SaysWhyAndChangesNothing) {
  const std::vector<std::string> before = names();
  for (int attempt = 0; attempt < 2; ++attempt) {  // a failed load is not remembered as "loaded"
    try {
      load_plugin(faulty(GetParam().fault));
      FAIL() << GetParam().fault << " was loaded";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), GetParam().code) << error.what();
      EXPECT_NE(std::string(error.what()).find(GetParam().says), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(GetParam().fault + ".so"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(names(), before);
}

INSTANTIATE_TEST_SUITE_P(
    Faults, RefusedPlugin,
    testing::Values(Refused{"absent", ErrorCode::kNotFound, "does not exist"},
                    Refused{"no_symbol", ErrorCode::kNotFound, "does not export anyfp8_kernel_plugin"},
                    Refused{"null", ErrorCode::kInvalidArgument, "returned null"},
                    Refused{"abi", ErrorCode::kUnsupported, "ABI version 3, this library 2"},
                    Refused{"size", ErrorCode::kUnsupported, "bytes, this library's"},
                    Refused{"no_kernel", ErrorCode::kInvalidArgument, "has no kernel"},
                    Refused{"no_name", ErrorCode::kInvalidArgument, "has no name"},
                    Refused{"odd_name", ErrorCode::kInvalidArgument, "'cpu,odd'"},
                    Refused{"no_supports", ErrorCode::kInvalidArgument, "has no supports()"},
                    Refused{"no_tokens", ErrorCode::kInvalidArgument, "has no tokens()"},
                    Refused{"no_apply", ErrorCode::kInvalidArgument, "has no apply()"},
                    Refused{"no_dtypes", ErrorCode::kInvalidArgument, "no dtype"},
                    Refused{"duplicate", ErrorCode::kInvalidArgument, "cpu_reference exists already"},
                    Refused{"neighbour", ErrorCode::kInvalidArgument, "before 'cpu_nowhere'"},
                    Refused{"both", ErrorCode::kInvalidArgument,
                            "before cpu_reference and after cpu_reference"}),
    [](const auto& info) { return info.param.fault; });

TEST(Plugin, FileThatIsNoSharedObjectIsRefused) {
  const fs::path path = fs::temp_directory_path() / ("anyfp8_plugin_" + std::to_string(getpid()) + ".so");
  std::ofstream(path) << "not a shared object";
  try {
    load_plugin(path);
    ADD_FAILURE() << "was loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo) << error.what();
  }
  fs::remove(path);
}

TEST(Plugin, StandsWhereItAsks) {
  load_plugin(faulty("none_after"));
  load_plugin(faulty("none_first"));
  const std::vector<std::string> list = names();
  EXPECT_EQ(list.front(), "cpu_first_w8a16");
  const auto reference = std::find(list.begin(), list.end(), "cpu_reference");
  ASSERT_NE(reference, list.end());
  ASSERT_NE(reference + 1, list.end());
  EXPECT_EQ(*(reference + 1), "cpu_after_w8a16");
}

TEST(Plugin, EarlierListsStayValidAndLoadingAgainDoesNothing) {
  const auto earlier = all_kernels();
  const std::vector<const Kernel*> copy(earlier.begin(), earlier.end());
  load_plugin(example());
  EXPECT_TRUE(std::equal(copy.begin(), copy.end(), earlier.begin(), earlier.end()));
  const std::vector<std::string> once = names();
  load_plugin(example());
  load_plugin(example().parent_path() / "." / example().filename());  // the same file under another path
  EXPECT_EQ(names(), once);
}

// Each in a process of its own: the environment is read at the first use.
int first_use_with(const std::string& plugins, const std::function<bool()>& then) {
  setenv("ANYFP8_PLUGIN", plugins.c_str(), 1);
  return then() ? 0 : 1;
}

TEST(PluginEnvironment, LoadsAtFirstUse) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const std::string paths = ":" + example().string() + ":" + faulty("none_after").string();
  EXPECT_EXIT(std::_Exit(first_use_with(paths,
                                        [] {
                                          return find_kernel("cpu_example_w8a16") != nullptr &&
                                                 find_kernel("cpu_after_w8a16") != nullptr;
                                        })),
              testing::ExitedWithCode(0), "");
}

TEST(PluginEnvironment, AnErrorComesBackAtEveryUse) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const std::string paths = example().string() + ":" + faulty("abi").string();
  EXPECT_EXIT(std::_Exit(first_use_with(paths,
                                        [] {
                                          int errors = 0;
                                          for (int use = 0; use < 3; ++use) {
                                            try {
                                              all_kernels();
                                            } catch (const Error& error) {
                                              errors += error.code() == ErrorCode::kUnsupported;
                                            }
                                          }
                                          try {
                                            select_kernel(Device{}, LinearConfig{.n = 8, .k = 8});
                                          } catch (const Error& error) {
                                            errors +=
                                                std::string(error.what()).find("abi.so") != std::string::npos;
                                          }
                                          return errors == 4;
                                        })),
              testing::ExitedWithCode(0), "");
}

struct Layer {
  LinearConfig config;
  std::vector<uint8_t> data;
  std::vector<float> scale, bias;

  Layer(int64_t n, int64_t k, Group group) {
    config = {.n = n,
              .k = k,
              .scheme = {.weight = {.group = group}},
              .in = DType::kF32,
              .out = DType::kF32,
              .bias = true};
    std::mt19937 random(7);
    const Grid grid = scale_grid(group, n, k);
    for (int64_t i = 0; i < n * k; ++i) {
      const auto code = static_cast<uint8_t>(random());
      data.push_back((code & 0x7F) == 0x7F ? 0 : code);  // no NaN
    }
    for (int64_t i = 0; i < grid.rows * grid.cols; ++i)
      scale.push_back(std::ldexp(1.0f + 0.37f * (i % 5), -8));
    for (int64_t i = 0; i < n; ++i) bias.push_back(0.25f * (i % 7));
  }
  PlacedWeight placed() const {
    return {.config = config,
            .data = data.data(),
            .scale = scale.data(),
            .grid = scale_grid(config.scheme.weight.group, config.n, config.k),
            .bias = bias.data()};
  }
};

std::vector<float> run(const Kernel& kernel, const Layer& layer, std::vector<float> x, int64_t m) {
  std::vector<float> y(m * layer.config.n, std::nanf(""));
  const TensorView x_view{x.data(), DType::kF32, m, layer.config.k, layer.config.k};
  const TensorView y_view{y.data(), DType::kF32, m, layer.config.n, layer.config.n};
  const size_t bytes = kernel.workspace_bytes ? kernel.workspace_bytes(layer.config, cpu_device(), m) : 0;
  std::vector<std::max_align_t> scratch(bytes / sizeof(std::max_align_t) + 8);
  auto address = reinterpret_cast<uintptr_t>(scratch.data());
  void* aligned = reinterpret_cast<void*>((address + 63) / 64 * 64);
  kernel.apply(layer.placed(), x_view, y_view, {aligned, bytes}, {});
  return y;
}

TEST(ExamplePlugin, IsSelectedByForceAndAgreesWithTheReference) {
  load_plugin(example());
  for (const Group group : {kPerTensor, kPerRow, kBlock128, Group{1, 32}, Group{5, 7}}) {
    const Layer layer(57, 131, group);
    const int64_t m = 3, n = layer.config.n, k = layer.config.k;
    const Selection selection = select_kernel(cpu_device(), layer.config, {.force = "cpu_example_w8a16"});
    const Kernel& kernel = selection.kernel_for(m);
    ASSERT_EQ(kernel.name, "cpu_example_w8a16");
    const Kernel* reference = find_kernel("cpu_reference");
    ASSERT_NE(reference, nullptr);
    ASSERT_TRUE(can_implement(*reference, layer.config, cpu_device()));

    std::mt19937 random(11);
    std::vector<float> x(m * k);
    for (float& value : x) value = std::uniform_real_distribution<float>(-1, 1)(random);
    const std::vector<float> y = run(kernel, layer, x, m);
    const std::vector<float> truth = run(*reference, layer, x, m);
    // Each of k products is rounded twice and each sum once, to fp32: the error of one output is at most
    // about (k + 2) * 2^-24 of the sum of |x * w|, bounded here by sum |x| * the largest |w|.
    for (int64_t token = 0; token < m; ++token) {
      float sum_x = 0;
      for (int64_t col = 0; col < k; ++col) sum_x += std::fabs(x[token * k + col]);
      const float largest_weight = 448.0f * std::ldexp(1.0f + 0.37f * 4, -8);
      const float bound = (k + 2) * 0x1p-24f * sum_x * largest_weight;
      for (int64_t row = 0; row < n; ++row) {
        ASSERT_NEAR(y[token * n + row], truth[token * n + row], bound) << group.rows << "x" << group.cols;
      }
    }
  }
}

TEST(ExamplePlugin, IsNotUsedWhereItsListsSayNo) {
  load_plugin(example());
  Layer layer(16, 64, kPerRow);
  layer.config.in = DType::kBF16;
  try {
    select_kernel(cpu_device(), layer.config, {.force = "cpu_example_w8a16"});
    FAIL() << "was selected";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("x is bf16, it takes f32"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace anyfp8
