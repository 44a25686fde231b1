#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/export.h"
#include "anyfp8/kernels/kernel.h"

// What `anyfp8 tune` measured, as an input of select_kernel(): SelectOptions::tuned.
namespace anyfp8 {

// What a measurement holds for. Layers that differ in nothing else share it; a bias, or the type of y, costs
// every kernel the same.
struct TuneKey {
  std::string device;       // tune_device()
  std::string scheme;       // scheme_text(), without the activations where they stay as they are
  DType in = DType::kBF16;  // of x
  int64_t n = 0, k = 0;
  bool operator==(const TuneKey&) const = default;
};

// "NVIDIA H200, sm_90, 132 SMs"; "AMD EPYC 9B14, avx2 avx512, 8 cores"
ANYFP8_API std::string tune_device(const Device& device);

// None with Policy::kInvariant: there the bits of y come before its time.
ANYFP8_API std::optional<TuneKey> tune_key(const Device& device, const LinearConfig& config);

// For these m this kernel instead of the built-in choice. It need not exist any more.
struct TunedRange {
  TokenRange tokens;
  std::string kernel;
  bool operator==(const TunedRange&) const = default;
};

struct TunedLayer {
  TuneKey key;
  std::vector<TunedRange> ranges;  // m ascending, no overlap; empty where the built-in choice stands
};

struct TuneTable {
  std::vector<TunedLayer> layers;  // each key once

  ANYFP8_API const TunedLayer* find(const TuneKey& key) const;
  ANYFP8_API void put(TunedLayer layer);  // in place of the one with its key
};

// ---- The file that keeps a table, JSON for people to read.

// ANYFP8_TUNE_CACHE, else $XDG_CACHE_HOME/anyfp8/tune.json, else $HOME/.cache/anyfp8/tune.json; empty where
// ANYFP8_TUNE_CACHE is "off", or none of the three is set.
ANYFP8_API std::filesystem::path tune_path();

// Error(kNotFound) without the file; Error(kInvalidFile) for one that is broken, or of another version of
// anyfp8, whose kernels take other times.
ANYFP8_API TuneTable read_tune_table(const std::filesystem::path& path);

// Makes the folder; replaces the file in one step, so that nobody reads half of it. Error(kIo).
ANYFP8_API void write_tune_table(const std::filesystem::path& path, const TuneTable& table);

// The table of tune_path(), read again when the file has changed; null where there is none. One that cannot
// be used is ignored, and a warning says why.
ANYFP8_API std::shared_ptr<const TuneTable> user_tune_table();

}  // namespace anyfp8
