#include "cli/bench_weights.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "anyfp8/base/element.h"
#include "anyfp8/base/threads.h"

namespace anyfp8::cli {
namespace {

uint64_t next_random(
    uint64_t& state) {  // xorshift64: fills gigabytes quickly, nothing depends on its quality
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

HostTensor random_codes(MatrixShape shape, DType dtype) {
  uint64_t state = 88172645463325252u;
  HostTensor tensor = allocate_spread(dtype, {shape.n, shape.k});
  const int64_t count = tensor.size();
  if (dtype == DType::kE4M3) {
    auto* codes = reinterpret_cast<uint8_t*>(tensor.mutable_data());
    for (int64_t i = 0; i < count; ++i) {
      const auto code = static_cast<uint8_t>(next_random(state) >> 32);
      codes[i] = (code & 0x7Fu) == 0x7Fu ? code ^ 1u : code;  // no NaN
    }
    return tensor;
  }
  auto* codes = reinterpret_cast<uint16_t*>(tensor.mutable_data());
  const uint16_t one = dtype == DType::kBF16 ? 0x3F80 : 0x3C00;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = next_random(state);
    codes[i] = static_cast<uint16_t>((one + (bits & 0x7Fu)) | (bits & 0x8000u));
  }
  return tensor;
}

// Of all the last caches together. As the kernel says it: sysconf() gave ten times as much in a virtual
// machine.
size_t read_l3_bytes() {
  std::map<std::string, size_t> kib_by_cpus;
  std::error_code none;  // where there is no such folder
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/cpu", none)) {
    const std::filesystem::path cache = entry.path() / "cache" / "index3";  // of a CPU that is not offline
    std::ifstream cpus(cache / "shared_cpu_list"), size(cache / "size");    // "0-7", "32768K"
    std::string shared;
    size_t kib = 0;
    if (cpus >> shared && size >> kib) kib_by_cpus[shared] = kib;
  }
  size_t bytes = 0;
  for (const auto& [cpus, kib] : kib_by_cpus) bytes += kib << 10;
  return bytes;
}

constexpr size_t kTimesCache = 4;

size_t copies_to_fill(size_t bytes, size_t weight_bytes) {
  constexpr size_t kSmallBytes = size_t{1} << 20, kMostOfSmall = 64;
  const size_t copies = std::max<size_t>((bytes + weight_bytes - 1) / weight_bytes, 2);
  return weight_bytes < kSmallBytes ? std::min(copies, kMostOfSmall) : copies;
}

}  // namespace

size_t copies_for(size_t weight_bytes) {
  constexpr size_t kLeastL3Bytes = size_t{32} << 20;  // virtual machines often report none
  static const size_t l3_bytes = std::max(read_l3_bytes(), kLeastL3Bytes);
  return copies_to_fill(kTimesCache * l3_bytes, weight_bytes);
}

size_t copies_for(const Device& device, size_t weight_bytes) {
  if (device.kind == DeviceKind::kCpu) return copies_for(weight_bytes);
  constexpr size_t kLeastBytes = 400'000'000;  // several times any L2 whose size is not known
  return copies_to_fill(std::max(kTimesCache * device.l2_bytes, kLeastBytes), weight_bytes);
}

HostTensor allocate_spread(DType dtype, Shape shape) {
  HostTensor tensor = HostTensor::allocate(dtype, std::move(shape));
  std::byte* const data = tensor.mutable_data();
  const auto bytes = static_cast<int64_t>(tensor.size_bytes());
  const int threads = num_threads();
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    const auto [begin, end] = static_split(bytes, 4096, part, threads);
    std::memset(data + begin, 1, static_cast<size_t>(end - begin));
  }
  return tensor;
}

namespace {

// The scheme of the weight, and how activations are quantised.
struct QuantisedScheme {
  const char *name, *weight;
  Group activation;
  ScaleSource source;
};
constexpr QuantisedScheme kQuantisedSchemes[] = {
    {"w8a8-static", "tensor", kPerTensor, ScaleSource::kStored},
    {"w8a8-tensor", "tensor", kPerTensor, ScaleSource::kDynamic},
    {"w8a8-channel", "channel", kPerRow, ScaleSource::kDynamic},
    {"w8a8-block", "block", kGroup128, ScaleSource::kDynamic},
};

const QuantisedScheme* find_quantised(const std::string& scheme) {
  const auto* found = std::find_if(std::begin(kQuantisedSchemes), std::end(kQuantisedSchemes),
                                   [&](const QuantisedScheme& one) { return scheme == one.name; });
  return found == std::end(kQuantisedSchemes) ? nullptr : found;
}

}  // namespace

bool quantises_activations(const std::string& scheme) { return find_quantised(scheme) != nullptr; }

const std::vector<std::string>& scheme_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list{"tensor", "channel", "block", "mxfp8", "bf16", "f16"};
    for (const QuantisedScheme& quantised : kQuantisedSchemes) list.emplace_back(quantised.name);
    return list;
  }();
  return names;
}

Fp8Weight random_weight(MatrixShape shape, const std::string& scheme) {
  if (const QuantisedScheme* quantised = find_quantised(scheme)) {
    Fp8Weight weight = random_weight(shape, quantised->weight);
    weight.scheme.activation = QuantKey{.group = quantised->activation, .source = quantised->source};
    // random_activations() are below 1.
    if (quantised->source == ScaleSource::kStored) weight.input_scale = 1.0F / 448;
    return weight;
  }
  Fp8Weight weight;
  const bool wide = scheme == "bf16" || scheme == "f16";
  const DType dtype = scheme == "bf16" ? DType::kBF16 : scheme == "f16" ? DType::kF16 : DType::kE4M3;
  weight.scheme.weight = {.dtype = dtype};
  if (!wide) {
    const Group group = scheme == "tensor"    ? kPerTensor
                        : scheme == "channel" ? kPerRow
                        : scheme == "block"   ? kBlock128
                                              : kMx32;
    const DType scale_dtype = group == kMx32 ? DType::kE8M0 : DType::kF32;
    weight.scheme.weight = {.dtype = dtype, .group = group, .scale_dtype = scale_dtype};
    const Grid grid = scale_grid(group, shape.n, shape.k);
    weight.scale = HostTensor::allocate(scale_dtype, {grid.rows, grid.cols});
    // Of a checkpoint's size, and different: kernels may have less to do where neighbours are equal.
    std::minstd_rand random(1);
    if (group == kMx32) {
      std::uniform_int_distribution<int> codes(118, 121);
      std::generate_n(weight.scale.mutable_data(), weight.scale.size(),
                      [&] { return static_cast<std::byte>(codes(random)); });
    } else {
      std::uniform_real_distribution<float> scales(0x1p-8f, 0x1p-6f);
      std::generate_n(reinterpret_cast<float*>(weight.scale.mutable_data()), weight.scale.size(),
                      [&] { return scales(random); });
    }
  }
  weight.data = random_codes(shape, dtype);
  return weight;
}

std::vector<Fp8Weight> copies_of(Fp8Weight weight, const Device& device) {
  const size_t count = copies_for(device, weight.data.size_bytes());
  if (device.kind != DeviceKind::kCpu) return std::vector<Fp8Weight>(count, weight);
  std::vector<Fp8Weight> weights{weight};
  while (weights.size() < count) {
    weight.data = allocate_spread(weight.data.dtype(), weight.data.shape());
    std::memcpy(weight.data.mutable_data(), weights.front().data.data(), weight.data.size_bytes());
    weights.push_back(weight);
  }
  return weights;
}

Activations random_activations(int64_t m, int64_t k, DType in, DType out) {
  Activations result{HostTensor::allocate(in, {m, k}), HostTensor::allocate(DType::kF32, {m, k}),
                     HostTensor::allocate(DType::kBF16, {m, k}), out};
  uint64_t state = 0x9E3779B97F4A7C15u;
  for (int64_t i = 0; i < m * k; ++i) {
    // 7 random bits in [-1, 1): the same value in every type.
    const float value = static_cast<float>(next_random(state) >> 57) / 64.0F - 1;
    store_element(result.x.mutable_data(), in, i, value);
    store_element(result.x_f32.mutable_data(), DType::kF32, i, value);
    store_element(result.x_bf16.mutable_data(), DType::kBF16, i, value);
  }
  return result;
}

}  // namespace anyfp8::cli
