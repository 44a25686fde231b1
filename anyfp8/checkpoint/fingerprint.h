#pragma once

#include <string>

#include "anyfp8/checkpoint/checkpoint.h"

namespace anyfp8 {

// "91 tensors, 8416584 bytes, fingerprint 4c1f09e2a1b73d55": of config.json, of every tensor's name, dtype
// and shape, and of the bytes of small tensors (norms, scales), which tell apart two trainings of one
// architecture. For processes that must have the same model without reading all of it. Nothing secret:
// FNV-1a.
std::string fingerprint(const Checkpoint& checkpoint);

}  // namespace anyfp8
