#include "anyfp8/c_api.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyfp8/c_api_arguments.h"

namespace anyfp8 {
namespace {

// The numbers of c_api.h are fixed for ever; these tie them to the C++ enumerators, which may move.
static_assert(ANYFP8_INVALID_ARGUMENT == 1 + static_cast<int>(ErrorCode::kInvalidArgument));
static_assert(ANYFP8_NOT_FOUND == 1 + static_cast<int>(ErrorCode::kNotFound));
static_assert(ANYFP8_INVALID_FILE == 1 + static_cast<int>(ErrorCode::kInvalidFile));
static_assert(ANYFP8_UNSUPPORTED == 1 + static_cast<int>(ErrorCode::kUnsupported));
static_assert(ANYFP8_IO == 1 + static_cast<int>(ErrorCode::kIo));
static_assert(ANYFP8_CUDA_ERROR == 1 + static_cast<int>(ErrorCode::kCuda));
static_assert(ANYFP8_INTERNAL == 1 + static_cast<int>(ErrorCode::kInternal));
static_assert(ANYFP8_F64 == 1 + static_cast<int>(DType::kF64));
static_assert(ANYFP8_F32 == 1 + static_cast<int>(DType::kF32));
static_assert(ANYFP8_F16 == 1 + static_cast<int>(DType::kF16));
static_assert(ANYFP8_BF16 == 1 + static_cast<int>(DType::kBF16));
static_assert(ANYFP8_E4M3 == 1 + static_cast<int>(DType::kE4M3));
static_assert(ANYFP8_E5M2 == 1 + static_cast<int>(DType::kE5M2));
static_assert(ANYFP8_E8M0 == 1 + static_cast<int>(DType::kE8M0));
static_assert(ANYFP8_POLICY_ACCURACY == 1 + static_cast<int>(Policy::kAccuracy));
static_assert(ANYFP8_POLICY_SPEED == 1 + static_cast<int>(Policy::kSpeed));
static_assert(ANYFP8_POLICY_INVARIANT == 1 + static_cast<int>(Policy::kInvariant));

// The size of anyfp8_layer as it was first published. The smallest that a caller can have.
constexpr size_t kFirstLayerBytes = 64;

void check_extents(int64_t n, int64_t k) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();  // n * k of 4 bytes each fits a size_t
  if (n < 1 || k < 1 || n > kMax || k > kMax) {
    throw fail(ErrorCode::kInvalidArgument, "n = {} and k = {}: both must be from 1 to {}", n, k, kMax);
  }
}

QuantScheme scheme_from_c(const anyfp8_layer& layer) {
  check_extents(layer.n, layer.k);
  need_zero(layer.reserved, "layer.reserved");
  need_zero(layer.reserved_2, "layer.reserved_2");
  if (layer.bias_dtype != 0) dtype_from_c(layer.bias_dtype, "bias_dtype");
  if (layer.group_rows < 0 || layer.group_cols < 0 || layer.activation_rows < 0 ||
      layer.activation_cols < 0) {
    throw fail(ErrorCode::kInvalidArgument, "groups must not be negative: weight {} x {}, activation {} x {}",
               layer.group_rows, layer.group_cols, layer.activation_rows, layer.activation_cols);
  }
  QuantScheme scheme;
  scheme.weight.dtype = dtype_from_c(layer.weight_dtype, "weight_dtype");
  if (!is_float8(scheme.weight.dtype) && !is_float16_or_32(scheme.weight.dtype)) {
    throw fail(ErrorCode::kInvalidArgument, "weight_dtype is {}; weights are e4m3, e5m2, bf16, f16 or f32",
               dtype_name(scheme.weight.dtype));
  }
  scheme.weight.group = {layer.group_rows, layer.group_cols};
  scheme.weight.scale_dtype = dtype_or(layer.scale_dtype, DType::kF32, "scale_dtype");
  if (scheme.weight.scale_dtype != DType::kF32 && scheme.weight.scale_dtype != DType::kE8M0) {
    throw fail(ErrorCode::kInvalidArgument, "scale_dtype is {}; scales are f32 or e8m0",
               dtype_name(scheme.weight.scale_dtype));
  }
  if (layer.activation < 0 || layer.activation > 2) {
    throw fail(ErrorCode::kInvalidArgument,
               "activation = {}; 0 is none, 1 a stored scale, 2 scales at run time", layer.activation);
  }
  if (layer.activation == 0) {
    need_zero(layer.activation_rows, "activation_rows without an activation");
    need_zero(layer.activation_cols, "activation_cols without an activation");
  } else {
    scheme.activation =
        QuantKey{.dtype = DType::kE4M3,
                 .group = {layer.activation_rows, layer.activation_cols},
                 .source = layer.activation == 1 ? ScaleSource::kStored : ScaleSource::kDynamic};
  }
  return scheme;
}

Selection select_from_c(const anyfp8_device* device, const anyfp8_layer* given,
                        const anyfp8_linear_options* options) {
  const anyfp8_layer layer = read_struct(given, kFirstLayerBytes, "layer");
  const CreateOptions create = options_from_c(options);
  const LinearConfig config{.n = layer.n,
                            .k = layer.k,
                            .scheme = scheme_from_c(layer),
                            .in = create.linear.in,
                            .out = create.linear.out,
                            .bias = layer.bias_dtype != 0,
                            .policy = create.linear.policy.value_or(default_policy(scheme_from_c(layer)))};
  return select_kernel(need(device, "device").value, config, create.select);
}

// A tensor over the caller's memory, which the caller keeps.
HostTensor borrow(DType dtype, Shape shape, const void* data, std::string_view name) {
  if (reinterpret_cast<uintptr_t>(data) % dtype_bytes(dtype) != 0) {
    throw fail(ErrorCode::kInvalidArgument,
               "`{}` begins at an address that is not a multiple of {} bytes, as {} needs", name,
               dtype_bytes(dtype), dtype_name(dtype));
  }
  return HostTensor::borrow(dtype, std::move(shape), &need(static_cast<const char*>(data), name), nullptr);
}

void need_null_unless(bool wanted, const void* argument, std::string_view name, std::string_view when) {
  if (wanted == (argument != nullptr)) return;
  throw fail(ErrorCode::kInvalidArgument, "the argument `{}` is {}NULL, but the layer {}", name,
             wanted ? "" : "not ", when);
}

Fp8Weight borrow_weight(const anyfp8_layer& layer, const void* data, const void* scale, const void* bias,
                        const float* input_scale) {
  Fp8Weight weight;
  weight.scheme = scheme_from_c(layer);
  const QuantKey& key = weight.scheme.weight;
  weight.data = borrow(key.dtype, {layer.n, layer.k}, data, "data");
  need_null_unless(weight.quantized(), scale, "scale",
                   weight.quantized() ? "is quantised" : "is not quantised");
  if (scale != nullptr) {
    const Grid grid = scale_grid(key.group, layer.n, layer.k);
    weight.scale = borrow(key.scale_dtype, {grid.rows, grid.cols}, scale, "scale");
  }
  const bool has_bias = layer.bias_dtype != 0;
  need_null_unless(has_bias, bias, "bias", has_bias ? "has a bias_dtype" : "has no bias_dtype");
  if (has_bias) weight.bias = borrow(dtype_from_c(layer.bias_dtype, "bias_dtype"), {layer.n}, bias, "bias");
  if (input_scale != nullptr) weight.input_scale = *input_scale;
  if (layer.input_scale_ub != 0) weight.input_scale_ub = layer.input_scale_ub;
  check_weight(weight);
  return weight;
}

// Source is Fp8Weight or Linear: dequantize(begin, end) of it into the caller's floats.
template <typename Dequantize>
void dequantize_into(int64_t k, int64_t row_begin, int64_t row_end, float* rows, size_t row_count,
                     const Dequantize& dequantize) {
  // Before any work; dequantize() itself refuses rows that do not exist.
  const int64_t needed = std::max<int64_t>(0, row_end - row_begin) * k;
  if (row_count < static_cast<size_t>(needed)) {
    throw fail(ErrorCode::kInvalidArgument,
               "`rows` has room for {} floats; rows [{}, {}) of {} columns need {}", row_count, row_begin,
               row_end, k, needed);
  }
  const HostTensor result = dequantize(row_begin, row_end);
  if (result.size() > 0) std::memcpy(&need(rows, "rows"), result.data(), result.size_bytes());
}

// What the functions that apply a layer are given.
struct Matrices {
  const Linear& layer;
  TensorView x, y;
};
Matrices matrices(const anyfp8_linear* linear, const void* x, int64_t x_row_stride, void* y,
                  int64_t y_row_stride, int64_t m) {
  const Linear& layer = need(linear, "linear").value;
  const LinearConfig& config = layer.config();
  if (m != 0) {
    need(static_cast<const char*>(x), "x");
    need(static_cast<char*>(y), "y");
  }
  // The view of x is of memory that apply() only reads.
  return {layer,
          {const_cast<void*>(x), config.in, m, config.k, x_row_stride},
          {y, config.out, m, config.n, y_row_stride}};
}

// The result pair of a function that shows a tensor's bytes.
template <typename Find>
void give_bytes(const void** data, size_t* bytes, const Find& find) {
  need(data, "data") = nullptr;
  need(bytes, "bytes") = 0;
  const HostTensor tensor = find();
  if (!tensor.defined()) return;
  *data = tensor.data();
  *bytes = tensor.size_bytes();
}

}  // namespace
}  // namespace anyfp8

using namespace anyfp8;

int anyfp8_abi_version(void) { return ANYFP8_ABI_VERSION; }
const char* anyfp8_version(void) { return ANYFP8_VERSION; }
const char* anyfp8_last_error(void) { return last_error().c_str(); }
void anyfp8_string_free(char* text) { std::free(text); }

int anyfp8_set_num_threads(int count) {
  return guarded([&] { set_num_threads(count); });
}

int anyfp8_set_log_callback(anyfp8_log_callback callback, void* user) {
  return guarded([&] {
    if (callback == nullptr) return set_log_sink({});
    set_log_sink([callback, user](LogLevel level, std::string_view text) {
      callback(static_cast<int>(level), std::string(text).c_str(), user);
    });
  });
}

int anyfp8_load_plugin(const char* path) {
  return guarded([&] { load_plugin(&need(path, "path")); });
}

int anyfp8_kernels_json(char** json) {
  return give(json, "json", [&] { return new_json(kernels_json()); });
}

int anyfp8_device_count(int* count) {
  return guarded([&] { need(count, "count") = static_cast<int>(all_devices().size()); });
}

int anyfp8_device_open(const char* name, anyfp8_device** device) {
  return give(device, "device", [&] { return new anyfp8_device{device_from_name(&need(name, "name"))}; });
}

int anyfp8_device_at(int index, anyfp8_device** device) {
  return give(device, "device", [&] {
    std::vector<Device> devices = all_devices();
    if (index < 0 || index >= static_cast<int>(devices.size())) {
      throw fail(ErrorCode::kNotFound, "device {} does not exist; this process has {}, counted from 0", index,
                 devices.size());
    }
    return new anyfp8_device{std::move(devices[static_cast<size_t>(index)])};
  });
}

int anyfp8_device_json(const anyfp8_device* device, char** json) {
  return give(json, "json", [&] { return new_json(device_json(need(device, "device").value)); });
}

void anyfp8_device_free(anyfp8_device* device) { delete device; }

int anyfp8_checkpoint_open(const char* path, anyfp8_checkpoint** checkpoint) {
  return give(checkpoint, "checkpoint",
              [&] { return new anyfp8_checkpoint(Checkpoint::open(&need(path, "path"))); });
}

void anyfp8_checkpoint_free(anyfp8_checkpoint* checkpoint) { delete checkpoint; }

int anyfp8_checkpoint_tensors_json(const anyfp8_checkpoint* checkpoint, char** json) {
  return give(json, "json", [&] { return new_json(tensors_json(need(checkpoint, "checkpoint").value)); });
}

int anyfp8_checkpoint_tensor(const anyfp8_checkpoint* checkpoint, const char* name, const void** data,
                             size_t* bytes) {
  return guarded([&] {
    give_bytes(data, bytes, [&] { return need(checkpoint, "checkpoint").value.tensor(&need(name, "name")); });
  });
}

int anyfp8_checkpoint_format(const anyfp8_checkpoint* checkpoint, char** name) {
  return give(name, "name", [&] {
    const Format* format = need(checkpoint, "checkpoint").format();
    return new_text(format == nullptr ? std::string_view() : format->name);
  });
}

int anyfp8_checkpoint_inspect_json(const anyfp8_checkpoint* checkpoint, char** json) {
  return give(json, "json", [&] {
    const Checkpoint& source = need(checkpoint, "checkpoint").value;
    return new_json(inspection_json(source, inspect(source)));
  });
}

int anyfp8_weight_load(const anyfp8_checkpoint* checkpoint, const char* module, anyfp8_weight** weight) {
  return give(weight, "weight", [&] {
    const anyfp8_checkpoint& source = need(checkpoint, "checkpoint");
    return new anyfp8_weight{load_weight(source.value, source.format(), &need(module, "module"))};
  });
}

int anyfp8_weight_borrow(const anyfp8_layer* layer, const void* data, const void* scale, const void* bias,
                         const float* input_scale, anyfp8_weight** weight) {
  return give(weight, "weight", [&] {
    return new anyfp8_weight{
        borrow_weight(read_struct(layer, kFirstLayerBytes, "layer"), data, scale, bias, input_scale)};
  });
}

int anyfp8_weight_quantize(const void* data, int32_t dtype, int64_t n, int64_t k, const char* scheme,
                           anyfp8_weight** weight) {
  return give(weight, "weight", [&] {
    check_extents(n, k);
    const DType from = dtype_from_c(dtype, "dtype");
    if (!is_float16_or_32(from)) {
      throw fail(ErrorCode::kInvalidArgument, "dtype is {}; weights are quantised from bf16, f16 or f32",
                 dtype_name(from));
    }
    const QuantizeScheme to = quantize_scheme_from_name(&need(scheme, "scheme"));
    return new anyfp8_weight{quantize(borrow(from, {n, k}, data, "data"), to)};
  });
}

int anyfp8_weight_merge(const anyfp8_weight* const* parts, size_t count, anyfp8_weight** weight) {
  return give(weight, "weight", [&] {
    need(parts, "parts");
    std::vector<Fp8Weight> weights;
    for (size_t i = 0; i < count; ++i) weights.push_back(need(parts[i], fmt::format("parts[{}]", i)).value);
    return new anyfp8_weight{merge(weights)};
  });
}

int anyfp8_weight_shape(const anyfp8_weight* weight, int64_t* n, int64_t* k) {
  return guarded([&] {
    const Fp8Weight& source = need(weight, "weight").value;
    need(n, "n") = source.n();
    need(k, "k") = source.k();
  });
}

int anyfp8_weight_json(const anyfp8_weight* weight, char** json) {
  return give(json, "json", [&] { return new_json(weight_json(need(weight, "weight").value)); });
}

int anyfp8_weight_data(const anyfp8_weight* weight, const void** data, size_t* bytes) {
  return guarded([&] { give_bytes(data, bytes, [&] { return need(weight, "weight").value.data; }); });
}

int anyfp8_weight_scale(const anyfp8_weight* weight, const void** scale, size_t* bytes) {
  return guarded([&] { give_bytes(scale, bytes, [&] { return need(weight, "weight").value.scale; }); });
}

int anyfp8_weight_bias(const anyfp8_weight* weight, const void** bias, size_t* bytes) {
  return guarded([&] { give_bytes(bias, bytes, [&] { return need(weight, "weight").value.bias; }); });
}

int anyfp8_weight_dequantize(const anyfp8_weight* weight, int64_t row_begin, int64_t row_end, float* rows,
                             size_t row_count) {
  return guarded([&] {
    const Fp8Weight& source = need(weight, "weight").value;
    dequantize_into(source.k(), row_begin, row_end, rows, row_count,
                    [&](int64_t begin, int64_t end) { return dequantize(source, begin, end); });
  });
}

void anyfp8_weight_free(anyfp8_weight* weight) { delete weight; }

int anyfp8_select_text(const anyfp8_device* device, const anyfp8_layer* layer,
                       const anyfp8_linear_options* options, char** text) {
  return give(text, "text", [&] { return new_text(select_from_c(device, layer, options).explain()); });
}

int anyfp8_select_json(const anyfp8_device* device, const anyfp8_layer* layer,
                       const anyfp8_linear_options* options, char** json) {
  return give(json, "json", [&] { return new_json(plan_json(select_from_c(device, layer, options))); });
}

int anyfp8_linear_create(const anyfp8_device* device, const anyfp8_weight* weight,
                         const anyfp8_linear_options* options, void* stream, anyfp8_linear** linear) {
  return give(linear, "linear", [&] {
    const CreateOptions create = options_from_c(options);
    return new anyfp8_linear{Linear::create(need(device, "device").value, need(weight, "weight").value,
                                            create.linear, create.select, Stream{stream})};
  });
}

void anyfp8_linear_free(anyfp8_linear* linear) { delete linear; }

int anyfp8_linear_apply(const anyfp8_linear* linear, const void* x, int64_t x_row_stride, void* y,
                        int64_t y_row_stride, int64_t m, anyfp8_workspace* workspace, void* stream) {
  return guarded([&] {
    const Matrices of = matrices(linear, x, x_row_stride, y, y_row_stride, m);
    of.layer.apply(of.x, of.y, need(workspace, "workspace").value, Stream{stream});
  });
}

int anyfp8_linear_apply_with(const anyfp8_linear* linear, const void* x, int64_t x_row_stride, void* y,
                             int64_t y_row_stride, int64_t m, void* scratch, size_t scratch_bytes,
                             void* stream) {
  return guarded([&] {
    const Matrices of = matrices(linear, x, x_row_stride, y, y_row_stride, m);
    of.layer.apply(of.x, of.y, Scratch{scratch, scratch_bytes}, Stream{stream});
  });
}

int anyfp8_linear_workspace_bytes(const anyfp8_linear* linear, int64_t max_m, size_t* bytes) {
  return guarded([&] { need(bytes, "bytes") = need(linear, "linear").value.workspace_bytes(max_m); });
}

int anyfp8_linear_update_weights(anyfp8_linear* linear, const anyfp8_weight* weight, void* stream) {
  return guarded(
      [&] { need(linear, "linear").value.update_weights(need(weight, "weight").value, Stream{stream}); });
}

int anyfp8_linear_dequantize(const anyfp8_linear* linear, int64_t row_begin, int64_t row_end, float* rows,
                             size_t row_count) {
  return guarded([&] {
    const Linear& layer = need(linear, "linear").value;
    dequantize_into(layer.config().k, row_begin, row_end, rows, row_count,
                    [&](int64_t begin, int64_t end) { return layer.dequantize(begin, end); });
  });
}

int anyfp8_linear_weight(const anyfp8_linear* linear, anyfp8_weight** weight) {
  return give(weight, "weight", [&] { return new anyfp8_weight{need(linear, "linear").value.weight()}; });
}

int anyfp8_linear_explain(const anyfp8_linear* linear, char** text) {
  return give(text, "text", [&] { return new_text(need(linear, "linear").value.selection().explain()); });
}

int anyfp8_linear_plan_json(const anyfp8_linear* linear, char** json) {
  return give(json, "json", [&] { return new_json(plan_json(need(linear, "linear").value.selection())); });
}

int anyfp8_linear_resident_bytes(const anyfp8_linear* linear, size_t* bytes) {
  return guarded([&] { need(bytes, "bytes") = need(linear, "linear").value.resident_bytes(); });
}

int anyfp8_workspace_create(const anyfp8_device* device, anyfp8_workspace** workspace) {
  return give(workspace, "workspace",
              [&] { return new anyfp8_workspace{Workspace(need(device, "device").value)}; });
}

int anyfp8_workspace_reserve(anyfp8_workspace* workspace, size_t bytes) {
  return guarded([&] { need(workspace, "workspace").value.reserve(bytes); });
}

int anyfp8_workspace_bytes(const anyfp8_workspace* workspace, size_t* bytes) {
  return guarded([&] { need(bytes, "bytes") = need(workspace, "workspace").value.bytes(); });
}

void anyfp8_workspace_free(anyfp8_workspace* workspace) { delete workspace; }
