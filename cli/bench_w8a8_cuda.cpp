#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cublaslt_fp8_cuda.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/w8a8_launch.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/w8a8_parts.h"
#include "anyfp8/linear/cuda_weight.h"
#include "cli/bench_cuda.h"
#include "cli/bench_graph.h"
#include "cli/bench_weights.h"

namespace anyfp8::cli {
namespace {

// Copies of a layer's weight as the kernel reads them, and memory for x as it quantises it.
struct Operands {
  Operands(const Linear& linear, const Fp8Weight& weight)
      : device(linear.device()), config(linear.config()), workspace(device) {
    const size_t copies = copies_for(device, weight.data.size_bytes());
    for (size_t i = 0; i < copies; ++i) {
      weights.push_back(std::make_unique<CudaWeight>(device, weight, Layout::kK64Shuffled, Stream{}));
    }
  }

  // x as one product reads it. Its place in `workspace` is that of the kernel.
  ActivationRows quantisation(const TensorView& x) {
    const w8a8::Scratchpad at = w8a8::scratchpad(config, x.rows);
    workspace.reserve(at.bytes);
    auto* const memory = static_cast<std::byte*>(workspace.scratch().data);
    return w8a8::quantisation(weights.front()->view(config), x, at, memory);
  }

  Device device;
  LinearConfig config;
  std::vector<std::unique_ptr<CudaWeight>> weights;
  Workspace workspace;
};

// The product alone, of activations that were quantised before.
class Fp8ProductMethod : public ProductMethod {
 public:
  explicit Fp8ProductMethod(std::shared_ptr<Operands> operands)
      : ProductMethod(operands->device, {operands->config.n, operands->config.k}),
        operands_(std::move(operands)) {
    kind = Kind::kPeer;
    name = "cublaslt-fp8";
  }

  Verdict prepare(const Activations& activations) override {
    const DeviceGuard guard(device());
    const int64_t m = activations.x.shape()[0];
    const w8a8::Parts parts =
        w8a8::parts_of(m, {shape_.n, shape_.k}, w8a8::granule_of(operands_->config), true);
    ANYFP8_NEED(parts.count == 1 && parts.rows == m, "m = {} is not one product of cuBLASLt's", m);
    ANYFP8_NEED(!w8a8::is_mx(operands_->config), "MX weights are multiplied slab by slab");
    ANYFP8_NEED(!w8a8::copies_weight_scale(operands_->config),
                "k = {}: cuBLASLt does not read the scales of the weight as they are", shape_.k);
    place(activations);
    codes_ = operands_->quantisation(x_view_);
    codes_.rows = m;
    quantize_activation(codes_, device(), stream());
    capture(operands_->weights.size());
    return Verdict::yes();
  }
  double read_bytes() const override {
    return static_cast<double>(shape_.n * shape_.k) + activation_bytes() / 2;
  }

 private:
  void queue(size_t copy) override {
    const LinearConfig& config = operands_->config;
    const PlacedWeight placed = operands_->weights[copy]->view(config);
    cublaslt_fp8_gemm(w8a8::product_of(config, config.n),
                      {.m = x_view_.rows,
                       .w = placed.data,
                       .w_scale = placed.scale,
                       .x = codes_.codes,
                       .x_scale = codes_.scales,
                       .y = y_view_.data,
                       .y_stride = y_view_.row_stride,
                       .bias = codes_.extras.rounded_bias},
                      {operands_->workspace.scratch().data, kCublasBytes}, stream());
  }

  std::shared_ptr<Operands> operands_;
  ActivationRows codes_;
};

// Quantising x alone, or a copy that reads and writes as many bytes together.
class QuantiseMethod : public ProductMethod {
 public:
  QuantiseMethod(std::shared_ptr<Operands> operands, bool copies)
      : ProductMethod(operands->device, {operands->config.n, operands->config.k}),
        operands_(std::move(operands)),
        copies_(copies) {
    kind = Kind::kPart;
    name = copies ? "copy" : "quantise";
  }

  Verdict prepare(const Activations& activations) override {
    const DeviceGuard guard(device());
    const int64_t m = activations.x.shape()[0], most = w8a8::most_tokens(shape_.k);
    ANYFP8_NEED(m <= most, "m = {}: {} tokens are quantised at once", m, most);
    place(activations);
    codes_ = operands_->quantisation(x_view_);
    codes_.rows = m;
    if (copies_) copy_ = DeviceMemory(device(), copied_bytes());
    capture(1);
    return Verdict::yes();
  }
  double flops() const override { return 0; }
  // Of the two directions together.
  double read_bytes() const override { return static_cast<double>(2 * copied_bytes()); }

 private:
  size_t copied_bytes() const {
    const size_t x = x_.bytes(), codes = x / 2;
    return (x + codes) / 2;
  }
  void queue(size_t) override {
    if (!copies_) return quantize_activation(codes_, device(), stream());
    ANYFP8_CUDA_CHECK(cudaMemcpyAsync(copy_.data(), x_.data(), copied_bytes(), cudaMemcpyDeviceToDevice,
                                      static_cast<cudaStream_t>(stream().handle)));
  }

  std::shared_ptr<Operands> operands_;
  bool copies_;
  ActivationRows codes_;
  DeviceMemory copy_;
};

}  // namespace

BenchMethods cuda_w8a8_methods(const Linear& linear, const Fp8Weight& weight) {
  BenchMethods methods;
  const Kernel* kernel = find_kernel("cuda_cublaslt_w8a8");
  if (kernel == nullptr || !can_implement(*kernel, linear.config(), linear.device())) return methods;
  const auto operands = std::make_shared<Operands>(linear, weight);
  methods.push_back(std::make_unique<Fp8ProductMethod>(operands));
  for (const bool copies : {false, true})
    methods.push_back(std::make_unique<QuantiseMethod>(operands, copies));
  return methods;
}

}  // namespace anyfp8::cli
