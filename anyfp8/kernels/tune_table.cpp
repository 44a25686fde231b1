#include "anyfp8/kernels/tune_table.h"

#include <algorithm>

#include "anyfp8/base/text.h"

namespace anyfp8 {

std::string tune_device(const Device& device) {
  if (device.kind == DeviceKind::kCpu) {
    return fmt::format("{}, {}, {} core{}", device.name, isa_text(device.isa), device.cores,
                       device.cores == 1 ? "" : "s");
  }
  return fmt::format("{}, sm_{}{}, {} SMs", device.name, device.cc.major, device.cc.minor, device.sm_count);
}

std::optional<TuneKey> tune_key(const Device& device, const LinearConfig& config) {
  if (config.policy == Policy::kInvariant) return std::nullopt;
  QuantScheme scheme = config.scheme;
  if (config.policy != Policy::kSpeed) scheme.activation.reset();
  return TuneKey{tune_device(device), scheme_text(scheme), config.in, config.n, config.k};
}

const TunedLayer* TuneTable::find(const TuneKey& key) const {
  const auto found =
      std::find_if(layers.begin(), layers.end(), [&](const TunedLayer& layer) { return layer.key == key; });
  return found == layers.end() ? nullptr : &*found;
}

void TuneTable::put(TunedLayer layer) {
  std::erase_if(layers, [&](const TunedLayer& old) { return old.key == layer.key; });
  layers.push_back(std::move(layer));
}

}  // namespace anyfp8
