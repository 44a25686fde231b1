#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/export.h"
#include "anyfp8/kernels/kernel.h"
#include "anyfp8/kernels/tune_table.h"

namespace anyfp8 {

// The kernels of kernel_list.inc and of loaded plugins, most preferred first. Valid for the whole process.
ANYFP8_API std::span<const Kernel* const> all_kernels();

// By name; null where there is none.
ANYFP8_API const Kernel* find_kernel(std::string_view name);

// Hardware alone: the device's kind, then Kernel::supports.
ANYFP8_API Verdict supports(const Kernel& kernel, const Device& device);

// supports(), the lists of the table, the policy, then Kernel::check. Does not ask whether it was built.
ANYFP8_API Verdict can_implement(const Kernel& kernel, const LinearConfig& config, const Device& device);

struct SelectOptions {
  std::string force;                            // this kernel for every m, or an error; empty: choose
  std::vector<std::string> disable;             // kernels taken out; an unknown name is an error
  bool ignore_build = false;                    // plan for a build that has every launch
  std::span<const Kernel* const> kernels = {};  // instead of all_kernels(), for tests
  std::shared_ptr<const TuneTable> tuned =
      {};  // measured crossovers, where they differ from the built-in ones

  // force from ANYFP8_KERNEL, disable from ANYFP8_DISABLE (comma separated), tuned from user_tune_table():
  // who has measured a machine means it for whatever runs there. `tuning` false: without that.
  ANYFP8_API static SelectOptions from_environment(bool tuning = true);
};

struct RangeChoice {
  TokenRange tokens;
  const Kernel* kernel;
  bool tuned = false;  // by SelectOptions::tuned
};

// A kernel of the list that serves no m, and why. `able` ones could, and stand behind another.
struct Rejection {
  std::string_view kernel;
  std::string reason;
  bool able = false;
};

struct Selection {
  std::vector<RangeChoice> ranges;         // covers [0, infinity) without gap or overlap, m ascending
  std::vector<Rejection> rejected;         // the rest of the list, in its order
  std::vector<std::string> unused_tuning;  // ranges of SelectOptions::tuned that cannot be had, and why

  ANYFP8_API const Kernel& kernel_for(int64_t m) const;
  // Several lines: each range with its kernel, then each kernel not used with its reason.
  ANYFP8_API std::string explain() const;
};

// The one place where kernels are chosen: for each m the first kernel of the list that supports the device,
// can implement the layer, is in this build, and whose token range holds m. Two things bind a layer's
// kernels:
//   - an 8-bit weight lies in one layout, so all of them read that of the first able kernel (or of the next
//     one, where the kernels of that layout leave a gap);
//   - with Policy::kInvariant the kernel chosen for m = 1 serves every m, since two kernels may sum in
//     different orders and a row's bits would change at their border.
// Then, unless a kernel is forced, the layer's entry in SelectOptions::tuned takes the place of the ranges it
// names, with the same rules for what may run.
// A pure function of its arguments (and of loaded plugins). Error(kUnsupported) with every kernel's reason
// when some m has no kernel, or when the forced kernel cannot; Error(kNotFound) for an unknown forced or
// disabled name; Error(kInvalidArgument) for a name both forced and disabled; load_plugin()'s errors for
// ANYFP8_PLUGIN.
ANYFP8_API Selection select_kernel(const Device& device, const LinearConfig& config,
                                   const SelectOptions& options = {});

// select_kernel() with the options of the environment, under the name the function has in vLLM.
ANYFP8_API Selection init_fp8_linear_kernel(const LinearConfig& config, const Device& device);

}  // namespace anyfp8
