// One layer of a checkpoint through the C++ API:
//   apply_linear models/kjv-qwen3-fp8 model.layers.0.mlp.up_proj
#include <anyfp8/anyfp8.h>

#include <cstdio>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: apply_linear MODEL MODULE\n");
    return 2;
  }
  try {
    const anyfp8::Checkpoint checkpoint = anyfp8::Checkpoint::open(argv[1]);
    const anyfp8::Fp8Weight weight =
        anyfp8::load_weight(checkpoint, anyfp8::find_format(checkpoint), argv[2]);
    const anyfp8::Device device = anyfp8::cpu_device();
    const auto linear =
        anyfp8::Linear::create(device, weight, {.in = anyfp8::DType::kF32, .out = anyfp8::DType::kF32});
    std::puts(linear.selection().explain().c_str());

    const int64_t m = 2, n = weight.n(), k = weight.k();
    std::vector<float> x(m * k, 1.0f), y(m * n);  // [m, k], [m, n]
    anyfp8::Workspace workspace(device);
    workspace.reserve(linear.workspace_bytes(m));
    linear.apply({x.data(), anyfp8::DType::kF32, m, k, k}, {y.data(), anyfp8::DType::kF32, m, n, n},
                 workspace);
    std::printf("y[0, 0] = %g, the sum of row 0 of the weight\n", y[0]);
  } catch (const anyfp8::Error& error) {
    std::fprintf(stderr, "apply_linear: %s\n", error.what());
    return 1;
  }
}
