#pragma once

#include <nlohmann/json.hpp>

#include "anyfp8/device/device.h"
#include "anyfp8/kernels/select.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/fp8_weight.h"

namespace anyfp8 {

// The descriptions that the C ABI gives out as JSON text; their members are listed in c_api.h.
using Json = nlohmann::ordered_json;

Json kernels_json();
Json tensors_json(const Checkpoint& checkpoint);
Json plan_json(const Selection& selection);
Json device_json(const Device& device);
Json weight_json(const Fp8Weight& weight);
Json inspection_json(const Checkpoint& checkpoint, const Inspection& inspection);

}  // namespace anyfp8
