#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/export.h"
#include "anyfp8/base/verdict.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/scheme/fp8_weight.h"

namespace anyfp8 {

// What a dialect says about one layer, as data. The loader (load.cpp) does the rest, the same for all: the
// dtype and the scale on disk decide whether a layer is quantised, the group says what shape the scale must
// have.
struct LayerSpec {
  // Full names of the tensors that may hold the weight's scale, one of which must exist, and a static
  // activation scale, one of which may exist.
  std::vector<std::string> weight_scale, input_scale;
  std::optional<Group> group;          // as configured; absent: tensor or row, by the scale's shape,
  bool may_be_blocks = false;          // or 128 x 128 blocks too, where there is no config to ask
  bool u8_scale_is_e8m0 = false;       // MX: a U8 scale tensor holds e8m0 codes
  std::optional<QuantKey> activation;  // what the checkpoint asks for
  std::optional<float> input_scale_ub;
};

// One dialect of FP8 checkpoints: one folder scheme/<name>/ and one line in format_list.inc.
struct Format {
  std::string_view name;
  std::string_view summary;
  // Looks at config.json, and at tensor names where there is none. The first that says yes is used.
  Verdict (*recognises)(const Checkpoint&);
  // For a module path ("model.layers.0.mlp.up_proj"). Error(kUnsupported) names what this library cannot do.
  LayerSpec (*layer)(const Checkpoint&, std::string_view module);
  // The modules the config lists as not quantised, which only serves to point at contradictions. Null: no
  // list.
  std::vector<std::string> (*skipped)(const Checkpoint&) = nullptr;
};

ANYFP8_API std::span<const Format* const> all_formats();

// The checkpoint's dialect; null for a checkpoint without quantisation. Error(kUnsupported) for a
// quantization_config no dialect recognises, with each one's reason.
ANYFP8_API const Format* find_format(const Checkpoint& checkpoint);

struct LoadOptions {
  bool assume_unit_scale = false;  // FP8 weights without a scale are taken as they are (raw casts)
};

// Loads `<module>.weight` with its scale and bias into the canonical form; 16- and 32-bit weights too.
// Nothing but scales of another dtype is copied. Error names the tensor, and what was found and needed.
ANYFP8_API Fp8Weight load_weight(const Checkpoint& checkpoint, const Format* format, std::string_view module,
                                 const LoadOptions& options = {});

// Something about a checkpoint that is odd but does not stop it from being loaded.
struct Anomaly {
  std::string tensor;
  std::string text;
};

// One linear layer as `inspect` lists it.
struct LayerReport {
  std::string module;
  int64_t n = 0, k = 0;
  QuantScheme scheme;
  size_t bytes = 0;
};

struct Inspection {
  const Format* format = nullptr;
  std::vector<LayerReport> layers;  // every 2-D `<module>.weight`, embeddings included
  std::vector<Anomaly> anomalies;   // contradictions with the skip list, orphan scales, unknown dtypes, ...
  std::vector<Anomaly> errors;      // layers that load_weight() refuses
  size_t quantized_parameters = 0;
  size_t tensor_bytes = 0;
};
ANYFP8_API Inspection inspect(const Checkpoint& checkpoint);

}  // namespace anyfp8
