#include "anyfp8/device/cuda_devices.h"
#include "cli/arguments.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

std::string id_of(const Device& device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

std::string capability_text(const Device& device) {
  return fmt::format("sm_{}{}", device.cc.major, device.cc.minor);
}

int devices(bool json) {
  const std::vector<Device> present = all_devices();
  if (json) {
    nlohmann::json rows = nlohmann::json::array();
    for (const Device& d : present) {
      nlohmann::json row = {
          {"id", id_of(d)}, {"name", d.name}, {"kind", d.kind == DeviceKind::kCpu ? "cpu" : "cuda"}};
      if (d.kind == DeviceKind::kCpu) {
        row["cores"] = d.cores;
        row["isa"] = isa_text(d.isa);
      } else {
        row["capability"] = capability_text(d);
        row["sm_count"] = d.sm_count;
        row["smem_per_block_bytes"] = d.smem_per_block;
        row["l2_bytes"] = d.l2_bytes;
      }
      if (d.memory_bytes > 0) row["memory_bytes"] = d.memory_bytes;
      if (d.mem_gb_per_s > 0) row["memory_gb_per_s"] = d.mem_gb_per_s;
      rows.push_back(std::move(row));
    }
    print_json({{"schema_version", 1}, {"devices", std::move(rows)}, {"plan_only", virtual_device_names()}});
    return 0;
  }
  Table table({{"device", Table::Align::kLeft, Style::kBold}, {"name"}, {"has"}});
  for (const Device& d : present) {
    std::string has = d.kind == DeviceKind::kCpu
                          ? fmt::format("{} core{}, {}", d.cores, d.cores == 1 ? "" : "s", isa_text(d.isa))
                          : fmt::format("{}, {} SMs", capability_text(d), d.sm_count);
    if (d.memory_bytes > 0) has += fmt::format(", {}", bytes_text(static_cast<double>(d.memory_bytes)));
    if (d.mem_gb_per_s > 0) has += fmt::format(", {:.0f} GB/s", d.mem_gb_per_s);
    table.add({id_of(d), d.name, has});
  }
  write_out(table.text(stdout));
  if (const CudaDevices& cuda = cuda_devices(); cuda.devices.empty()) {
    print_out("\nNo CUDA device: {}.\n", cuda.absence);
  }
  print_out("\n`anyfp8 plan --device NAME` also plans for hardware that is not here:\n  {}\n",
            wrapped(fmt::format("{}", fmt::join(virtual_device_names(), " ")), 2, line_width(stdout) - 2));
  return 0;
}

}  // namespace

void add_devices(CLI::App& app, Run& run) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb = add_verb(app, "devices", "List the devices of this machine", "anyfp8 devices --json");
  add_json(*verb, *json);
  verb->callback([json, &run] { run = [json] { return devices(*json); }; });
}

}  // namespace anyfp8::cli
