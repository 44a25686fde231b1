#include "cli/bench_peers.h"

#if defined(ANYFP8_HAVE_BENCH_PEERS)
#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>

#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"
#include "cli/bench_weights.h"

namespace anyfp8::cli {
namespace {

using Copies = std::vector<HostTensor>;

Copies make_copies(size_t bytes) {
  Copies copies;
  for (size_t i = 0; i < copies_for(bytes); ++i)
    copies.push_back(allocate_spread(DType::kU8, {static_cast<int64_t>(bytes)}));
  return copies;
}

// The weight as fp32, [n, k]; every peer starts from it.
struct PlainWeight {
  int64_t n, k;
  Copies copies;
};

class OpenBlasMethod : public BenchMethod {
 public:
  explicit OpenBlasMethod(std::shared_ptr<const PlainWeight> weight) : weight_(std::move(weight)) {
    kind = Kind::kPeer;
    name = "openblas-f32";
  }

  Verdict prepare(const Activations& activations) override {
    x_ = activations.x_f32;
    y_ = HostTensor::allocate(DType::kF32, {x_.shape()[0], weight_->n});
    return Verdict::yes();
  }

  void run(size_t turn) override {
    const Copies& copies = weight_->copies;
    const auto m = static_cast<int>(x_.shape()[0]), n = static_cast<int>(weight_->n),
               k = static_cast<int>(weight_->k);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, x_.as<float>(), k,
                copies[turn % copies.size()].as<float>(), k, 0, reinterpret_cast<float*>(y_.mutable_data()),
                n);
  }

  HostTensor result() const override { return y_; }
  double flops() const override {
    return 2.0 * static_cast<double>(y_.size()) * static_cast<double>(weight_->k);
  }
  double read_bytes() const override { return static_cast<double>(weight_->copies.front().size_bytes()); }

 private:
  std::shared_ptr<const PlainWeight> weight_;
  HostTensor x_, y_;
};

dnnl::matmul::primitive_desc matmul_desc(const dnnl::engine& engine, const dnnl::memory::desc& x,
                                         const dnnl::memory::desc& w, const dnnl::memory::desc& y) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, x, w, y};
#else
  return {dnnl::matmul::desc(x, w, y), engine};
#endif
}

class OneDnnMethod : public BenchMethod {
 public:
  OneDnnMethod(std::shared_ptr<const PlainWeight> weight, DType dtype)
      : weight_(std::move(weight)), dtype_(dtype), engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    kind = Kind::kPeer;
    name = dtype == DType::kBF16 ? "onednn-bf16" : "onednn-f32";
  }

  Verdict prepare(const Activations& activations) override {
    using Tag = dnnl::memory::format_tag;
    const bool bf16 = dtype_ == DType::kBF16;
    const auto type = bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    const int64_t m = activations.x.shape()[0], n = weight_->n, k = weight_->k;
    const dnnl::memory::desc x({m, k}, type, Tag::ab), y({m, n}, type, Tag::ab);
    try {
      const auto desc = matmul_desc(engine_, x, {{k, n}, type, Tag::any}, y);
      // A loop in plain C++ is no peer: hundreds of times slower.
      if (const std::string how = desc.impl_info_str(); how.find("ref") != std::string::npos)
        return Verdict::no(
            fmt::format("oneDNN has no fast {} product for this CPU, only {}", dtype_name(dtype_), how));
      matmul_ = dnnl::matmul(desc);
      pack(desc.weights_desc());
    } catch (const dnnl::error& error) {
      return Verdict::no(
          fmt::format("oneDNN has no {} product for this CPU ({})", dtype_name(dtype_), error.what()));
    }
    x_ = bf16 ? activations.x_bf16 : activations.x_f32;
    y_ = HostTensor::allocate(dtype_, {m, n});
    x_memory_ = dnnl::memory(x, engine_, const_cast<std::byte*>(x_.data()));
    y_memory_ = dnnl::memory(y, engine_, y_.mutable_data());
    return Verdict::yes();
  }

  void run(size_t turn) override {
    matmul_.execute(stream_, {{DNNL_ARG_SRC, x_memory_},
                              {DNNL_ARG_WEIGHTS, packed_[turn % packed_.size()]},
                              {DNNL_ARG_DST, y_memory_}});
    stream_.wait();
  }

  HostTensor result() const override { return y_; }
  double flops() const override {
    return 2.0 * static_cast<double>(y_.size()) * static_cast<double>(weight_->k);
  }
  double read_bytes() const override { return static_cast<double>(packed_desc_.get_size()); }

 private:
  // The layout depends on m.
  void pack(const dnnl::memory::desc& desc) {
    if (!packed_.empty() && desc == packed_desc_) return;
    packed_.clear();
    copies_.clear();
    copies_ = make_copies(desc.get_size());
    dnnl::memory plain({{weight_->k, weight_->n}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ba},
                       engine_, const_cast<std::byte*>(weight_->copies.front().data()));
    for (HostTensor& copy : copies_) {
      packed_.emplace_back(desc, engine_, copy.mutable_data());
      dnnl::reorder(plain, packed_.back()).execute(stream_, plain, packed_.back());
      stream_.wait();
    }
    packed_desc_ = desc;
  }

  std::shared_ptr<const PlainWeight> weight_;
  DType dtype_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul matmul_;
  dnnl::memory::desc packed_desc_;
  Copies copies_;
  std::vector<dnnl::memory> packed_;
  HostTensor x_, y_;
  dnnl::memory x_memory_, y_memory_;
};

}  // namespace

bool peers_built() { return true; }

std::string peers_text() {
  const dnnl_version_t* onednn = dnnl_version();
  std::string openblas = openblas_get_config();  // "OpenBLAS 0.3.21 NO_AFFINITY ..."
  openblas.resize(std::min(openblas.size(), openblas.find(' ', openblas.find(' ') + 1)));
  constexpr int kOpenMp = 2;
  return fmt::format("oneDNN {}.{}.{}, {} ({} threads)", onednn->major, onednn->minor, onednn->patch,
                     openblas, openblas_get_parallel() == kOpenMp ? "OpenMP" : "its own");
}

BenchMethods peer_methods(const Linear& linear) {
  omp_set_num_threads(num_threads());
  openblas_set_num_threads(num_threads());
  const int64_t n = linear.config().n, k = linear.config().k;
  auto plain = std::make_shared<PlainWeight>(
      PlainWeight{n, k, make_copies(static_cast<size_t>(n * k) * sizeof(float))});
  constexpr int64_t kRows = 256;
  for (int64_t row = 0; row < n; row += kRows) {
    const HostTensor part = linear.dequantize(row, std::min(row + kRows, n));
    for (HostTensor& copy : plain->copies)
      std::memcpy(copy.mutable_data() + row * k * 4, part.data(), part.size_bytes());
  }
  BenchMethods methods;
  // Rounding x to bf16 would be another task.
  if (linear.config().in == DType::kBF16)
    methods.push_back(std::make_unique<OneDnnMethod>(plain, DType::kBF16));
  methods.push_back(std::make_unique<OneDnnMethod>(plain, DType::kF32));
  methods.push_back(std::make_unique<OpenBlasMethod>(plain));
  return methods;
}

}  // namespace anyfp8::cli
#else
namespace anyfp8::cli {

bool peers_built() { return false; }
std::string peers_text() { return {}; }
BenchMethods peer_methods(const Linear&) { return {}; }

}  // namespace anyfp8::cli
#endif
