#include "cli/verify_layer.h"

#include <algorithm>
#include <exception>
#include <random>
#include <utility>

#include "anyfp8/base/element.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/kernels/common/round_activations.h"

namespace anyfp8::cli {
namespace {

constexpr int kMostTokens = kVerifiedTokens.back();
constexpr int64_t kRowsAtOnce = 16, kSampledPieces = 16;

// [k, 64]: the sums run over tokens side by side.
using Columns = std::vector<double>;

float element(const HostTensor& tensor, int64_t index) {
  return load_element(tensor.data(), tensor.dtype(), index);
}

TensorView view_of(const HostTensor& matrix, int64_t rows) {
  const int64_t cols = matrix.shape()[1];
  return {const_cast<std::byte*>(matrix.data()), matrix.dtype(), rows, cols, cols};
}

// x [64, k], the same for every layer of that k.
HostTensor activations_of(ActivationKind kind, int64_t k, DType dtype) {
  constexpr int64_t kOneIn = 100;
  constexpr float kTimes = 64;
  HostTensor x = HostTensor::allocate(dtype, {kMostTokens, k});
  std::mt19937_64 random(20240229);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < x.size(); ++i) {
    const bool outlier = kind == ActivationKind::kOutliers && i % k % kOneIn == kOneIn / 2;
    store_element(x.mutable_data(), dtype, i, normal(random) * (outlier ? kTimes : 1));
  }
  return x;
}

Columns columns_of(const HostTensor& x) {
  const int64_t tokens = x.shape()[0], k = x.shape()[1];
  Columns columns(static_cast<size_t>(k) * kMostTokens);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < k; ++c) columns[static_cast<size_t>(c * kMostTokens + t)] = element(x, t * k + c);
  }
  return columns;
}

// The first `tokens` of x as W8A8 sees them.
Columns rounded_columns(const HostTensor& x, int64_t tokens, const ActivationQuant& quant) {
  HostTensor rounded = HostTensor::allocate(DType::kF32, {tokens, x.shape()[1]});
  round_activations(view_of(x, tokens), quant, reinterpret_cast<float*>(rounded.mutable_data()));
  return columns_of(rounded);
}

// What rows [begin, end) of W make of some x: sums and sum|x||w|, [rows, 64].
struct Product {
  std::vector<double> sum, magnitude;
  Product(const Fp8Weight& weight, const HostTensor& rows, int64_t begin, const Columns& columns) {
    const int64_t count = rows.shape()[0], k = rows.shape()[1];
    sum.resize(static_cast<size_t>(count * kMostTokens));
    magnitude.resize(sum.size());
    for (int64_t row = 0; row < count; ++row) {
      const float* w = rows.as<float>() + row * k;
      const double bias = weight.bias.defined() ? element(weight.bias, begin + row) : 0;
      std::array<double, kMostTokens> s, a;
      s.fill(bias);
      a.fill(std::fabs(bias));
      for (int64_t c = 0; c < k; ++c) {
        const double* x = columns.data() + c * kMostTokens;
        for (size_t t = 0; t < kMostTokens; ++t) {
          const double product = w[c] * x[t];
          s[t] += product;
          a[t] += std::fabs(product);
        }
      }
      std::copy(s.begin(), s.end(), sum.begin() + row * kMostTokens);
      std::copy(a.begin(), a.end(), magnitude.begin() + row * kMostTokens);
    }
  }
};

// fp32 sums of k terms in any order wander by at most about sqrt(k) roundings of 2^-24 of sum|x||w|; 3 more
// are the product's, the scale's and the bias's. FP8 tensor cores keep about 14 bits of a sum (Hopper), so
// kernels that use them have 2^-10. Then y is rounded once to its dtype.
double bound_of(const Kernel& kernel, int64_t k, DType out, double reference, double magnitude) {
  const double out_rounding = out == DType::kBF16 ? 0x1p-8 : out == DType::kF16 ? 0x1p-11 : 0x1p-24;
  double bound = (std::sqrt(static_cast<double>(k)) + 3) * 0x1p-24;
  if (kernel.activation == ActivationUse::kQuantized) bound += 0x1p-10;
  if (magnitude > 0) bound += out_rounding * std::fabs(reference) / magnitude;
  if (out == DType::kF16 && magnitude > 0) bound += 0x1p-25 / magnitude;  // f16 subnormals: an absolute step
  return bound;
}

// y [m, n] of x, whose first rows come again where m is more than it has; wherever the layer lies.
HostTensor apply_to(const Linear& linear, const HostTensor& x, int64_t m, Workspace& workspace) {
  const LinearConfig& config = linear.config();
  const int64_t have = x.shape()[0];
  const size_t row_bytes = static_cast<size_t>(config.k) * dtype_bytes(config.in);
  HostTensor tokens = HostTensor::allocate(config.in, {m, config.k});
  for (int64_t t = 0; t < m; ++t) {
    std::copy_n(x.data() + static_cast<size_t>(t % have) * row_bytes, row_bytes,
                tokens.mutable_data() + static_cast<size_t>(t) * row_bytes);
  }
  HostTensor y = HostTensor::allocate(config.out, {m, config.n});
  workspace.reserve(linear.workspace_bytes(m));
  if (linear.device().kind == DeviceKind::kCpu) {
    linear.apply(view_of(tokens, m), view_of(y, m), workspace);
    return y;
  }
  const DeviceGuard guard(linear.device());
  const DeviceMemory x_there(linear.device(), tokens.size_bytes()), y_there(linear.device(), y.size_bytes());
  copy_to_device(x_there.data(), tokens.data(), tokens.size_bytes(), {});
  linear.apply({x_there.data(), config.in, m, config.k, config.k},
               {y_there.data(), config.out, m, config.n, config.n}, workspace);
  copy_to_host(y.mutable_data(), y_there.data(), y.size_bytes(), {});
  return y;
}

// One call of the layer.
struct Call {
  int64_t m;
  const Kernel* kernel;
  HostTensor y;
  size_t reference;  // which of Case::references has its x
  bool quantized() const { return kernel->activation == ActivationUse::kQuantized; }
};

// All calls with one kind of activations, and every x that they are compared with; the first is x as it is.
struct Case {
  std::vector<Columns> references;
  std::vector<Call> calls;
  std::optional<size_t> emulated;  // the reference that stands for W8A8
};

std::vector<int64_t> token_counts(const Selection& selection) {
  std::vector<int64_t> counts(kVerifiedTokens.begin(), kVerifiedTokens.end());
  for (const RangeChoice& range : selection.ranges) {
    const bool held =
        std::any_of(counts.begin(), counts.end(), [&](int64_t m) { return range.tokens.contains(m); });
    if (!held && range.tokens.end > 1) counts.push_back(range.tokens.begin);
  }
  return counts;
}

Case make_case(ActivationKind kind, const Linear& linear, const std::optional<ActivationQuant>& quant,
               Workspace& workspace) {
  const HostTensor x = activations_of(kind, linear.config().k, linear.config().in);
  Case result;
  result.references.push_back(columns_of(x));
  std::vector<std::pair<int64_t, size_t>> rounded;  // by number of tokens
  const auto reference_of = [&](int64_t m) {
    // A dynamic scale for the whole of x is that of as many tokens as there are; others do not depend on
    // them.
    const bool depends = quant->key.group == kPerTensor && quant->key.source == ScaleSource::kDynamic;
    const int64_t tokens = depends ? std::min<int64_t>(m, kMostTokens) : kMostTokens;
    const auto known =
        std::find_if(rounded.begin(), rounded.end(), [&](const auto& r) { return r.first == tokens; });
    if (known != rounded.end()) return known->second;
    result.references.push_back(rounded_columns(x, tokens, *quant));
    return rounded.emplace_back(tokens, result.references.size() - 1).second;
  };
  for (const int64_t m : token_counts(linear.selection())) {
    const Kernel& kernel = linear.selection().kernel_for(m);
    Call call{m, &kernel, apply_to(linear, x, m, workspace), 0};
    if (call.quantized()) call.reference = reference_of(m);
    result.calls.push_back(std::move(call));
  }
  const bool seen =
      std::any_of(result.calls.begin(), result.calls.end(), [](const Call& c) { return c.quantized(); });
  if (quant && !seen) result.emulated = reference_of(kMostTokens);
  return result;
}

// What rows [begin, end) add, from one thread.
struct Piece {
  std::vector<Deviation> by_call;
  Sqnr w8a16, w8a8;
};

Piece compare_rows(const Fp8Weight& weight, const LinearConfig& config, const Case& done, int64_t begin,
                   int64_t end, bool sampled) {
  const HostTensor rows = dequantize(weight, begin, end);  // [rows, k] f32
  std::vector<std::optional<Product>> products(done.references.size());
  const auto product = [&](size_t reference) -> const Product& {
    std::optional<Product>& made = products[reference];
    if (!made) made.emplace(weight, rows, begin, done.references[reference]);
    return *made;
  };
  Piece piece;
  piece.by_call.resize(done.calls.size());
  for (size_t i = 0; i < done.calls.size(); ++i) {
    const Call& call = done.calls[i];
    const Product& reference = product(call.reference);
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t t = 0; t < call.m; ++t) {
        const auto at = static_cast<size_t>((row - begin) * kMostTokens + t % kMostTokens);
        const double found = element(call.y, t * config.n + row), size = reference.magnitude[at];
        const double off = std::fabs(found - reference.sum[at]);
        const Deviation deviation{size > 0 ? off / size : off,
                                  bound_of(*call.kernel, config.k, config.out, reference.sum[at], size), row,
                                  t, call.m};
        if (deviation.share() > piece.by_call[i].share()) piece.by_call[i] = deviation;
        if (sampled && t < kMostTokens)
          (call.quantized() ? piece.w8a8 : piece.w8a16).add(product(0).sum[at], found);
      }
    }
  }
  if (sampled && done.emulated) {
    const Product& exact = product(0);
    const Product& emulated = product(*done.emulated);
    std::byte rounded[sizeof(double)];
    for (size_t at = 0; at < exact.sum.size(); ++at) {
      store_element(rounded, config.out, 0, static_cast<float>(emulated.sum[at]));
      piece.w8a8.add(exact.sum[at], load_element(rounded, config.out, 0));
    }
  }
  return piece;
}

}  // namespace

LayerCheck verify_layer(const Fp8Weight& weight, const Linear& linear) {
  std::optional<ActivationQuant> quant = activation_quant(weight);
  if (quant && !can_quantize(*quant)) quant.reset();
  Workspace workspace(linear.device());
  const int64_t n = weight.n(), count = (n + kRowsAtOnce - 1) / kRowsAtOnce;
  const int64_t stride = std::max<int64_t>(1, count / kSampledPieces);
  LayerCheck check;
  for (const ActivationKind kind : kActivationKinds) {
    const Case done = make_case(kind, linear, quant, workspace);
    const bool normal = kind == ActivationKind::kNormal;
    std::vector<Piece> pieces(static_cast<size_t>(count));
    std::exception_ptr failure;  // must not leave the parallel region as an exception
#pragma omp parallel for schedule(dynamic) num_threads(num_threads())
    for (int64_t i = 0; i < count; ++i) {
      const bool sampled = i % stride == 0;
      if (!sampled && !normal) continue;
      try {
        const int64_t begin = i * kRowsAtOnce;
        pieces[static_cast<size_t>(i)] =
            compare_rows(weight, linear.config(), done, begin, std::min(begin + kRowsAtOnce, n), sampled);
      } catch (...) {
#pragma omp critical
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);

    Sqnr w8a16, w8a8;
    for (const Piece& piece : pieces) {
      w8a16.add(piece.w8a16);
      w8a8.add(piece.w8a8);
      for (size_t i = 0; i < piece.by_call.size(); ++i) {
        const Kernel* kernel = done.calls[i].kernel;
        auto place = std::find_if(check.kernels.begin(), check.kernels.end(),
                                  [&](const KernelCheck& k) { return k.kernel == kernel; });
        if (place == check.kernels.end()) place = check.kernels.insert(place, {kernel, {}});
        if (piece.by_call[i].share() > place->worst.share()) place->worst = piece.by_call[i];
      }
    }
    LayerAccuracy& accuracy = check.accuracy[static_cast<size_t>(kind)];
    if (w8a16.signal > 0) accuracy.w8a16 = w8a16;
    if (w8a8.signal > 0) accuracy.w8a8 = w8a8;
    check.emulated = done.emulated.has_value();
  }
  return check;
}

}  // namespace anyfp8::cli
