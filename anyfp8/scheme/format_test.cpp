#include "anyfp8/scheme/format.h"

#include <gtest/gtest.h>

#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

using test::counting_weight;
using test::filled;
using test::TempCheckpoint;
using test::values;

std::string config_with(const std::string& quantization) {
  return R"({"quantization_config": )" + quantization + "}";
}

Fp8Weight load(const TempCheckpoint& model, const LoadOptions& options = {}) {
  const Checkpoint checkpoint = model.open();
  return load_weight(checkpoint, find_format(checkpoint), "a", options);
}

// The sentence of the Error that `action` throws; fails the test when it throws none.
template <typename Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << "in: " << (text)

// One row per way a dialect writes an FP8 layer [n, k] = [192, 320].
struct Dialect {
  const char* test_name;
  const char* format;
  const char* config;
  std::vector<NamedTensor> extra;
  Group group;
  std::optional<Group> activation;
  std::optional<float> input_scale;
  DType scale_dtype = DType::kF32;
};

class Dialects : public testing::TestWithParam<Dialect> {};

const char* const kBlockConfig =
    R"({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]})";
const char* const kMx = R"({"quant_method": "mxfp8"})";

std::string ct_group(const char* weights, const char* inputs) {
  return fmt::format(
      R"({{"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"], "config_groups":
    {{"group_0": {{"targets": ["Linear"], "weights": {{"num_bits": 8, "type": "float", {}}}, "input_activations": {}}}}}}})",
      weights, inputs);
}
const std::string kCtTensor = ct_group(
    R"("strategy": "tensor")", R"({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false})");
const std::string kCtChannel = ct_group(
    R"("strategy": "channel")", R"({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true})");
const std::string kCtBlock =
    ct_group(R"("strategy": "block", "block_structure": "128x128")",
             R"({"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128, "dynamic": true})");
const std::string kCtWeightOnly = ct_group(R"("strategy": "channel")", "null");
const std::string kCtMx = ct_group(R"("strategy": "group", "group_size": 32)", "null");

const Dialect kDialects[] = {
    {"fp8_tensor_dynamic",
     "hf_fp8",
     R"({"quant_method": "fp8", "activation_scheme": "dynamic"})",
     {{"a.weight_scale", values(DType::kF32, {}, {0.5f})}},
     kPerTensor,
     kPerTensor,
     {}},
    {"fp8_tensor_static",
     "hf_fp8",
     R"({"quant_method": "fp8", "activation_scheme": "static"})",
     {{"a.weight_scale", values(DType::kF32, {1}, {0.5f})},
      {"a.input_scale", values(DType::kF32, {}, {0.25f})}},
     kPerTensor,
     kPerTensor,
     0.25f},
    {"fp8_transformers_static",
     "hf_fp8",
     R"({"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": null})",
     {{"a.weight_scale_inv", values(DType::kF32, {}, {0.5f})},
      {"a.activation_scale", values(DType::kBF16, {}, {0.25f})}},
     kPerTensor,
     kPerTensor,
     0.25f},
    {"fp8_block_f32",
     "hf_fp8",
     kBlockConfig,
     {{"a.weight_scale_inv", filled(DType::kF32, {2, 3}, 0.5f)}},
     kBlock128,
     kGroup128,
     {}},
    {"fp8_block_bf16",
     "hf_fp8",
     kBlockConfig,
     {{"a.weight_scale_inv", filled(DType::kBF16, {2, 3}, 0.5f)}},
     kBlock128,
     kGroup128,
     {}},
    {"fp8_block_f16",
     "hf_fp8",
     kBlockConfig,
     {{"a.weight_scale_inv", filled(DType::kF16, {2, 3}, 0.5f)}},
     kBlock128,
     kGroup128,
     {}},
    {"fp8_block_e8m0",
     "hf_fp8",
     kBlockConfig,
     {{"a.weight_scale_inv", filled(DType::kE8M0, {2, 3}, 126)}},
     kBlock128,
     kGroup128,
     {},
     DType::kE8M0},
    {"fp8_block_64x160",
     "hf_fp8",
     R"({"quant_method": "fp8", "weight_block_size": [64, 160]})",
     {{"a.weight_scale_inv", filled(DType::kF32, {3, 2}, 0.5f)}},
     Group{64, 160},
     Group{1, 160},
     {}},
    {"fbgemm",
     "fbgemm",
     R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})",
     {{"a.weight_scale", filled(DType::kF32, {192, 1}, 0.5f)},
      {"a.input_scale_ub", values(DType::kF32, {1}, {1200})}},
     kPerRow,
     kPerRow,
     {}},
    {"ct_tensor",
     "compressed_tensors",
     kCtTensor.c_str(),
     {{"a.weight_scale", filled(DType::kBF16, {1}, 0.5f)},
      {"a.input_scale", filled(DType::kBF16, {1}, 0.25f)}},
     kPerTensor,
     kPerTensor,
     0.25f},
    {"ct_channel",
     "compressed_tensors",
     kCtChannel.c_str(),
     {{"a.weight_scale", filled(DType::kBF16, {192, 1}, 0.5f)}},
     kPerRow,
     kPerRow,
     {}},
    {"ct_block",
     "compressed_tensors",
     kCtBlock.c_str(),
     {{"a.weight_scale", filled(DType::kF32, {2, 3}, 0.5f)}},
     kBlock128,
     kGroup128,
     {}},
    {"ct_weight_only",
     "compressed_tensors",
     kCtWeightOnly.c_str(),
     {{"a.weight_scale", filled(DType::kF16, {192, 1}, 0.5f)}},
     kPerRow,
     {},
     {}},
    {"ct_mxfp8",
     "compressed_tensors",
     kCtMx.c_str(),
     {{"a.weight_scale", filled(DType::kU8, {192, 10}, 126)}},
     kMx32,
     {},
     {},
     DType::kE8M0},
    {"ct_preset",
     "compressed_tensors",
     R"({"quant_method": "compressed-tensors", "config_groups": {"FP8_DYNAMIC": ["Linear"]}})",
     {{"a.weight_scale", filled(DType::kBF16, {192, 1}, 0.5f)}},
     kPerRow,
     kPerRow,
     {}},
    {"modelopt_fp8",
     "modelopt",
     R"({"quant_method": "modelopt", "quant_algo": "FP8"})",
     {{"a.weight_scale", values(DType::kF32, {}, {0.5f})},
      {"a.input_scale", values(DType::kF32, {}, {0.25f})}},
     kPerTensor,
     kPerTensor,
     0.25f},
    {"modelopt_channel",
     "modelopt",
     R"({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"})",
     {{"a.weight_scale", filled(DType::kF32, {192}, 0.5f)}},
     kPerRow,
     kPerRow,
     {}},
    {"modelopt_block_4d",
     "modelopt",
     R"({"quant_method": "modelopt", "quant_algo": "fp8_pb_wo"})",
     {{"a.weight_scale", filled(DType::kF32, {2, 1, 3, 1}, 0.5f)}},
     kBlock128,
     {},
     {}},
    {"modelopt_mxfp8",
     "modelopt",
     R"({"quant_method": "modelopt", "quant_algo": "MXFP8"})",
     {{"a.weight_scale", filled(DType::kU8, {192, 10}, 126)}},
     kMx32,
     kMx32,
     {},
     DType::kE8M0},
    {"modelopt_mixed",
     "modelopt",
     R"({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "FP8"}}})",
     {{"a.weight_scale", values(DType::kF32, {}, {0.5f})}},
     kPerTensor,
     kPerTensor,
     {}},
    {"mxfp8",
     "mxfp8",
     kMx,
     {{"a.weight_scale_inv", filled(DType::kU8, {192, 10}, 126)}},
     kMx32,
     kMx32,
     {},
     DType::kE8M0},
    {"comfyui_old",
     "comfyui",
     "",
     {{"scaled_fp8", filled(DType::kE4M3, {2}, 0)},
      {"a.scale_weight", values(DType::kF32, {}, {0.5f})},
      {"a.scale_input", values(DType::kF32, {}, {1})}},
     kPerTensor,
     {},
     1.0f},
    {"comfyui_new",
     "comfyui",
     "",
     {{"a.comfy_quant", filled(DType::kU8, {2}, 32)}, {"a.weight_scale", values(DType::kF32, {}, {0.5f})}},
     kPerTensor,
     {},
     {}},
    {"bare_block",
     "bare",
     "",
     {{"a.weight_scale_inv", filled(DType::kF32, {2, 3}, 0.5f)}},
     kBlock128,
     {},
     {}},
    {"bare_row", "bare", "", {{"a.weight_scale", filled(DType::kF32, {192, 1}, 0.5f)}}, kPerRow, {}, {}},
};

// Every dialect arrives at the same canonical weight: scale 0.5 everywhere, bytes untouched and not copied.
TEST_P(Dialects, BecomesTheCanonicalWeight) {
  const Dialect& d = GetParam();
  std::vector<NamedTensor> tensors = d.extra;
  tensors.push_back({"a.weight", counting_weight(192, 320)});
  tensors.push_back({"a.bias", filled(DType::kBF16, {192}, 2)});
  const TempCheckpoint model(*d.config == 0 ? "" : config_with(d.config), tensors);
  const Checkpoint checkpoint = model.open();
  const Format* format = find_format(checkpoint);
  ASSERT_NE(format, nullptr);
  EXPECT_EQ(format->name, d.format);
  const Fp8Weight weight = load_weight(checkpoint, format, "a");
  EXPECT_EQ(weight.scheme.weight, (QuantKey{DType::kE4M3, d.group, ScaleSource::kStored, d.scale_dtype}));
  const Grid grid = scale_grid(d.group, 192, 320);
  EXPECT_EQ(weight.scale.shape(), (Shape{grid.rows, grid.cols}));
  EXPECT_EQ(scale_at(weight, 191, 319), 0.5f);
  ASSERT_EQ(weight.scheme.activation.has_value(), d.activation.has_value());
  if (d.activation) {
    EXPECT_EQ(weight.scheme.activation->group, *d.activation);
  }
  EXPECT_EQ(weight.input_scale, d.input_scale);
  EXPECT_EQ(weight.data.data(), checkpoint.tensor("a.weight").data()) << "the weight was copied";
  EXPECT_EQ(weight.bias.shape(), Shape{192});
  check_weight(weight);
}

INSTANTIATE_TEST_SUITE_P(All, Dialects, testing::ValuesIn(kDialects),
                         [](const auto& info) { return info.param.test_name; });

TEST(Format, StaticIsToldFromDynamic) {
  const auto source = [](const char* config, std::vector<NamedTensor> tensors) {
    tensors.push_back({"a.weight", counting_weight(4, 4)});
    tensors.push_back({"a.weight_scale", values(DType::kF32, {}, {1})});
    return load(TempCheckpoint(config_with(config), tensors)).scheme.activation->source;
  };
  const NamedTensor input{"a.input_scale", values(DType::kF32, {}, {1})};
  EXPECT_EQ(source(R"({"quant_method": "fp8", "activation_scheme": "static"})", {input}),
            ScaleSource::kStored);
  EXPECT_EQ(source(R"({"quant_method": "fp8", "activation_scheme": "dynamic"})", {}), ScaleSource::kDynamic);
  // The config promises a static scale that is not there: dynamic, never 1.
  EXPECT_EQ(source(R"({"quant_method": "fp8", "activation_scheme": "static"})", {}), ScaleSource::kDynamic);
  EXPECT_EQ(source(R"({"quant_method": "modelopt", "quant_algo": "FP8"})", {}), ScaleSource::kDynamic);
}

TEST(Format, FbgemmKeepsTheActivationBound) {
  const TempCheckpoint model(
      config_with(R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})"),
      {{"a.weight", counting_weight(2, 4)}, {"a.weight_scale", filled(DType::kF32, {2, 1}, 1)}});
  EXPECT_EQ(load(model).input_scale_ub, 1200.0f);
}

TEST(Format, ModeloptIsFoundInItsOwnFile) {
  const TempCheckpoint model(
      "{}", {{"a.weight", counting_weight(2, 4)}, {"a.weight_scale", values(DType::kF32, {}, {1})}});
  model.add_file("hf_quant_config.json",
                 R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}})");
  EXPECT_EQ(find_format(model.open())->name, "modelopt");
}

TEST(Format, E5m2WeightsLoad) {
  const TempCheckpoint model(
      config_with(R"({"quant_method": "fp8"})"),
      {{"a.weight", filled(DType::kE5M2, {2, 4}, 0x3C)}, {"a.weight_scale", values(DType::kF32, {}, {2})}});
  const Fp8Weight weight = load(model);
  EXPECT_EQ(weight.scheme.weight.dtype, DType::kE5M2);
  EXPECT_EQ(dequantize(weight, 0, 1).as<float>()[0], 2.0f);
}

TEST(Format, TheDiskDecidesNotTheSkipList) {
  const TempCheckpoint model(config_with(R"({"quant_method": "fp8", "modules_to_not_convert": ["a"]})"),
                             {{"a.weight", counting_weight(4, 4)},
                              {"a.weight_scale", values(DType::kF32, {}, {1})},
                              {"b_proj.weight", filled(DType::kBF16, {4, 4}, 1)}});
  EXPECT_TRUE(load(model).quantized());
  const Inspection report = inspect(model.open());
  ASSERT_EQ(report.anomalies.size(), 2u);
  EXPECT_SAYS(report.anomalies[0].text, "lists it as not quantised");
  EXPECT_SAYS(report.anomalies[1].text, "does not list it as skipped");
  EXPECT_TRUE(report.errors.empty());
}

TEST(Format, SixteenBitWeightsNeedNoDialect) {
  const TempCheckpoint model("{}", {{"a.weight", filled(DType::kBF16, {4, 4}, 1)}});
  EXPECT_EQ(find_format(model.open()), nullptr);
  EXPECT_FALSE(load(model).quantized());
}

TEST(FormatRefuses, WeightWithoutScaleByName) {
  const TempCheckpoint model(config_with(kBlockConfig), {{"a.weight", counting_weight(4, 4)}});
  const std::string text = refusal([&] { load(model); });
  EXPECT_SAYS(text, "a.weight: is FP8 and has no scale");
  EXPECT_SAYS(text, "a.weight_scale_inv");
  EXPECT_EQ(scale_at(load(model, {.assume_unit_scale = true}), 0, 0), 1.0f);
}

TEST(FormatRefuses, TwoScales) {
  const TempCheckpoint model(config_with(kBlockConfig),
                             {{"a.weight", counting_weight(4, 4)},
                              {"a.weight_scale_inv", filled(DType::kF32, {1, 1}, 1)},
                              {"a.weight_scale", filled(DType::kF32, {1, 1}, 1)}});
  EXPECT_SAYS(refusal([&] { load(model); }), "has 2 scales");
}

// 192 rows in blocks of 128 need 2 rows of scales; 192 / 3 = 64 must not be taken for the block's size.
TEST(FormatRefuses, GridThatDoesNotFitTheConfiguredBlock) {
  const TempCheckpoint model(
      config_with(kBlockConfig),
      {{"a.weight", counting_weight(192, 320)}, {"a.weight_scale_inv", filled(DType::kF32, {3, 5}, 1)}});
  const std::string text = refusal([&] { load(model); });
  EXPECT_SAYS(text, "is [3, 5] for a weight [192, 320]");
  EXPECT_SAYS(text, "128x128 needs [2, 3]");
}

// 192 rows would be two blocks of 96 as well as of 128: the size must come from the config.
TEST(FormatRefuses, BlocksOfASizeTheConfigDoesNotName) {
  const TempCheckpoint model(
      config_with(R"({"quant_method": "fp8"})"),
      {{"a.weight", counting_weight(192, 192)}, {"a.weight_scale_inv", filled(DType::kF32, {2, 2}, 1)}});
  EXPECT_SAYS(refusal([&] { load(model); }), "the config must name their size");
}

TEST(Format, AnActivationScaleOfZeroIsNoScale) {
  const TempCheckpoint model(config_with(R"({"quant_method": "fp8", "activation_scheme": "static"})"),
                             {{"a.weight", counting_weight(4, 4)},
                              {"a.weight_scale", values(DType::kF32, {}, {1})},
                              {"a.input_scale", values(DType::kF32, {}, {0})}});
  EXPECT_EQ(load(model).scheme.activation->source, ScaleSource::kDynamic);
  EXPECT_FALSE(load(model).input_scale);
}

TEST(FormatRefuses, ScaleThatFitsNothingWithoutAConfig) {
  const TempCheckpoint model(
      "", {{"a.weight", counting_weight(192, 320)}, {"a.weight_scale", filled(DType::kF32, {7, 1}, 1)}});
  EXPECT_SAYS(refusal([&] { load(model); }), "is [7, 1]");
}

TEST(FormatRefuses, ImpossibleScaleValues) {
  for (float bad : {-1.0f, NAN, INFINITY}) {
    const TempCheckpoint model(config_with(kBlockConfig),
                               {{"a.weight", counting_weight(192, 320)},
                                {"a.weight_scale_inv", values(DType::kF32, {2, 3}, {1, 1, 1, 1, bad, 1})}});
    const std::string text = refusal([&] { load(model); });
    EXPECT_SAYS(text, "a.weight: the scale at [1, 1] is");
  }
  const TempCheckpoint mx(config_with(kMx), {{"a.weight", counting_weight(1, 32)},
                                             {"a.weight_scale_inv", filled(DType::kU8, {1, 1}, 255)}});
  EXPECT_SAYS(refusal([&] { load(mx); }), "the scale at [0, 0] is nan");
}

TEST(FormatRefuses, U8ScalesOutsideMx) {
  const TempCheckpoint model(
      config_with(kBlockConfig),
      {{"a.weight", counting_weight(4, 4)}, {"a.weight_scale_inv", filled(DType::kU8, {1, 1}, 127)}});
  EXPECT_SAYS(refusal([&] { load(model); }), "a scale of dtype u8");
}

TEST(FormatRefuses, WhatItDoesNotKnowByName) {
  const auto sentence = [](const std::string& config) {
    const TempCheckpoint model(config_with(config), {{"a.weight", counting_weight(4, 4)},
                                                     {"a.weight_scale", values(DType::kF32, {}, {1})}});
    return refusal([&] { load(model); });
  };
  EXPECT_SAYS(sentence(R"({"quant_method": "awq"})"), "\"awq\" is none of the FP8 dialects");
  EXPECT_SAYS(sentence(R"({"quant_method": "fp8", "activation_scheme": "lazy"})"), "\"lazy\" is not known");
  EXPECT_SAYS(sentence(R"({"quant_method": "fp8", "weight_block_size": [0, 128]})"), "weight_block_size");
  EXPECT_SAYS(sentence(R"({"quant_method": "fp8", "weight_block_size": 128})"), "weight_block_size");
  EXPECT_SAYS(sentence(R"({"quant_method": 8})"), "quant_method");
  EXPECT_SAYS(sentence(R"([1])"), "must be an object");
  EXPECT_SAYS(sentence(R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})"),
              "\"NVFP4\" is not supported");
  EXPECT_SAYS(sentence(R"({"quant_method": "compressed-tensors", "format": "pack-quantized"})"),
              "\"pack-quantized\"");
  EXPECT_SAYS(sentence(ct_group(R"("strategy": "token")", "null")), "strategy \"token\"");
  EXPECT_SAYS(sentence(ct_group(R"("strategy": "tensor", "symmetric": false)", "null")), "zero point");
  EXPECT_SAYS(sentence(ct_group(R"("strategy": "tensor")",
                                R"({"num_bits": 8, "type": "float", "strategy": "channelz"})")),
              "activation strategy \"channelz\"");
  EXPECT_SAYS(
      sentence(
          R"({"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["re:("], "weights": {}}}})"),
      "regular expression");
  EXPECT_SAYS(
      sentence(
          R"({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24"}, "config_groups": {}})"),
      "sparsity_config");
  EXPECT_SAYS(sentence(R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": -1})"),
              "activation_scale_ub");
}

TEST(FormatRefuses, PreQuantScales) {
  const TempCheckpoint model(config_with(R"({"quant_method": "modelopt", "quant_algo": "FP8"})"),
                             {{"a.weight", counting_weight(4, 4)},
                              {"a.weight_scale", values(DType::kF32, {}, {1})},
                              {"a.pre_quant_scale", filled(DType::kF32, {4}, 1)}});
  EXPECT_SAYS(refusal([&] { load(model); }), "a.pre_quant_scale");
}

TEST(Inspect, NamesOrphanScalesOddTensorsAndErrors) {
  const TempCheckpoint model(config_with(kBlockConfig),
                             {{"a.weight", counting_weight(4, 4)},
                              {"b.weight_scale_inv", filled(DType::kF32, {1, 1}, 1)},
                              {"experts.gate_up", HostTensor::allocate(DType::kE4M3, {2, 3, 4})},
                              {"attn.k_scale", values(DType::kF32, {}, {1})}});
  const Inspection report = inspect(model.open());
  ASSERT_EQ(report.anomalies.size(), 3u);
  EXPECT_EQ(report.anomalies[0].tensor, "b.weight_scale_inv");
  EXPECT_EQ(report.anomalies[1].tensor, "experts.gate_up");
  EXPECT_SAYS(report.anomalies[2].text, "FP8 KV cache");
  ASSERT_EQ(report.errors.size(), 1u);
  EXPECT_SAYS(report.errors[0].text, "no scale");
}

// Patterns of a config come from an untrusted file: these backtrack for ever, or overflow the stack, in a
// matcher that is not bounded.
TEST(Inspect, HostilePatternsEndAndOnlyMakeAnomalies) {
  for (const char* pattern : {"re:(a+)+b", "re:.*.*.*.*z", "re:((((((((((a))))))))))*z"}) {
    for (const size_t length : {40u, 500u, 4080u}) {
      const std::string module(length, 'a');
      const TempCheckpoint model(
          config_with(fmt::format(R"({{"quant_method": "fp8", "modules_to_not_convert": ["{}"]}})", pattern)),
          {{module + ".weight", counting_weight(4, 4)},
           {module + ".weight_scale", values(DType::kF32, {}, {1})}});
      EXPECT_TRUE(inspect(model.open()).errors.empty());
    }
  }
}

TEST(Inspect, SkipListsThatCannotBeReadRefuseNothing) {
  const TempCheckpoint model(
      config_with(
          R"({"quant_method": "fp8", "modules_to_not_convert": ["re:(?i).*vision", "re:a{99999}", "re:("]})"),
      {{"a.weight", counting_weight(4, 4)}, {"a.weight_scale", values(DType::kF32, {}, {1})}});
  EXPECT_TRUE(load(model).quantized());
  const Inspection report = inspect(model.open());
  ASSERT_EQ(report.anomalies.size(), 3u);
  EXPECT_SAYS(report.anomalies[0].text, "(?i)");
}

TEST(Inspect, PointsOutPromisedActivationScalesThatAreMissing) {
  const TempCheckpoint model(
      config_with(R"({"quant_method": "fp8", "activation_scheme": "static"})"),
      {{"a.weight", counting_weight(4, 4)}, {"a.weight_scale", values(DType::kF32, {}, {1})}});
  const Inspection report = inspect(model.open());
  ASSERT_EQ(report.anomalies.size(), 1u);
  EXPECT_SAYS(report.anomalies[0].text, "no static activation scale");
}

// A dialect is one folder and one line: every line of the list is a format with a name of its own and a
// summary.
TEST(FormatList, EveryLineIsWhole) {
  std::vector<std::string_view> names;
  for (const Format* format : all_formats()) {
    EXPECT_FALSE(format->summary.empty());
    EXPECT_NE(format->recognises, nullptr);
    EXPECT_NE(format->layer, nullptr);
    EXPECT_EQ(std::count(names.begin(), names.end(), format->name), 0) << format->name;
    names.push_back(format->name);
  }
  EXPECT_EQ(names.size(), 7u);
}

}  // namespace
}  // namespace anyfp8
