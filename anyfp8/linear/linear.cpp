#include "anyfp8/linear/linear.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"
#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/linear/weight_store.h"

namespace anyfp8 {
namespace {

void check_matrix(const TensorView& view, const char* name, int64_t rows, int64_t cols, DType dtype) {
  const bool fits = view.dtype == dtype && view.rows == rows && view.cols == cols &&
                    (view.row_stride >= cols || rows <= 1) && (view.data != nullptr || rows == 0);
  if (fits) return;
  throw fail(ErrorCode::kInvalidArgument,
             "{} is {} [{}, {}] with row stride {}{}; this layer needs {} [{}, {}]", name,
             dtype_name(view.dtype), view.rows, view.cols, view.row_stride, view.data ? "" : " and no data",
             dtype_name(dtype), rows, cols);
}

bool same_place(const Device& a, const Device& b) { return a.kind == b.kind && a.index == b.index; }

// A W8A16 kernel has no use for the static scale that a checkpoint carries.
void say_if_input_scale_is_ignored(const Fp8Weight& weight, const Selection& selection) {
  const auto ignores = [](const RangeChoice& range) {
    return range.kernel->activation == ActivationUse::kAsGiven;
  };
  if (weight.input_scale && std::all_of(selection.ranges.begin(), selection.ranges.end(), ignores)) {
    log_once(LogLevel::kInfo,
             "static activation scales are kept and not used: activations are not quantised");
  }
}

// ANYFP8_SYNC=1: each apply() on a CUDA device waits for its work, so that an error names its layer. For
// finding faults; slow.
bool synchronise_each_apply(const Device& device) {
  const char* value = std::getenv("ANYFP8_SYNC");
  return device.kind == DeviceKind::kCuda && value != nullptr && std::string_view(value) == "1";
}

}  // namespace

struct Linear::State {
  Device device;
  LinearConfig config;
  Selection selection;
  std::unique_ptr<WeightStore> weight;
  bool synchronise;
  PlacedWeight placed;  // of `weight`

  void view_weight() {
    placed = weight->view(config);
    placed.device = &device;
  }
  void apply(const Kernel& kernel, const TensorView& x, const TensorView& y, Scratch scratch,
             Stream stream) const {
    const DeviceGuard guard(device);
    if (!synchronise) return kernel.apply(placed, x, y, scratch, stream);
    try {
      kernel.apply(placed, x, y, scratch, stream);
      if (!is_capturing(stream)) anyfp8::synchronize(stream);
    } catch (Error& error) {
      error.in(
          fmt::format("{} of the layer n = {}, k = {} at m = {}", kernel.name, config.n, config.k, x.rows));
      throw;
    }
  }
};

LinearConfig linear_config(const Fp8Weight& weight, const LinearOptions& options) {
  return {.n = weight.n(),
          .k = weight.k(),
          .scheme = weight.scheme,
          .in = options.in,
          .out = options.out,
          .bias = weight.bias.defined(),
          .policy = options.policy.value_or(default_policy(weight.scheme)),
          .whole_n = options.whole_n};
}

Linear::Linear(std::unique_ptr<State> state) : state_(std::move(state)) {}
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;
Linear::~Linear() = default;

Linear Linear::create(const Device& device, Fp8Weight weight, const LinearOptions& options,
                      const SelectOptions& select, Stream stream) {
  check_present(device);
  check_weight(weight);
  if (weight.layout != Layout::kRowMajor) {
    throw fail(ErrorCode::kInvalidArgument, "a layer is made from a row-major weight; this one is {}",
               layout_name(weight.layout));
  }
  if (select.ignore_build) {
    throw fail(ErrorCode::kInvalidArgument,
               "ignore_build is for planning; a layer needs kernels that are in this build");
  }
  const LinearConfig config = linear_config(weight, options);
  Selection selection = select_kernel(device, config, select);
  const Kernel& first = *selection.ranges.front().kernel;
  say_if_input_scale_is_ignored(weight, selection);
  auto placed = place_weight(device, std::move(weight), first.layout, first.name, stream);
  auto state = std::unique_ptr<State>(
      new State{device, config, std::move(selection), std::move(placed), synchronise_each_apply(device), {}});
  state->view_weight();
  const DeviceGuard guard(device);
  for (const RangeChoice& range : state->selection.ranges) {
    if (range.kernel->prepare != nullptr) range.kernel->prepare(state->placed);
  }
  return Linear(std::move(state));
}

void Linear::apply(const TensorView& x, const TensorView& y, Workspace& workspace, Stream stream) const {
  if (workspace.bytes() > 0 && !same_place(workspace.device(), state_->device)) {
    throw fail(ErrorCode::kInvalidArgument, "the workspace is on {} and the layer on {}; it needs one there",
               workspace.device().name, state_->device.name);
  }
  apply(x, y, workspace.scratch(), stream);
}

void Linear::apply(const TensorView& x, const TensorView& y, Scratch scratch, Stream stream) const {
  const State& s = *state_;
  const int64_t m = x.rows;
  check_matrix(x, "x", m, s.config.k, s.config.in);
  check_matrix(y, "y", m, s.config.n, s.config.out);
  const Kernel& kernel = s.selection.kernel_for(m);
  if (kernel.workspace_bytes != nullptr) {
    const size_t needed = kernel.workspace_bytes(s.config, s.device, m);
    if (scratch.bytes < needed || (needed > 0 && scratch.data == nullptr)) {
      throw fail(ErrorCode::kInvalidArgument,
                 "{} needs a workspace of {} bytes for m = {}, this one has {}; reserve "
                 "workspace_bytes(largest m) first",
                 kernel.name, needed, m, scratch.data == nullptr ? 0 : scratch.bytes);
    }
    const size_t alignment = scratch_alignment(s.device.kind);
    if (reinterpret_cast<uintptr_t>(scratch.data) % alignment != 0) {
      throw fail(ErrorCode::kInvalidArgument, "the scratch memory must begin at a multiple of {} bytes",
                 alignment);
    }
  }
  s.apply(kernel, x, y, scratch, stream);
}

size_t Linear::workspace_bytes(int64_t max_m) const {
  size_t bytes = 0;
  for (const RangeChoice& range : state_->selection.ranges) {
    if (range.tokens.begin > max_m || range.kernel->workspace_bytes == nullptr) continue;
    const int64_t last = std::min(max_m, range.tokens.end - 1);
    bytes = std::max(bytes, range.kernel->workspace_bytes(state_->config, state_->device, last));
  }
  return bytes;
}

void Linear::update_weights(Fp8Weight weight, Stream stream) {
  check_weight(weight);
  const LinearConfig& c = state_->config;
  if (weight.n() != c.n || weight.k() != c.k || weight.scheme != c.scheme ||
      weight.bias.defined() != c.bias || weight.layout != Layout::kRowMajor) {
    throw fail(ErrorCode::kInvalidArgument,
               "the layer is {} [{}, {}]{} and the new weight {} {}{}; only the values may change",
               scheme_text(c.scheme), c.n, c.k, c.bias ? " with bias" : "", scheme_text(weight.scheme),
               shape_text(weight.data.shape()), weight.bias.defined() ? " with bias" : "");
  }
  state_->weight->replace(std::move(weight), stream);
  state_->view_weight();
}

HostTensor Linear::dequantize(int64_t row_begin, int64_t row_end) const {
  return state_->weight->dequantize(row_begin, row_end);
}

Fp8Weight Linear::weight() const { return state_->weight->stored(); }

const Device& Linear::device() const noexcept { return state_->device; }
const LinearConfig& Linear::config() const noexcept { return state_->config; }
const Selection& Linear::selection() const noexcept { return state_->selection; }
size_t Linear::resident_bytes() const noexcept { return state_->weight->resident_bytes(); }

}  // namespace anyfp8
