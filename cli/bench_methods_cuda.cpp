#include <algorithm>
#include <utility>

#include "anyfp8/base/element.h"
#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cublaslt_gemm_cuda.h"
#include "cli/bench_cuda.h"
#include "cli/bench_graph.h"
#include "cli/bench_sum.h"
#include "cli/bench_weights.h"

namespace anyfp8::cli {
namespace {

class CudaKernelMethod : public ProductMethod {
 public:
  CudaKernelMethod(std::vector<Linear> copies, size_t weight_bytes)
      : ProductMethod(copies.front().device(), {copies.front().config().n, copies.front().config().k}),
        copies_(std::move(copies)),
        workspace_(device()),
        weight_bytes_(weight_bytes) {}

  Verdict prepare(const Activations& activations) override {
    const DeviceGuard guard(device());
    place(activations);
    name = copies_.front().selection().kernel_for(x_view_.rows).name;
    workspace_.reserve(copies_.front().workspace_bytes(x_view_.rows));
    capture(copies_.size());
    return Verdict::yes();
  }
  double read_bytes() const override { return static_cast<double>(weight_bytes_) + activation_bytes(); }

 private:
  void queue(size_t copy) override { copies_[copy].apply(x_view_, y_view_, workspace_, stream()); }

  std::vector<Linear> copies_;
  Workspace workspace_;
  size_t weight_bytes_;
};

class CublasMethod : public ProductMethod {
 public:
  explicit CublasMethod(const Linear& linear)
      : ProductMethod(linear.device(), {linear.config().n, linear.config().k}),
        dtype_(linear.config().in),
        workspace_(linear.device(), kCublasBytes) {
    kind = Kind::kPeer;
    name = fmt::format("cublaslt-{}", dtype_name(dtype_));
    const DeviceGuard guard(device());
    const size_t bytes = static_cast<size_t>(shape_.n * shape_.k) * dtype_bytes(dtype_);
    for (size_t i = 0; i < copies_for(device(), bytes); ++i) weights_.emplace_back(device(), bytes);
    constexpr int64_t kRows = 256;
    for (int64_t row = 0; row < shape_.n; row += kRows) {
      const HostTensor wide = linear.dequantize(row, std::min(row + kRows, shape_.n));
      HostTensor part = HostTensor::allocate(dtype_, wide.shape());
      for (int64_t i = 0; i < wide.size(); ++i)
        store_element(part.mutable_data(), dtype_, i, wide.as<float>()[i]);
      const size_t at = static_cast<size_t>(row * shape_.k) * dtype_bytes(dtype_);
      copy_to_device(static_cast<std::byte*>(weights_.front().data()) + at, part.data(), part.size_bytes(),
                     stream());
      synchronize(stream());
    }
    for (size_t i = 1; i < weights_.size(); ++i) {
      ANYFP8_CUDA_CHECK(cudaMemcpyAsync(weights_[i].data(), weights_.front().data(), bytes,
                                        cudaMemcpyDeviceToDevice,
                                        static_cast<cudaStream_t>(stream().handle)));
    }
    synchronize(stream());
  }

  Verdict prepare(const Activations& activations) override {
    const DeviceGuard guard(device());
    place(activations);
    try {
      capture(weights_.size());
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      return Verdict::no(error.what());
    }
    return Verdict::yes();
  }
  double read_bytes() const override {
    return static_cast<double>(weights_.front().bytes()) + activation_bytes();
  }

 private:
  void queue(size_t copy) override {
    cublaslt_gemm({.m = x_view_.rows,
                   .n = shape_.n,
                   .k = shape_.k,
                   .dtype = dtype_,
                   .out = dtype_,
                   .x = x_.data(),
                   .x_stride = shape_.k,
                   .w = weights_[copy].data(),
                   .w_stride = shape_.k,
                   .y = y_.data(),
                   .y_stride = shape_.n},
                  {workspace_.data(), workspace_.bytes()}, stream());
  }

  DType dtype_;
  DeviceMemory workspace_;
  std::vector<DeviceMemory> weights_;
};

// A limit of the card: the same work whatever the tokens.
class LimitMethod : public GraphMethod {
 public:
  using GraphMethod::GraphMethod;
  Verdict prepare(const Activations&) override {
    if (!captured_) capture(1);
    captured_ = true;
    return Verdict::yes();
  }

 private:
  bool captured_ = false;
};

class CudaReadMethod : public LimitMethod {
 public:
  explicit CudaReadMethod(const Device& device)
      : LimitMethod(device), memory_(device, kBytes), sum_(device, sizeof(uint32_t)) {
    kind = Kind::kRead;
    name = "read";
    const DeviceGuard guard(device);
    fill_on_device(memory_.data(), 1, kBytes, stream());
  }
  double read_bytes() const override { return static_cast<double>(kBytes); }

 private:
  static constexpr size_t kBytes = size_t{2} << 30;  // what an L2 of 60 MB keeps of the replay before is 3 %
  void queue(size_t) override {
    queue_sum(memory_.data(), kBytes, static_cast<uint32_t*>(sum_.data()), device().sm_count, stream());
  }
  DeviceMemory memory_, sum_;
};

class CudaPeakMethod : public LimitMethod {
 public:
  CudaPeakMethod(const Device& device, DType dtype)
      : LimitMethod(device),
        dtype_(dtype),
        x_(device, kBytes),
        w_(device, kBytes),
        y_(device, kBytes),
        workspace_(device, kCublasBytes) {
    kind = Kind::kPeak;
    name = fmt::format("cublaslt-{} of {}", dtype_name(dtype), kSize);
    const DeviceGuard guard(device);
    // A few random rows again and again: with constant operands the card would clock higher.
    constexpr int64_t kRows = 64;
    const HostTensor rows = random_activations(kRows, kSize, dtype, dtype).x;
    for (const DeviceMemory* operand : {&x_, &w_}) {
      for (size_t at = 0; at < kBytes; at += rows.size_bytes())
        copy_to_device(static_cast<std::byte*>(operand->data()) + at, rows.data(), rows.size_bytes(),
                       stream());
    }
    synchronize(stream());
  }
  double flops() const override { return 2.0 * kSize * kSize * kSize; }

 private:
  static constexpr int64_t kSize = 8192;
  static constexpr size_t kBytes = size_t{kSize} * kSize * 2;
  void queue(size_t) override {
    cublaslt_gemm({.m = kSize,
                   .n = kSize,
                   .k = kSize,
                   .dtype = dtype_,
                   .out = dtype_,
                   .x = x_.data(),
                   .x_stride = kSize,
                   .w = w_.data(),
                   .w_stride = kSize,
                   .y = y_.data(),
                   .y_stride = kSize},
                  {workspace_.data(), workspace_.bytes()}, stream());
  }
  DType dtype_;
  DeviceMemory x_, w_, y_, workspace_;
};

}  // namespace

std::unique_ptr<BenchMethod> cuda_kernel_method(std::vector<Linear> copies, size_t weight_bytes) {
  return std::make_unique<CudaKernelMethod>(std::move(copies), weight_bytes);
}

BenchMethods cuda_peer_methods(const Linear& linear, const Fp8Weight& weight) {
  BenchMethods methods = cuda_w8a8_methods(linear, weight);
  // Rounding f32 activations would be another task.
  if (linear.config().in != DType::kF32) methods.push_back(std::make_unique<CublasMethod>(linear));
  return methods;
}

std::string cuda_peers_text() { return cublaslt_version(); }

std::unique_ptr<BenchMethod> cuda_read_method(const Device& device) {
  return std::make_unique<CudaReadMethod>(device);
}

std::unique_ptr<BenchMethod> cuda_peak_method(const Device& device, DType activations) {
  return std::make_unique<CudaPeakMethod>(device, activations);
}

}  // namespace anyfp8::cli
