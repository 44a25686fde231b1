#include "anyfp8/c_api.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

// Uses the library as another language does: through c_api.h alone, linked to the shared object.
namespace {

using Json = nlohmann::json;

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* handle) const {
    Free(handle);
  }
};
using Device = std::unique_ptr<anyfp8_device, Freed<anyfp8_device_free>>;
using Checkpoint = std::unique_ptr<anyfp8_checkpoint, Freed<anyfp8_checkpoint_free>>;
using Weight = std::unique_ptr<anyfp8_weight, Freed<anyfp8_weight_free>>;
using Layer = std::unique_ptr<anyfp8_linear, Freed<anyfp8_linear_free>>;
using Workspace = std::unique_ptr<anyfp8_workspace, Freed<anyfp8_workspace_free>>;

#define OK(call) ASSERT_EQ(call, ANYFP8_OK) << anyfp8_last_error()

// make(&handle) as a handle that frees itself.
template <typename Handle, typename Make>
Handle made(Make&& make) {
  typename Handle::pointer handle = nullptr;
  EXPECT_EQ(make(&handle), ANYFP8_OK) << anyfp8_last_error();
  return Handle(handle);
}

template <typename Make>
std::string text_of(Make&& make) {
  char* text = nullptr;
  EXPECT_EQ(make(&text), ANYFP8_OK) << anyfp8_last_error();
  const std::string copy = text == nullptr ? "" : text;
  anyfp8_string_free(text);
  return copy;
}

Device cpu() {
  return made<Device>([](auto d) { return anyfp8_device_open("cpu", d); });
}

// Expects a refusal whose sentence holds `part`.
void expect_refused(int code, int expected, const std::string& part) {
  EXPECT_EQ(code, expected) << anyfp8_last_error();
  EXPECT_NE(std::string(anyfp8_last_error()).find(part), std::string::npos) << anyfp8_last_error();
}

anyfp8_layer layer_of(int64_t n, int64_t k) {
  anyfp8_layer layer = {};
  layer.struct_size = sizeof(layer);
  layer.n = n;
  layer.k = k;
  layer.weight_dtype = ANYFP8_E4M3;
  layer.group_rows = 1;
  return layer;
}

anyfp8_linear_options f32_options() {
  anyfp8_linear_options options = {};
  options.struct_size = sizeof(options);
  options.in_dtype = options.out_dtype = ANYFP8_F32;
  return options;
}

// [2, 4] in e4m3: rows (1, 1, 1, 1) and (2, -1, 2, -1), row scales 0.5 and 3, bias 10 and 20.
struct Small {
  std::vector<uint8_t> data{0x38, 0x38, 0x38, 0x38, 0x40, 0xB8, 0x40, 0xB8};
  std::vector<float> scale{0.5f, 3.0f};
  std::vector<float> bias{10.0f, 20.0f};
  anyfp8_layer layer = layer_of(2, 4);
  Small() { layer.bias_dtype = ANYFP8_F32; }
  Weight weight() const {
    return made<Weight>([&](auto w) {
      return anyfp8_weight_borrow(&layer, data.data(), scale.data(), bias.data(), nullptr, w);
    });
  }
};

std::vector<float> apply(const anyfp8_linear* linear, const std::vector<float>& x, int64_t m, int64_t n,
                         int64_t k) {
  const Workspace workspace = made<Workspace>([](auto w) { return anyfp8_workspace_create(cpu().get(), w); });
  size_t bytes = 0, have = 0;
  EXPECT_EQ(anyfp8_linear_workspace_bytes(linear, m, &bytes), ANYFP8_OK);
  EXPECT_EQ(anyfp8_workspace_reserve(workspace.get(), bytes), ANYFP8_OK);
  EXPECT_EQ(anyfp8_workspace_bytes(workspace.get(), &have), ANYFP8_OK);
  EXPECT_GE(have, bytes);
  std::vector<float> y(static_cast<size_t>(m * n));
  EXPECT_EQ(anyfp8_linear_apply(linear, x.data(), k, y.data(), n, m, workspace.get(), nullptr), ANYFP8_OK)
      << anyfp8_last_error();
  return y;
}

TEST(CApi, SaysItsVersion) {
  EXPECT_EQ(anyfp8_abi_version(), ANYFP8_ABI_VERSION);
  EXPECT_EQ(std::string(anyfp8_version()).find("0."), 0u);
}

TEST(CApi, DescribesDevices) {
  int count = 0;
  OK(anyfp8_device_count(&count));
  ASSERT_GE(count, 1);
  const Device first = made<Device>([](auto d) { return anyfp8_device_at(0, d); });
  const Json here = Json::parse(text_of([&](char** t) { return anyfp8_device_json(first.get(), t); }));
  EXPECT_EQ(here["kind"], "cpu");
  EXPECT_GE(here["cores"].get<int>(), 1);
  const Device card = made<Device>([](auto d) { return anyfp8_device_open("sm_86", d); });
  const Json ampere = Json::parse(text_of([&](char** t) { return anyfp8_device_json(card.get(), t); }));
  EXPECT_EQ(ampere["kind"], "cuda");
  EXPECT_EQ(ampere["compute_capability"], "8.6");

  anyfp8_device* none = first.get();
  expect_refused(anyfp8_device_at(count, &none), ANYFP8_NOT_FOUND, std::to_string(count));
  EXPECT_EQ(none, nullptr);
  expect_refused(anyfp8_device_open("toaster", &none), ANYFP8_INVALID_ARGUMENT, "toaster");
}

TEST(CApi, BorrowedWeightIsAppliedExactly) {
  const Small small;
  const Weight weight = small.weight();
  const anyfp8_linear_options options = f32_options();
  Layer linear = made<Layer>(
      [&](auto l) { return anyfp8_linear_create(cpu().get(), weight.get(), &options, nullptr, l); });
  // Small integers times powers of two and 3: every product and sum is exact in fp32.
  const std::vector<float> x{1, 2, 3, 4, /**/ -1, 0, 0, 5};
  EXPECT_EQ(apply(linear.get(), x, 2, 2, 4), (std::vector<float>{15, 26, 12, -1}));
  EXPECT_EQ(apply(linear.get(), x, 0, 2, 4), std::vector<float>());

  const void* data = nullptr;
  size_t bytes = 0;
  OK(anyfp8_weight_data(weight.get(), &data, &bytes));
  EXPECT_EQ(data, small.data.data());  // borrowed, not copied
  EXPECT_EQ(bytes, 8u);
  OK(anyfp8_weight_scale(weight.get(), &data, &bytes));
  EXPECT_EQ(data, small.scale.data());
  OK(anyfp8_linear_resident_bytes(linear.get(), &bytes));
  // A panel of 64 outputs x 4 and the two steps that kernels read ahead, 64 scales, the bias.
  EXPECT_EQ(bytes, 64u * 4 + 2 * 256 + 64 * 4 + 2 * 4);

  Small other;
  other.scale = {1.0f, 1.0f};
  const Weight next = other.weight();
  OK(anyfp8_linear_update_weights(linear.get(), next.get(), nullptr));
  EXPECT_EQ(apply(linear.get(), x, 1, 2, 4), (std::vector<float>{20, 22}));
}

TEST(CApi, RowStridesAreInElements) {
  const Small small;
  const anyfp8_linear_options options = f32_options();
  const Weight weight = small.weight();
  const Device device = cpu();
  Layer linear = made<Layer>(
      [&](auto l) { return anyfp8_linear_create(device.get(), weight.get(), &options, nullptr, l); });
  const std::vector<float> x{1, 2, 3, 4, 99, 99, -1, 0, 0, 5};  // rows 6 apart
  std::vector<float> y(5, 7.0f);                                // rows 3 apart
  const Workspace workspace =
      made<Workspace>([&](auto w) { return anyfp8_workspace_create(device.get(), w); });
  size_t bytes = 0;
  OK(anyfp8_linear_workspace_bytes(linear.get(), 2, &bytes));
  OK(anyfp8_workspace_reserve(workspace.get(), bytes));
  OK(anyfp8_linear_apply(linear.get(), x.data(), 6, y.data(), 3, 2, workspace.get(), nullptr));
  EXPECT_EQ(y, (std::vector<float>{15, 26, 7, 12, -1}));
  expect_refused(anyfp8_linear_apply(linear.get(), x.data(), 3, y.data(), 3, 2, workspace.get(), nullptr),
                 ANYFP8_INVALID_ARGUMENT, "3");
}

TEST(CApi, DequantizesRows) {
  const Small small;
  const Weight weight = small.weight();
  std::vector<float> rows(4);
  OK(anyfp8_weight_dequantize(weight.get(), 1, 2, rows.data(), rows.size()));
  EXPECT_EQ(rows, (std::vector<float>{6, -3, 6, -3}));
  const Layer linear = made<Layer>(
      [&](auto l) { return anyfp8_linear_create(cpu().get(), weight.get(), nullptr, nullptr, l); });
  OK(anyfp8_linear_dequantize(linear.get(), 0, 1, rows.data(), rows.size()));
  EXPECT_EQ(rows, (std::vector<float>{0.5f, 0.5f, 0.5f, 0.5f}));
  expect_refused(anyfp8_weight_dequantize(weight.get(), 0, 2, rows.data(), rows.size()),
                 ANYFP8_INVALID_ARGUMENT, "room for 4");
  EXPECT_EQ(anyfp8_weight_dequantize(weight.get(), 0, 3, rows.data(), rows.size()), ANYFP8_INVALID_ARGUMENT);
}

// Device memory is the caller's business, so that what lies there is seen here by dequantising it.
TEST(CApi, ACudaDeviceTakesTheSameCalls) {
  anyfp8_device* opened = nullptr;
  if (anyfp8_device_open("cuda:0", &opened) == ANYFP8_UNSUPPORTED) GTEST_SKIP() << anyfp8_last_error();
  const Device device(opened);
  ASSERT_NE(opened, nullptr) << anyfp8_last_error();
  const Small small;
  const Weight weight = small.weight();
  const Layer linear = made<Layer>(
      [&](auto l) { return anyfp8_linear_create(device.get(), weight.get(), nullptr, nullptr, l); });
  std::vector<float> rows(8);
  OK(anyfp8_linear_dequantize(linear.get(), 0, 2, rows.data(), rows.size()));
  EXPECT_EQ(rows, (std::vector<float>{0.5f, 0.5f, 0.5f, 0.5f, 6, -3, 6, -3}));
  Small other;
  other.scale = {1.0f, 1.0f};
  OK(anyfp8_linear_update_weights(linear.get(), other.weight().get(), nullptr));
  OK(anyfp8_linear_dequantize(linear.get(), 0, 2, rows.data(), rows.size()));
  EXPECT_EQ(rows, (std::vector<float>{1, 1, 1, 1, 2, -1, 2, -1}));
  size_t bytes = 0;
  OK(anyfp8_linear_resident_bytes(linear.get(), &bytes));
  EXPECT_EQ(bytes, 2u * 64 + 2 * 4 + 2 * 4);
  const Workspace workspace =
      made<Workspace>([&](auto w) { return anyfp8_workspace_create(device.get(), w); });
  OK(anyfp8_linear_workspace_bytes(linear.get(), 100, &bytes));
  OK(anyfp8_workspace_reserve(workspace.get(), bytes));
  OK(anyfp8_linear_apply(linear.get(), nullptr, 4, nullptr, 2, 0, workspace.get(), nullptr));
}

TEST(CApi, QuantizesMergesAndDescribes) {
  const std::vector<float> wide{1, 2, 3, 4, 448, -448, 0, 7};  // scales 4/448 and 1
  const auto quantized = [&](const char* scheme) {
    return made<Weight>(
        [&](auto w) { return anyfp8_weight_quantize(wide.data(), ANYFP8_F32, 2, 4, scheme, w); });
  };
  const Weight channel = quantized("channel"), tensor = quantized("tensor");
  const anyfp8_weight* parts[] = {channel.get(), tensor.get()};
  const Weight merged = made<Weight>([&](auto w) { return anyfp8_weight_merge(parts, 2, w); });
  int64_t n = 0, k = 0;
  OK(anyfp8_weight_shape(merged.get(), &n, &k));
  EXPECT_EQ(n, 4);
  EXPECT_EQ(k, 4);
  const Json json = Json::parse(text_of([&](char** t) { return anyfp8_weight_json(merged.get(), t); }));
  EXPECT_EQ(json["weight"], (Json{{"dtype", "e4m3"}, {"group", {1, 0}}, {"scale_dtype", "f32"}}));
  EXPECT_EQ(json["bias"], nullptr);
  EXPECT_EQ(json["resident_bytes"], 16 + 4 * 4);

  // Half a step of e4m3 below 448 is 16 of 448; the row's own scale carries it down.
  std::vector<float> rows(8);
  OK(anyfp8_weight_dequantize(channel.get(), 0, 2, rows.data(), rows.size()));
  for (size_t i = 0; i < 8; ++i) EXPECT_LE(std::fabs(rows[i] - wide[i]), std::fabs(wide[i]) / 16) << i;
  anyfp8_weight* none = nullptr;
  expect_refused(anyfp8_weight_quantize(wide.data(), ANYFP8_F32, 2, 4, "banana", &none),
                 ANYFP8_INVALID_ARGUMENT, "banana");
  expect_refused(anyfp8_weight_quantize(wide.data(), ANYFP8_E4M3, 2, 4, "tensor", &none),
                 ANYFP8_INVALID_ARGUMENT, "e4m3");
}

TEST(CApi, ReadsACheckpoint) {
  const std::string path = std::string(ANYFP8_SOURCE_DIR) + "/models/kjv-qwen3-fp8";
  Checkpoint checkpoint = made<Checkpoint>([&](auto c) { return anyfp8_checkpoint_open(path.c_str(), c); });
  const Json tensors =
      Json::parse(text_of([&](char** t) { return anyfp8_checkpoint_tensors_json(checkpoint.get(), t); }));
  EXPECT_GT(tensors.size(), 50u);
  EXPECT_EQ(text_of([&](char** t) { return anyfp8_checkpoint_format(checkpoint.get(), t); }), "hf_fp8");

  const void* data = nullptr;
  size_t bytes = 0;
  OK(anyfp8_checkpoint_tensor(checkpoint.get(), "model.norm.weight", &data, &bytes));
  EXPECT_EQ(bytes, 2u * 256);  // bf16 [hidden]
  expect_refused(anyfp8_checkpoint_tensor(checkpoint.get(), "model.nrm.weight", &data, &bytes),
                 ANYFP8_NOT_FOUND, "model.nrm.weight");
  EXPECT_EQ(data, nullptr);

  const Weight weight = made<Weight>(
      [&](auto w) { return anyfp8_weight_load(checkpoint.get(), "model.layers.0.mlp.up_proj", w); });
  checkpoint.reset();  // the weight keeps the mapped file
  const Json json = Json::parse(text_of([&](char** t) { return anyfp8_weight_json(weight.get(), t); }));
  EXPECT_EQ(json["n"], 768);
  EXPECT_EQ(json["k"], 256);
  EXPECT_EQ(json["weight"]["group"], (Json{128, 128}));
  std::vector<float> row(256);
  OK(anyfp8_weight_dequantize(weight.get(), 767, 768, row.data(), row.size()));
  for (float v : row) EXPECT_TRUE(std::isfinite(v));

  anyfp8_checkpoint* none = nullptr;
  expect_refused(anyfp8_checkpoint_open("/no/such/model", &none), ANYFP8_NOT_FOUND, "/no/such/model");
}

TEST(CApi, InspectsACheckpoint) {
  const std::string path = std::string(ANYFP8_SOURCE_DIR) + "/models/kjv-qwen3-fp8";
  const Checkpoint checkpoint =
      made<Checkpoint>([&](auto c) { return anyfp8_checkpoint_open(path.c_str(), c); });
  const Json json =
      Json::parse(text_of([&](char** t) { return anyfp8_checkpoint_inspect_json(checkpoint.get(), t); }));
  EXPECT_EQ(json["format"], "hf_fp8");
  EXPECT_TRUE(json["errors"].empty()) << json["errors"];
  size_t parameters = 0, quantized = 0;
  for (const Json& layer : json["layers"]) {
    if (layer["weight"]["dtype"] != "e4m3") continue;
    EXPECT_EQ(layer["weight"]["group"], (Json{128, 128})) << layer["module"];
    parameters += layer["n"].get<size_t>() * layer["k"].get<size_t>();
    ++quantized;
  }
  EXPECT_EQ(quantized, 8u * 7);
  EXPECT_EQ(json["quantized_parameters"], parameters);
}

// What a layer gives back can be placed anew: the same bytes, scale, bias and activation scales.
TEST(CApi, LayersGiveTheirWeightBack) {
  Small small;
  small.layer.activation = 2;
  small.layer.activation_rows = 1;
  small.layer.input_scale_ub = 1200;
  const Weight weight = small.weight();
  const anyfp8_linear_options options = f32_options();
  const Layer linear = made<Layer>(
      [&](auto l) { return anyfp8_linear_create(cpu().get(), weight.get(), &options, nullptr, l); });
  const Weight back = made<Weight>([&](auto w) { return anyfp8_linear_weight(linear.get(), w); });
  const void* bytes = nullptr;
  size_t count = 0;
  OK(anyfp8_weight_data(back.get(), &bytes, &count));
  ASSERT_EQ(count, small.data.size());
  EXPECT_EQ(std::memcmp(bytes, small.data.data(), count), 0);
  OK(anyfp8_weight_scale(back.get(), &bytes, &count));
  ASSERT_EQ(count, 8u);
  EXPECT_EQ(std::memcmp(bytes, small.scale.data(), count), 0);
  OK(anyfp8_weight_bias(back.get(), &bytes, &count));
  ASSERT_EQ(count, 8u);
  EXPECT_EQ(std::memcmp(bytes, small.bias.data(), count), 0);
  const auto json = [](const Weight& w) {
    return Json::parse(text_of([&](char** t) { return anyfp8_weight_json(w.get(), t); }));
  };
  EXPECT_EQ(json(back), json(weight));
  EXPECT_EQ(json(back)["input_scale_ub"], 1200);
}

TEST(CApi, ScratchMayBeTheCallers) {
  const Small small;
  const Weight weight = small.weight();
  const anyfp8_linear_options options = f32_options();
  const Layer linear = made<Layer>(
      [&](auto l) { return anyfp8_linear_create(cpu().get(), weight.get(), &options, nullptr, l); });
  size_t bytes = 0;
  OK(anyfp8_linear_workspace_bytes(linear.get(), 1, &bytes));
  ASSERT_GT(bytes, 0u);
  std::vector<char> memory(bytes + 128);
  char* scratch = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
  const std::vector<float> x{1, 2, 3, 4};
  std::vector<float> y(2);
  const auto apply_with = [&](void* at, size_t room) {
    return anyfp8_linear_apply_with(linear.get(), x.data(), 4, y.data(), 2, 1, at, room, nullptr);
  };
  OK(apply_with(scratch, bytes));
  EXPECT_EQ(y, (std::vector<float>{15, 26}));
  expect_refused(apply_with(scratch, bytes - 1), ANYFP8_INVALID_ARGUMENT, std::to_string(bytes));
  expect_refused(apply_with(nullptr, bytes), ANYFP8_INVALID_ARGUMENT, std::to_string(bytes));
  expect_refused(apply_with(scratch + 1, bytes), ANYFP8_INVALID_ARGUMENT, "multiple of 64");
}

TEST(CApi, PlansForHardwareThatIsAbsent) {
  anyfp8_layer layer = layer_of(4096, 4096);
  const Json plan =
      Json::parse(text_of([&](char** t) { return anyfp8_select_json(cpu().get(), &layer, nullptr, t); }));
  ASSERT_FALSE(plan["ranges"].empty());
  EXPECT_EQ(plan["ranges"].front()["begin"], 0);
  EXPECT_EQ(plan["ranges"].back()["end"], nullptr);
  for (const Json& r : plan["rejected"]) EXPECT_FALSE(r["reason"].get<std::string>().empty()) << r;
  const Json kernels = Json::parse(text_of([](char** t) { return anyfp8_kernels_json(t); }));
  EXPECT_GT(kernels.size(), 3u);

  anyfp8_linear_options options = f32_options();
  options.force = "cpu_reference";
  const std::string text =
      text_of([&](char** t) { return anyfp8_select_text(cpu().get(), &layer, &options, t); });
  EXPECT_NE(text.find("cpu_reference"), std::string::npos);
  const char* disabled[] = {"cpu_reference"};
  options.disable = disabled;
  options.disable_count = 1;
  char* none = nullptr;
  EXPECT_NE(anyfp8_select_text(cpu().get(), &layer, &options, &none), ANYFP8_OK);
  // A plan for a card asks for kernels that a build without CUDA does not have.
  const Device card = made<Device>([](auto d) { return anyfp8_device_open("sm_86", d); });
  options = {};
  options.struct_size = sizeof(options);
  options.ignore_build = 1;
  const Json on_card =
      Json::parse(text_of([&](char** t) { return anyfp8_select_json(card.get(), &layer, &options, t); }));
  EXPECT_EQ(on_card["ranges"][0]["kernel"], "cuda_mma_w8a16");
  EXPECT_EQ(on_card["layout"], "k64_shuffled");
  options.ignore_build = 2;
  expect_refused(anyfp8_select_text(cpu().get(), &layer, &options, &none), ANYFP8_INVALID_ARGUMENT,
                 "ignore_build = 2");
  options = f32_options();
  options.force = "no_such_kernel";
  expect_refused(anyfp8_select_text(cpu().get(), &layer, &options, &none), ANYFP8_NOT_FOUND,
                 "no_such_kernel");
}

TEST(CApi, PolicyIsByTheCheckpointUnlessNamed) {
  anyfp8_layer layer = layer_of(4096, 4096);
  layer.group_rows = 0;  // per tensor, which the W8A8 kernel takes on sm_89
  const Device card = made<Device>([](auto d) { return anyfp8_device_open("sm_89", d); });
  // Why the W8A8 kernel is not used, in a build without CUDA.
  const auto refusal = [&](int policy) {
    anyfp8_linear_options options{};
    options.struct_size = sizeof options;
    options.policy = policy;
    options.force = "cuda_cublaslt_w8a8";
    char* none = nullptr;
    EXPECT_NE(anyfp8_select_text(card.get(), &layer, &options, &none), ANYFP8_OK);
    return std::string(anyfp8_last_error());
  };
  EXPECT_NE(refusal(ANYFP8_POLICY_DEFAULT).find("policy accuracy"), std::string::npos) << anyfp8_last_error();
  layer.activation = 2;
  EXPECT_NE(refusal(ANYFP8_POLICY_DEFAULT).find("policy speed"), std::string::npos) << anyfp8_last_error();
  EXPECT_NE(refusal(ANYFP8_POLICY_ACCURACY).find("policy accuracy"), std::string::npos)
      << anyfp8_last_error();
  EXPECT_NE(refusal(4).find("policy = 4; 0 is the default"), std::string::npos) << anyfp8_last_error();
}

TEST(CApi, TakesATunedTable) {
  anyfp8_layer layer = layer_of(4096, 4096);
  const Json here = Json::parse(text_of([](char** t) { return anyfp8_device_json(cpu().get(), t); }));
  const int cores = here["cores"];
  const std::string device = here["name"].get<std::string>() + ", " + here["isa"].get<std::string>() + ", " +
                             std::to_string(cores) + (cores == 1 ? " core" : " cores");
  const Json ranges = {{{"begin", 3}, {"end", 5}, {"kernel", "gone_w8a16"}}};
  const Json entry = {{"device", device}, {"scheme", "e4m3 row, weight-only"},
                      {"in", "f32"},      {"n", 4096},
                      {"k", 4096},        {"ranges", ranges}};
  const std::string path = testing::TempDir() + "anyfp8_c_api_tune.json";
  std::ofstream(path) << Json{{"schema_version", 1}, {"anyfp8", anyfp8_version()}, {"layers", {entry}}};
  anyfp8_linear_options options = f32_options();
  const auto plan = [&] {
    return Json::parse(
        text_of([&](char** t) { return anyfp8_select_json(cpu().get(), &layer, &options, t); }));
  };
  options.tune_cache = path.c_str();
  EXPECT_EQ(plan()["unused_tuning"], Json::array({"gone_w8a16 for 3 <= m < 5: there is no such kernel"}));
  EXPECT_EQ(plan()["ranges"][0]["tuned"], false);
  options.tune_cache = "";
  EXPECT_TRUE(plan()["unused_tuning"].empty());
  options.tune_cache = "/no/such/table";
  char* none = nullptr;
  expect_refused(anyfp8_select_json(cpu().get(), &layer, &options, &none), ANYFP8_NOT_FOUND,
                 "/no/such/table");
  std::remove(path.c_str());
}

TEST(CApi, LayerTellsItsPlan) {
  const Small small;
  anyfp8_linear_options options = f32_options();
  options.force = "cpu_reference";
  const Weight weight = small.weight();
  const Layer linear = made<Layer>(
      [&](auto l) { return anyfp8_linear_create(cpu().get(), weight.get(), &options, nullptr, l); });
  const Json plan = Json::parse(text_of([&](char** t) { return anyfp8_linear_plan_json(linear.get(), t); }));
  ASSERT_EQ(plan["ranges"].size(), 1u);
  EXPECT_EQ(plan["ranges"][0]["kernel"], "cpu_reference");
  EXPECT_NE(text_of([&](char** t) { return anyfp8_linear_explain(linear.get(), t); }).find("cpu_reference"),
            std::string::npos);
}

TEST(CApi, NullPointersAreRefusedByName) {
  const Small small;
  anyfp8_weight* weight = nullptr;
  anyfp8_checkpoint* checkpoint = nullptr;
  expect_refused(anyfp8_checkpoint_open(nullptr, &checkpoint), ANYFP8_INVALID_ARGUMENT, "`path` is NULL");
  expect_refused(anyfp8_checkpoint_open("x", nullptr), ANYFP8_INVALID_ARGUMENT, "`checkpoint` is NULL");
  expect_refused(anyfp8_weight_load(nullptr, "x", &weight), ANYFP8_INVALID_ARGUMENT, "`checkpoint` is NULL");
  expect_refused(
      anyfp8_weight_borrow(&small.layer, nullptr, small.scale.data(), small.bias.data(), nullptr, &weight),
      ANYFP8_INVALID_ARGUMENT, "`data` is NULL");
  expect_refused(
      anyfp8_weight_borrow(&small.layer, small.data.data(), nullptr, small.bias.data(), nullptr, &weight),
      ANYFP8_INVALID_ARGUMENT, "`scale` is NULL");
  expect_refused(
      anyfp8_weight_borrow(&small.layer, small.data.data(), small.scale.data(), nullptr, nullptr, &weight),
      ANYFP8_INVALID_ARGUMENT, "`bias` is NULL");
  const anyfp8_weight* parts[] = {nullptr};
  expect_refused(anyfp8_weight_merge(parts, 1, &weight), ANYFP8_INVALID_ARGUMENT, "`parts[0]` is NULL");
  expect_refused(anyfp8_linear_explain(nullptr, nullptr), ANYFP8_INVALID_ARGUMENT, "NULL");
  expect_refused(anyfp8_linear_apply(nullptr, nullptr, 0, nullptr, 0, 0, nullptr, nullptr),
                 ANYFP8_INVALID_ARGUMENT, "`linear` is NULL");
  anyfp8_device_free(nullptr);
  anyfp8_checkpoint_free(nullptr);
  anyfp8_weight_free(nullptr);
  anyfp8_linear_free(nullptr);
  anyfp8_workspace_free(nullptr);
  anyfp8_string_free(nullptr);
}

TEST(CApi, BadLayersAreRefusedInWords) {
  const Small small;
  const auto refused = [&](auto change, const std::string& part) {
    anyfp8_layer layer = small.layer;
    change(layer);
    anyfp8_weight* weight = nullptr;
    expect_refused(anyfp8_weight_borrow(&layer, small.data.data(), small.scale.data(), small.bias.data(),
                                        nullptr, &weight),
                   ANYFP8_INVALID_ARGUMENT, part);
    EXPECT_EQ(weight, nullptr);
  };
  refused([](anyfp8_layer& l) { l.struct_size = 0; }, "struct_size is 0");
  refused([](anyfp8_layer& l) { l.n = 0; }, "n = 0");
  refused([](anyfp8_layer& l) { l.k = INT64_MAX; }, "k = 9223372036854775807");
  refused([](anyfp8_layer& l) { l.group_rows = -1; }, "-1");
  refused([](anyfp8_layer& l) { l.weight_dtype = 99; }, "weight_dtype = 99");
  refused([](anyfp8_layer& l) { l.weight_dtype = ANYFP8_F64; }, "weight_dtype is f64");
  refused([](anyfp8_layer& l) { l.activation = 3; }, "activation = 3");
  refused([](anyfp8_layer& l) { l.bias_dtype = 0; }, "`bias` is not NULL");
}

TEST(CApi, WeightsWithNaNAreRefused) {
  Small small;
  small.data[5] = 0x7F;
  anyfp8_weight* weight = nullptr;
  EXPECT_NE(anyfp8_weight_borrow(&small.layer, small.data.data(), small.scale.data(), small.bias.data(),
                                 nullptr, &weight),
            ANYFP8_OK);
  EXPECT_EQ(weight, nullptr);
}

// A program built with a later header may hand over a longer struct as long as the rest of it is zero.
TEST(CApi, LongerStructsAreTakenWhileTheirNewMembersAreZero) {
  struct Later {
    anyfp8_layer layer;
    int64_t added;
  };
  Later later{layer_of(64, 64), 0};
  later.layer.struct_size = sizeof(later);
  char* text = nullptr;
  OK(anyfp8_select_text(cpu().get(), &later.layer, nullptr, &text));
  anyfp8_string_free(text);
  later.added = 1;
  expect_refused(anyfp8_select_text(cpu().get(), &later.layer, nullptr, &text), ANYFP8_UNSUPPORTED,
                 std::to_string(sizeof(anyfp8_layer)));
}

TEST(CApi, EachThreadHasItsOwnError) {
  anyfp8_device* none = nullptr;
  expect_refused(anyfp8_device_open("here", &none), ANYFP8_INVALID_ARGUMENT, "here");
  std::thread([&] {
    EXPECT_STREQ(anyfp8_last_error(), "");
    anyfp8_device* other = nullptr;
    expect_refused(anyfp8_device_open("there", &other), ANYFP8_INVALID_ARGUMENT, "there");
  }).join();
  EXPECT_NE(std::string(anyfp8_last_error()).find("here"), std::string::npos);
  cpu();  // a success leaves the message
  EXPECT_NE(std::string(anyfp8_last_error()).find("here"), std::string::npos);
}

TEST(CApi, ThreadCountIsChecked) {
  EXPECT_EQ(anyfp8_set_num_threads(2), ANYFP8_OK);
  expect_refused(anyfp8_set_num_threads(0), ANYFP8_INVALID_ARGUMENT, "0");
}

TEST(CApi, MissingPluginIsNotFound) {
  EXPECT_EQ(anyfp8_load_plugin("/no/such/plugin.so"), ANYFP8_NOT_FOUND);
  EXPECT_STRNE(anyfp8_last_error(), "");
}

}  // namespace
