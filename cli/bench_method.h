#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "anyfp8/base/tensor.h"
#include "anyfp8/base/verdict.h"

namespace anyfp8::cli {

struct MatrixShape {
  int64_t n, k;
  bool operator==(const MatrixShape&) const = default;
};

// The same random tokens for every method, in each type that one takes.
struct Activations {
  HostTensor x;      // [m, k], of the type that was asked for
  HostTensor x_f32;  // the same values
  HostTensor x_bf16;
  DType out;  // of y
};

// What can be timed: one of anyfp8's kernels, a peer, a part of a kernel's work, or a limit of the machine.
// It owns so many copies of its weight that one has left every cache when its turn comes again.
class BenchMethod {
 public:
  enum class Kind { kKernel, kPeer, kPart, kRead, kPeak };
  virtual ~BenchMethod() = default;

  // For the tokens that are measured next; they outlive the calls. No: this row cannot be measured, and why.
  virtual Verdict prepare(const Activations& activations) = 0;
  // y = x · Wᵀ, or the limit's own work, with copy `turn` modulo the number of copies.
  virtual void run(size_t turn) = 0;
  // The same, and what one product took. Here by the clock of the host; a method that measures by itself may
  // do the work several times over.
  struct Timed {
    double us;
    bool preempted;  // another process took a CPU away during the call
  };
  virtual Timed timed_run(size_t turn);
  // y of the last run; undefined for limits.
  virtual HostTensor result() const { return {}; }
  virtual double flops() const { return 0; }       // of one run
  virtual double read_bytes() const { return 0; }  // of weights, of one run; on CUDA also of x and y

  Kind kind = Kind::kKernel;
  std::string name;      // "cpu_avx512_w8a16", "onednn-bf16", "read"; of a kernel known once prepared
  std::string asked;     // the kernel as asked for, empty: the one selection takes
  std::string scheme;    // of a kernel's weight
  int scheme_index = 0;  // in the list that was asked for
};

using BenchMethods = std::vector<std::unique_ptr<BenchMethod>>;

}  // namespace anyfp8::cli
