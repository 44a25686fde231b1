#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_rounds.h"

namespace anyfp8::cli {

// One method on one shape and token count. Ratios are medians over rounds, both times of one round.
struct BenchRow {
  BenchMethod::Kind kind;
  std::string name, asked, scheme;
  int scheme_index;
  MatrixShape shape;
  int64_t m;
  std::string refused;  // why nothing was measured; then all below is 0
  Spread us;
  double gb_per_s, gflop_per_s;                       // 0: does not apply
  std::optional<Ratio> of_read, of_peak;              // parts of what the machine gave
  std::optional<Ratio> of_roof;                       // the larger, where both are known: of the roofline
  std::vector<std::pair<std::string, Ratio>> versus;  // of a kernel: name of a peer, its time / ours
  std::optional<Ratio> of_first_scheme;               // time / that with the first scheme
  bool disturbed() const;                             // the time or a ratio
};

struct MeasuredMethod {
  BenchMethod* method;
  Verdict prepared;
};
// samples[i] is of the i-th method that was prepared.
std::vector<BenchRow> make_rows(const std::vector<MeasuredMethod>& methods,
                                const std::vector<Samples>& samples, MatrixShape shape, int64_t m);

// Geometric means over the shapes for each m, kernel as asked for and scheme, of what `rows` have of kernels;
// the bars are stated in it. What a kernel does not have on each of its shapes is left out.
struct BenchMean {
  std::string name, scheme;  // name: of the kernel, or "several"
  int64_t m;
  int shapes;
  std::optional<Ratio> of_read, of_peak, of_first_scheme;
  std::vector<std::pair<std::string, Ratio>> versus;
};
std::vector<BenchMean> make_means(const std::vector<BenchRow>& rows);

std::string rows_text(const std::vector<BenchRow>& rows);
std::string means_text(const std::vector<BenchMean>& means);
// A warning where the machine was too busy to be measured on, else empty.
std::string disturbance_text(const std::vector<BenchRow>& rows);

// `head` has what all rows share.
nlohmann::json row_json(const nlohmann::json& head, const BenchRow& row);
nlohmann::json mean_json(const nlohmann::json& head, const BenchMean& mean);

}  // namespace anyfp8::cli
