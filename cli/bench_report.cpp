#include "cli/bench_report.h"

#include <algorithm>
#include <cmath>

#include "cli/terminal.h"

namespace anyfp8::cli {
namespace {

using Kind = BenchMethod::Kind;
using Ratios = std::vector<std::pair<std::string, double>>;

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kKernel: return "kernel";
    case Kind::kPeer: return "peer";
    case Kind::kRead: return "read";
    default: return "peak";
  }
}

std::string percent(const std::optional<double>& part) {
  return part ? fmt::format("{:.1f} %", *part * 100) : std::string();
}

std::string extra(const std::optional<double>& ratio) {
  return ratio ? fmt::format("{:+.1f} %", (*ratio - 1) * 100) : std::string();
}

std::string positive(double value, int digits) {
  return value > 0 ? fmt::format("{:.{}f}", value, digits) : std::string();
}

std::string ratio_to(const Ratios& versus, const std::string& peer) {
  const auto found =
      std::find_if(versus.begin(), versus.end(), [&](const auto& v) { return v.first == peer; });
  return found == versus.end() ? std::string() : fmt::format("{:.2f}", found->second);
}

// The peers that any of the rows was compared with, in order of appearance.
template <typename Rows>
std::vector<std::string> peers_of(const Rows& rows) {
  std::vector<std::string> peers;
  for (const auto& row : rows) {
    for (const auto& [peer, ratio] : row.versus) {
      if (std::find(peers.begin(), peers.end(), peer) == peers.end()) peers.push_back(peer);
    }
  }
  return peers;
}

// Columns that come after the others in both tables.
template <typename Rows>
std::vector<std::string> ratio_titles(const Rows& rows) {
  std::vector<std::string> titles;
  for (const std::string& peer : peers_of(rows)) titles.push_back("x " + peer);
  if (std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.of_first_scheme.has_value(); }))
    titles.emplace_back("extra time");
  return titles;
}

template <typename Row>
void add_ratios(std::vector<std::string>& cells, const std::vector<std::string>& peers, const Row& row) {
  for (const std::string& peer : peers) cells.push_back(ratio_to(row.versus, peer));
  cells.push_back(extra(row.of_first_scheme));
}

Table make_table(const std::vector<std::string>& left, const std::vector<std::string>& right) {
  std::vector<Table::Column> columns{{"m", Table::Align::kRight}};
  for (const std::string& title : left) columns.push_back({title});
  for (const std::string& title : right) columns.push_back({title, Table::Align::kRight});
  return Table(std::move(columns));
}

// Adds a factor to each of the products that `row` has.
void multiply(std::optional<double>& product, const std::optional<double>& factor) {
  if (factor) product = product.value_or(1) * *factor;
}

void add_optional(nlohmann::json& json, const char* name, const std::optional<double>& value) {
  if (value) json[name] = *value;
}

}  // namespace

std::vector<BenchRow> make_rows(const std::vector<MeasuredMethod>& methods,
                                const std::vector<Samples>& samples, MatrixShape shape, int64_t m) {
  std::vector<const BenchMethod*> timed;
  for (const MeasuredMethod& method : methods) {
    if (method.prepared) timed.push_back(method.method);
  }
  std::vector<BenchRow> rows;
  size_t next = 0;
  for (const auto& [method, prepared] : methods) {
    BenchRow row{
        method->kind,     method->name, method->asked, method->scheme, method->scheme_index, shape, m,
        prepared.reason()};
    if (!prepared) {
      rows.push_back(std::move(row));
      continue;
    }
    const Samples& mine = samples[next++];
    row.us = spread_us(mine);
    row.gb_per_s = method->read_bytes() / row.us.median * 1e-3;
    row.gflop_per_s = method->flops() / row.us.median * 1e-3;
    for (size_t i = 0; i < timed.size(); ++i) {
      const BenchMethod& other = *timed[i];
      const bool worker = row.kind == Kind::kKernel || row.kind == Kind::kPeer;
      if (worker && other.kind == Kind::kRead) {
        row.of_read = time_ratio(samples[i], mine) * method->read_bytes() / other.read_bytes();
      } else if (worker && other.kind == Kind::kPeak) {
        row.of_peak = time_ratio(samples[i], mine) * method->flops() / other.flops();
      } else if (row.kind == Kind::kKernel && other.kind == Kind::kPeer) {
        row.versus.emplace_back(other.name, time_ratio(samples[i], mine));
      } else if (row.kind == Kind::kKernel && other.kind == Kind::kKernel && row.scheme_index > 0 &&
                 other.scheme_index == 0 && other.asked == row.asked) {
        row.of_first_scheme = time_ratio(mine, samples[i]);
      }
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<BenchMean> make_means(const std::vector<BenchRow>& rows) {
  std::vector<BenchMean> means;
  std::vector<const BenchRow*> firsts;
  for (const BenchRow& row : rows) {
    if (row.kind != Kind::kKernel || !row.refused.empty()) continue;
    size_t i = 0;
    while (i < means.size() && (firsts[i]->m != row.m || firsts[i]->asked != row.asked ||
                                firsts[i]->scheme_index != row.scheme_index))
      ++i;
    if (i == means.size()) {
      means.push_back({row.name, row.scheme, row.m, 0});
      firsts.push_back(&row);
    }
    BenchMean& mean = means[i];
    if (mean.name != row.name) mean.name = "several";
    ++mean.shapes;
    multiply(mean.of_read, row.of_read);
    multiply(mean.of_peak, row.of_peak);
    multiply(mean.of_first_scheme, row.of_first_scheme);
    for (const auto& [peer, ratio] : row.versus) {
      const auto same = [&peer = peer](const auto& v) { return v.first == peer; };
      const auto found = std::find_if(mean.versus.begin(), mean.versus.end(), same);
      if (found == mean.versus.end()) {
        mean.versus.emplace_back(peer, ratio);
      } else {
        found->second *= ratio;
      }
    }
  }
  for (BenchMean& mean : means) {
    const double root = 1.0 / mean.shapes;
    for (std::optional<double>* product : {&mean.of_read, &mean.of_peak, &mean.of_first_scheme}) {
      if (*product) **product = std::pow(**product, root);
    }
    for (auto& [peer, product] : mean.versus) product = std::pow(product, root);
  }
  return means;
}

std::string rows_text(const std::vector<BenchRow>& rows) {
  std::vector<std::string> right{"median us", "GB/s", "GFLOP/s", "of read", "of peak"};
  for (std::string& title : ratio_titles(rows)) right.push_back(std::move(title));
  Table table = make_table({"method", "weights"}, right);
  const std::vector<std::string> peers = peers_of(rows);
  std::string notes;
  int64_t before = 0;
  for (const BenchRow& row : rows) {
    std::vector<std::string> cells{row.m == before ? "" : std::to_string(row.m), row.name, row.scheme};
    before = row.m;
    if (row.refused.empty()) {
      for (std::string cell :
           {fmt::format("{}{:.1f}", row.us.disturbed ? "~" : "", row.us.median), positive(row.gb_per_s, 1),
            positive(row.gflop_per_s, 1), percent(row.of_read), percent(row.of_peak)})
        cells.push_back(std::move(cell));
      add_ratios(cells, peers, row);
      cells.resize(right.size() + 3);
    } else {
      cells.emplace_back("cannot");
      const std::string note = fmt::format("{}: {}\n", row.name, printable(row.refused));
      if (notes.find(note) == std::string::npos) notes += note;
    }
    table.add(std::move(cells));
  }
  return table.text(stdout) + notes;
}

std::string disturbance_text(const std::vector<BenchRow>& rows) {
  const auto disturbed =
      std::count_if(rows.begin(), rows.end(), [](const BenchRow& row) { return row.us.disturbed; });
  if (disturbed == 0) return {};
  return fmt::format("other programs took the CPU away in {} of {} rows (~); do not rely on these\n",
                     disturbed, rows.size());
}

std::string means_text(const std::vector<BenchMean>& means) {
  std::vector<std::string> right{"shapes", "of read", "of peak"};
  for (std::string& title : ratio_titles(means)) right.push_back(std::move(title));
  Table table = make_table({"kernel", "weights"}, right);
  const std::vector<std::string> peers = peers_of(means);
  for (const BenchMean& mean : means) {
    std::vector<std::string> cells{
        std::to_string(mean.m), mean.name, mean.scheme, std::to_string(mean.shapes), percent(mean.of_read),
        percent(mean.of_peak)};
    add_ratios(cells, peers, mean);
    cells.resize(right.size() + 3);
    table.add(std::move(cells));
  }
  return table.text(stdout);
}

nlohmann::json row_json(const nlohmann::json& head, const BenchRow& row) {
  nlohmann::json json = head;
  json.update({{"type", kind_name(row.kind)},
               {"name", row.name},
               {"n", row.shape.n},
               {"k", row.shape.k},
               {"m", row.m}});
  if (row.kind == Kind::kKernel) json["scheme"] = row.scheme;
  if (!row.refused.empty()) {
    json["refused"] = row.refused;
    return json;
  }
  json.update({{"us", row.us.median},
               {"min_us", row.us.least},
               {"samples", row.us.used},
               {"calls", row.us.calls},
               {"preempted", row.us.preempted},
               {"disturbed", row.us.disturbed}});
  if (row.gb_per_s > 0) json["gb_per_s"] = row.gb_per_s;
  if (row.gflop_per_s > 0) json["gflop_per_s"] = row.gflop_per_s;
  add_optional(json, "of_read", row.of_read);
  add_optional(json, "of_peak", row.of_peak);
  add_optional(json, "of_first_scheme", row.of_first_scheme);
  for (const auto& [peer, ratio] : row.versus) json["versus"][peer] = ratio;
  return json;
}

nlohmann::json mean_json(const nlohmann::json& head, const BenchMean& mean) {
  nlohmann::json json = head;
  json.update({{"type", "mean"},
               {"name", mean.name},
               {"scheme", mean.scheme},
               {"m", mean.m},
               {"shapes", mean.shapes}});
  add_optional(json, "of_read", mean.of_read);
  add_optional(json, "of_peak", mean.of_peak);
  add_optional(json, "of_first_scheme", mean.of_first_scheme);
  for (const auto& [peer, ratio] : mean.versus) json["versus"][peer] = ratio;
  return json;
}

}  // namespace anyfp8::cli
