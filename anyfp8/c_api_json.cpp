#include "anyfp8/c_api_json.h"

#include <limits>

#include "anyfp8/base/text.h"

namespace anyfp8 {

Json plan_json(const Selection& selection) {
  Json plan{{"ranges", Json::array()}, {"rejected", Json::array()}};
  for (const RangeChoice& range : selection.ranges) {
    const bool open = range.tokens.end == std::numeric_limits<int64_t>::max();
    plan["ranges"].push_back({{"begin", range.tokens.begin},
                              {"end", open ? Json(nullptr) : Json(range.tokens.end)},
                              {"kernel", range.kernel->name},
                              {"tuned", range.tuned}});
  }
  for (const Rejection& r : selection.rejected) {
    plan["rejected"].push_back({{"kernel", r.kernel}, {"reason", r.reason}, {"able", r.able}});
  }
  plan["unused_tuning"] = selection.unused_tuning;
  return plan;
}

Json device_json(const Device& d) {
  const bool cpu = d.kind == DeviceKind::kCpu;
  Json json{{"kind", cpu ? "cpu" : "cuda"}, {"index", d.index}, {"name", d.name}};
  if (cpu) {
    json["isa"] = isa_text(d.isa);
    json["cores"] = d.cores;
  } else {
    json["compute_capability"] = fmt::format("{}.{}", d.cc.major, d.cc.minor);
    json["sm_count"] = d.sm_count;
    json["smem_per_block"] = d.smem_per_block;
    json["l2_bytes"] = d.l2_bytes;
  }
  json["memory_bytes"] = d.memory_bytes;
  json["mem_gb_per_s"] = d.mem_gb_per_s;
  return json;
}

Json weight_json(const Fp8Weight& w) {
  Json json{{"n", w.n()}, {"k", w.k()}, {"scheme", scheme_text(w.scheme)}};
  json["weight"] = {{"dtype", dtype_name(w.data.dtype())},
                    {"group", {w.scheme.weight.group.rows, w.scheme.weight.group.cols}},
                    {"scale_dtype", w.scale.defined() ? Json(dtype_name(w.scale.dtype())) : Json(nullptr)}};
  json["activation"] = nullptr;
  if (const auto& activation = w.scheme.activation) {
    json["activation"] = {{"dtype", dtype_name(activation->dtype)},
                          {"group", {activation->group.rows, activation->group.cols}},
                          {"source", activation->source == ScaleSource::kStored ? "stored" : "dynamic"}};
  }
  json["bias"] = w.bias.defined() ? Json(dtype_name(w.bias.dtype())) : Json(nullptr);
  json["input_scale"] = w.input_scale ? Json(*w.input_scale) : Json(nullptr);
  json["resident_bytes"] = w.resident_bytes();
  return json;
}

}  // namespace anyfp8
