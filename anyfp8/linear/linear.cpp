#include "anyfp8/linear/linear.h"

#include <algorithm>
#include <utility>

#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"
#include "anyfp8/device/cpu_isa.h"
#include "anyfp8/linear/host_weight.h"

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

// A Device may describe hardware that is not here; a layer must not be made for it.
void check_presence(const Device& device) {
  if (device.kind != DeviceKind::kCpu) return;  // a build with CUDA asks its driver
  const CpuIsa here = detect_isa();
  if (common_isa(here, device.isa) == device.isa) return;
  throw fail(ErrorCode::kUnsupported,
             "{} describes a CPU with {}, and this one has {}; it can be planned for, not run on",
             device.name, isa_text(device.isa), isa_text(here));
}

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

}  // namespace

struct Linear::State {
  Device device;
  LinearConfig config;
  Selection selection;
  HostWeight weight;
  PlacedWeight placed;  // of `weight`
};

LinearConfig linear_config(const Fp8Weight& weight, const LinearOptions& options) {
  return {.n = weight.n(),
          .k = weight.k(),
          .scheme = weight.scheme,
          .in = options.in,
          .out = options.out,
          .bias = weight.bias.defined(),
          .policy = options.policy};
}

Linear::Linear(std::unique_ptr<State> state) : state_(std::move(state)) {}
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;
Linear::~Linear() = default;

Linear Linear::create(const Device& device, Fp8Weight weight, const LinearOptions& options,
                      const SelectOptions& select, Stream /*stream*/) {
  check_presence(device);
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
  if (weight.quantized() && !HostWeight::can_hold(first.layout)) {
    throw fail(ErrorCode::kUnsupported, "{} reads weights in the layout {}, which {} does not hold",
               first.name, layout_name(first.layout), device.name);
  }
  say_if_input_scale_is_ignored(weight, selection);
  auto state = std::unique_ptr<State>(
      new State{device, config, std::move(selection), HostWeight(std::move(weight), first.layout), {}});
  state->placed = state->weight.view(config);
  return Linear(std::move(state));
}

void Linear::apply(const TensorView& x, const TensorView& y, Workspace& workspace, Stream stream) const {
  const State& s = *state_;
  const int64_t m = x.rows;
  check_matrix(x, "x", m, s.config.k, s.config.in);
  check_matrix(y, "y", m, s.config.n, s.config.out);
  const Kernel& kernel = s.selection.kernel_for(m);
  if (kernel.workspace_bytes != nullptr) {
    const size_t needed = kernel.workspace_bytes(s.config, s.device, m);
    if (workspace.bytes() < needed) {
      throw fail(ErrorCode::kInvalidArgument,
                 "{} needs a workspace of {} bytes for m = {}, this one has {}; reserve "
                 "workspace_bytes(largest m) first",
                 kernel.name, needed, m, workspace.bytes());
    }
  }
  kernel.apply(s.placed, x, y, workspace.scratch(), stream);
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

void Linear::update_weights(Fp8Weight weight, Stream /*stream*/) {
  check_weight(weight);
  const LinearConfig& c = state_->config;
  if (weight.n() != c.n || weight.k() != c.k || weight.scheme != c.scheme ||
      weight.bias.defined() != c.bias || weight.layout != Layout::kRowMajor) {
    throw fail(ErrorCode::kInvalidArgument,
               "the layer is {} [{}, {}]{} and the new weight {} {}{}; only the values may change",
               scheme_text(c.scheme), c.n, c.k, c.bias ? " with bias" : "", scheme_text(weight.scheme),
               shape_text(weight.data.shape()), weight.bias.defined() ? " with bias" : "");
  }
  state_->weight.replace(std::move(weight));
  state_->placed = state_->weight.view(c);
}

HostTensor Linear::dequantize(int64_t row_begin, int64_t row_end) const {
  return state_->weight.dequantize(row_begin, row_end);
}

const Device& Linear::device() const noexcept { return state_->device; }
const LinearConfig& Linear::config() const noexcept { return state_->config; }
const Selection& Linear::selection() const noexcept { return state_->selection; }
size_t Linear::resident_bytes() const noexcept { return state_->weight.resident_bytes(); }

}  // namespace anyfp8
