// The C++ API from outside the tree: quantise a small weight, choose a kernel, multiply.
#include <anyfp8/anyfp8.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

int main() {
  using namespace anyfp8;
  const int64_t n = 3, k = 8;
  HostTensor wide = HostTensor::allocate(DType::kF32, {n, k});
  std::vector<float> w(n * k);
  for (int64_t i = 0; i < n * k; ++i) w[i] = static_cast<float>(i % 7) - 3;
  std::memcpy(wide.mutable_data(), w.data(), wide.size_bytes());

  const Device cpu = cpu_device();
  const Linear layer =
      Linear::create(cpu, quantize(wide, QuantizeScheme::kChannel), {DType::kF32, DType::kF32});
  std::vector<float> x(k, 1.0f), y(n);
  Workspace workspace(cpu);
  workspace.reserve(layer.workspace_bytes(1));
  layer.apply({x.data(), DType::kF32, 1, k, k}, {y.data(), DType::kF32, 1, n, n}, workspace);
  for (int64_t row = 0; row < n; ++row) {
    float exact = 0, magnitude = 0;
    for (int64_t c = 0; c < k; ++c) exact += w[row * k + c], magnitude += std::fabs(w[row * k + c]);
    // e4m3 keeps 4 bits: each product is off by at most 2^-4 of itself.
    if (std::fabs(y[row] - exact) > magnitude / 16) {
      std::fprintf(stderr, "y[%d] = %g, expected %g\n", static_cast<int>(row), y[row], exact);
      return 1;
    }
  }

  // The library's one exception has to be caught by its type across the border of the shared object.
  try {
    device_from_name("no such device");
  } catch (const Error& e) {
    std::puts(layer.selection().explain().c_str());
    return e.code() == ErrorCode::kInvalidArgument ? 0 : 1;
  }
  return 1;
}
