#include "cli/bench_kernel.h"

#include <utility>

#include "cli/bench_cuda.h"

namespace anyfp8::cli {
namespace {

class KernelMethod : public BenchMethod {
 public:
  KernelMethod(std::vector<Linear> copies, size_t weight_bytes)
      : copies_(std::move(copies)), workspace_(copies_.front().device()), weight_bytes_(weight_bytes) {}

  Verdict prepare(const Activations& activations) override {
    const LinearConfig& config = copies_.front().config();
    const int64_t m = activations.x.shape()[0];
    name = copies_.front().selection().kernel_for(m).name;
    x_ = activations.x;
    y_ = HostTensor::allocate(activations.out, {m, config.n});
    x_view_ = {const_cast<std::byte*>(x_.data()), x_.dtype(), m, config.k, config.k};
    y_view_ = {y_.mutable_data(), y_.dtype(), m, config.n, config.n};
    workspace_.reserve(copies_.front().workspace_bytes(m));
    return Verdict::yes();
  }
  void run(size_t turn) override { copies_[turn % copies_.size()].apply(x_view_, y_view_, workspace_); }
  HostTensor result() const override { return y_; }
  double flops() const override {
    return 2.0 * static_cast<double>(y_.size()) * static_cast<double>(copies_.front().config().k);
  }
  double read_bytes() const override { return static_cast<double>(weight_bytes_); }

 private:
  std::vector<Linear> copies_;
  Workspace workspace_;
  size_t weight_bytes_;
  HostTensor x_, y_;
  TensorView x_view_, y_view_;
};

}  // namespace

std::unique_ptr<BenchMethod> kernel_method(std::vector<Linear> copies, size_t weight_bytes) {
  if (copies.front().device().kind == DeviceKind::kCuda)
    return cuda_kernel_method(std::move(copies), weight_bytes);
  return std::make_unique<KernelMethod>(std::move(copies), weight_bytes);
}

}  // namespace anyfp8::cli
