#include "cli/bench_report.h"

#include <algorithm>
#include <cmath>

#include "cli/terminal.h"

namespace anyfp8::cli {
namespace {

using Kind = BenchMethod::Kind;
using Ratios = std::vector<std::pair<std::string, Ratio>>;

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kKernel: return "kernel";
    case Kind::kPeer: return "peer";
    case Kind::kPart: return "part";
    case Kind::kRead: return "read";
    default: return "peak";
  }
}

const char* mark(bool disturbed) { return disturbed ? "~" : ""; }

std::string percent(const std::optional<Ratio>& part) {
  return part ? fmt::format("{}{:.1f} %", mark(part->disturbed), part->value * 100) : std::string();
}

std::string extra(const std::optional<Ratio>& ratio) {
  return ratio ? fmt::format("{}{:+.1f} %", mark(ratio->disturbed), (ratio->value - 1) * 100) : std::string();
}

std::string times(const std::optional<Ratio>& ratio) {
  return ratio ? fmt::format("{}{:.2f}", mark(ratio->disturbed), ratio->value) : std::string();
}

std::string positive(double value, int digits) {
  return value > 0 ? fmt::format("{:.{}f}", value, digits) : std::string();
}

std::optional<Ratio> ratio_to(const Ratios& versus, const std::string& peer) {
  const auto found =
      std::find_if(versus.begin(), versus.end(), [&](const auto& v) { return v.first == peer; });
  if (found == versus.end()) return {};
  return found->second;
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
  for (const std::string& peer : peers) cells.push_back(times(ratio_to(row.versus, peer)));
  cells.push_back(extra(row.of_first_scheme));
}

Table make_table(const std::vector<std::string>& left, const std::vector<std::string>& right) {
  std::vector<Table::Column> columns{{"m", Table::Align::kRight}};
  for (const std::string& title : left) columns.push_back({title});
  for (const std::string& title : right) columns.push_back({title, Table::Align::kRight});
  return Table(std::move(columns));
}

// Nothing where a row has none: a mean over fewer shapes does not stand beside one over all.
template <typename Get>
std::optional<Ratio> geometric_mean(const std::vector<BenchRow>& rows, Get&& get) {
  double logarithms = 0;
  bool disturbed = false;
  for (const BenchRow& row : rows) {
    const std::optional<Ratio> ratio = get(row);
    if (!ratio) return {};
    logarithms += std::log(ratio->value);
    disturbed = disturbed || ratio->disturbed;
  }
  return Ratio{std::exp(logarithms / static_cast<double>(rows.size())), disturbed};
}

// The row's kernel was asked for with the same words; which one that is may depend on the shape.
bool same_but_for_shape(const BenchRow& a, const BenchRow& b) {
  return a.m == b.m && a.asked == b.asked && a.scheme_index == b.scheme_index;
}

template <typename Row>
bool any_ratio_disturbed(const Row& row) {
  const auto disturbed = [](const std::optional<Ratio>& ratio) { return ratio && ratio->disturbed; };
  return disturbed(row.of_read) || disturbed(row.of_peak) || disturbed(row.of_first_scheme) ||
         std::any_of(row.versus.begin(), row.versus.end(), [](const auto& v) { return v.second.disturbed; });
}

template <typename Row>
void add_ratios(nlohmann::json& json, const Row& row) {
  if (row.of_read) json["of_read"] = row.of_read->value;
  if (row.of_peak) json["of_peak"] = row.of_peak->value;
  if (row.of_first_scheme) json["of_first_scheme"] = row.of_first_scheme->value;
  for (const auto& [peer, ratio] : row.versus) json["versus"][peer] = ratio.value;
}

}  // namespace

bool BenchRow::disturbed() const { return us.disturbed || any_ratio_disturbed(*this); }

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
      const bool worker = row.kind == Kind::kKernel || row.kind == Kind::kPeer || row.kind == Kind::kPart;
      if (worker && other.kind == Kind::kRead) {
        row.of_read = time_ratio(samples[i], mine);
        row.of_read->value *= method->read_bytes() / other.read_bytes();
      } else if (worker && other.kind == Kind::kPeak && method->flops() > 0) {
        row.of_peak = time_ratio(samples[i], mine);
        row.of_peak->value *= method->flops() / other.flops();
      } else if (row.kind == Kind::kKernel && other.kind == Kind::kPeer) {
        row.versus.emplace_back(other.name, time_ratio(samples[i], mine));
      } else if (row.kind == Kind::kKernel && other.kind == Kind::kKernel && row.scheme_index > 0 &&
                 other.scheme_index == 0 && other.asked == row.asked) {
        row.of_first_scheme = time_ratio(mine, samples[i]);
      }
    }
    if (row.of_read && row.of_peak)
      row.of_roof = row.of_read->value > row.of_peak->value ? row.of_read : row.of_peak;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<BenchMean> make_means(const std::vector<BenchRow>& rows) {
  std::vector<std::vector<BenchRow>> groups;  // of shapes
  for (const BenchRow& row : rows) {
    if (row.kind != Kind::kKernel || !row.refused.empty()) continue;
    const auto group = std::find_if(groups.begin(), groups.end(),
                                    [&](const auto& one) { return same_but_for_shape(one.front(), row); });
    if (group == groups.end()) {
      groups.push_back({row});
    } else {
      group->push_back(row);
    }
  }
  std::vector<BenchMean> means;
  for (const std::vector<BenchRow>& group : groups) {
    const BenchRow& first = group.front();
    const bool one_name =
        std::all_of(group.begin(), group.end(), [&](const BenchRow& row) { return row.name == first.name; });
    BenchMean mean{one_name ? first.name : "several", first.scheme, first.m, static_cast<int>(group.size())};
    mean.of_read = geometric_mean(group, [](const BenchRow& row) { return row.of_read; });
    mean.of_peak = geometric_mean(group, [](const BenchRow& row) { return row.of_peak; });
    mean.of_first_scheme = geometric_mean(group, [](const BenchRow& row) { return row.of_first_scheme; });
    for (const auto& [peer, ratio] : first.versus) {
      const auto get = [&peer = peer](const BenchRow& row) { return ratio_to(row.versus, peer); };
      if (const auto over_all = geometric_mean(group, get)) mean.versus.emplace_back(peer, *over_all);
    }
    means.push_back(std::move(mean));
  }
  return means;
}

std::string rows_text(const std::vector<BenchRow>& rows) {
  const bool tera =
      std::any_of(rows.begin(), rows.end(), [](const BenchRow& row) { return row.gflop_per_s >= 10'000; });
  std::vector<std::string> right{"median us", "GB/s",    tera ? "TFLOP/s" : "GFLOP/s",
                                 "of read",   "of peak", "of roof"};
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
           {fmt::format("{}{:.1f}", mark(row.us.disturbed), row.us.median), positive(row.gb_per_s, 1),
            positive(tera ? row.gflop_per_s / 1000 : row.gflop_per_s, 1), percent(row.of_read),
            percent(row.of_peak), percent(row.of_roof)})
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
      std::count_if(rows.begin(), rows.end(), [](const BenchRow& row) { return row.disturbed(); });
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
  if (row.kind == Kind::kKernel) {
    json["scheme"] = row.scheme;
    json["asked"] = row.asked.empty() ? "chosen" : row.asked;
  }
  if (!row.refused.empty()) {
    json["refused"] = row.refused;
    return json;
  }
  json.update({{"us", row.us.median},
               {"min_us", row.us.least},
               {"samples", row.us.used},
               {"calls", row.us.calls},
               {"preempted", row.us.preempted},
               {"disturbed", row.disturbed()}});
  if (row.gb_per_s > 0) json["gb_per_s"] = row.gb_per_s;
  if (row.gflop_per_s > 0) json["gflop_per_s"] = row.gflop_per_s;
  if (row.of_roof) json["of_roof"] = row.of_roof->value;
  add_ratios(json, row);
  return json;
}

nlohmann::json mean_json(const nlohmann::json& head, const BenchMean& mean) {
  nlohmann::json json = head;
  json.update({{"type", "mean"},
               {"name", mean.name},
               {"scheme", mean.scheme},
               {"m", mean.m},
               {"shapes", mean.shapes},
               {"disturbed", any_ratio_disturbed(mean)}});
  add_ratios(json, mean);
  return json;
}

}  // namespace anyfp8::cli
