#include "anyfp8/c_api_json.h"

#include <limits>
#include <utility>
#include <vector>

#include "anyfp8/base/text.h"

namespace anyfp8 {

Json kernels_json() {
  Json list = Json::array();
  for (const Kernel* kernel : all_kernels()) {
    list.push_back({{"name", kernel->name},
                    {"summary", kernel->summary},
                    {"device", kernel->device == DeviceKind::kCpu ? "cpu" : "cuda"},
                    {"built", kernel->apply != nullptr}});
  }
  return list;
}

Json tensors_json(const Checkpoint& checkpoint) {
  Json list = Json::array();
  for (const TensorInfo& t : checkpoint.tensors()) {
    list.push_back({{"name", t.name},
                    {"dtype", t.dtype_name},
                    {"shape", t.shape},
                    {"bytes", t.bytes},
                    {"shard", t.shard}});
  }
  return list;
}

Json plan_json(const Selection& selection) {
  Json plan{{"ranges", Json::array()}, {"layout", nullptr}, {"rejected", Json::array()}};
  for (const RangeChoice& range : selection.ranges) {
    const bool open = range.tokens.end == std::numeric_limits<int64_t>::max();
    plan["ranges"].push_back({{"begin", range.tokens.begin},
                              {"end", open ? Json(nullptr) : Json(range.tokens.end)},
                              {"kernel", range.kernel->name},
                              {"tuned", range.tuned}});
  }
  if (!selection.ranges.empty()) plan["layout"] = layout_name(selection.ranges.front().kernel->layout);
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
  const QuantKey& key = w.scheme.weight;
  Json json{{"n", w.n()}, {"k", w.k()}, {"scheme", scheme_text(w.scheme)}};
  json["weight"] = {{"dtype", dtype_name(key.dtype)},
                    {"group", {key.group.rows, key.group.cols}},
                    {"scale_dtype", w.quantized() ? Json(dtype_name(key.scale_dtype)) : Json(nullptr)}};
  json["activation"] = nullptr;
  if (const auto& activation = w.scheme.activation) {
    json["activation"] = {{"dtype", dtype_name(activation->dtype)},
                          {"group", {activation->group.rows, activation->group.cols}},
                          {"source", activation->source == ScaleSource::kStored ? "stored" : "dynamic"}};
  }
  json["bias"] = w.bias.defined() ? Json(dtype_name(w.bias.dtype())) : Json(nullptr);
  json["input_scale"] = w.input_scale ? Json(*w.input_scale) : Json(nullptr);
  json["input_scale_ub"] = w.input_scale_ub ? Json(*w.input_scale_ub) : Json(nullptr);
  json["resident_bytes"] = w.resident_bytes();
  return json;
}

namespace {

Json notes_json(const std::vector<Anomaly>& notes) {
  Json json = Json::array();
  for (const Anomaly& note : notes) json.push_back({{"tensor", note.tensor}, {"text", note.text}});
  return json;
}

}  // namespace

Json inspection_json(const Checkpoint& checkpoint, const Inspection& inspection) {
  const Format* format = inspection.format;
  Json json{{"format", format ? Json(format->name) : Json(nullptr)},
            {"summary", format ? Json(format->summary) : Json(nullptr)},
            {"quantized_parameters", inspection.quantized_parameters},
            {"tensor_bytes", inspection.tensor_bytes},
            {"layers", Json::array()}};
  for (const LayerReport& layer : inspection.layers) {
    Json entry{{"module", layer.module}};
    entry.update(weight_json(load_weight(checkpoint, format, layer.module)));
    json["layers"].push_back(std::move(entry));
  }
  json["anomalies"] = notes_json(inspection.anomalies);
  json["errors"] = notes_json(inspection.errors);
  return json;
}

}  // namespace anyfp8
