// Planner: what a table costs on this much memory and this drive, from the text it will serve.
//
// profile_corpus() hashes a sample of tokens once and counts. The first half of the sample chooses the hot set and
// warms the caches; hit rates are measured on the second half, so rows that occur only in the first half count for no
// hits. Rates come from a trace that is sampled by row (cache_simulation.h). make_plan() turns rates into bytes, reads
// and a tier. Every access counts, also of a row that the same batch asks for twice (distinct_per_token tells them
// apart): a plan errs on the side of more reads.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engram/core/progress.h"
#include "engram/core/status.h"
#include "engram/hash/token_map.h"
#include "engram/store/plan/profile.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

// Hit rates of caches of `rows` rows.
struct CachePoint {
  int64_t rows = 0;
  double hot = 0;  // the most frequent rows of the first half, fixed
  double lru = 0;
  double s3_fifo = 0;
  double mixed = 0;  // half of the rows hot, half S3-FIFO for the rest
};

struct CorpusProfile {
  int64_t num_tokens = 0;
  int64_t rows_per_token = 0;  // over all layers
  int64_t distinct_rows = 0;
  int64_t table_rows = 0;
  double seen_before = 0;    // share of the second half's accesses whose row the first half has seen
  double zipf_exponent = 0;  // s of count ~ rank^-s, by least squares at log-spaced ranks; 0 where too few rows repeat
  std::vector<std::pair<int64_t, double>> distinct_per_token;  // tokens in a batch, distinct rows of it a token
  std::vector<CachePoint> points;                              // ascending rows
  RowProfile rows;                                             // of the whole sample
};

// starts: index of each document's first token, ascending. sizes: cache sizes in rows to measure, ascending.
// Memory: 8 bytes an access, 24 or so a distinct row.
// kFailedPrecondition: the file has no hash, or `map` is not the one it was made with. kInvalidArgument: fewer than
// two tokens, or ids outside the map.
Result<CorpusProfile> profile_corpus(const RowFileInfo& info, const TokenMap& map, std::span<const int32_t> tokens,
                                     std::span<const int64_t> starts, std::span<const int64_t> sizes,
                                     Progress* progress);

struct PlanOptions {
  std::string table;                 // path, for the URI
  std::string profile;               // path of the saved profile, "" when there is none: then no hot set is proposed
  int64_t ram_bytes = 0;             // for the table
  std::optional<double> drive_iops;  // 4 KiB random reads a second
  std::optional<double> tokens_per_second;
};

// One way to hold the table.
struct PlanTier {
  std::string uri;
  int64_t memory_bytes = 0;
  double hit_rate = 0;                                           // of a row, in memory
  double memory_bytes_per_token = 0, drive_bytes_per_token = 0;  // moved
  double reads_per_token = 0;                                    // of 4 KiB, from the drive
  std::optional<double> reads_per_second;                        // at the wanted speed
  std::optional<double> max_tokens_per_second;                   // that the drive carries; none: unknown or unbounded
  bool fits = false;                                             // in memory, and the wanted speed where it is known
};

struct Plan {
  int64_t table_bytes = 0;  // of rows
  std::vector<PlanTier> tiers;
  size_t recommended = 0;  // the one that fits, else the one with the fewest reads
};

// Cache sizes that a plan needs: a grid over the table, and what ram_bytes hold as rows and as pages.
std::vector<int64_t> plan_cache_sizes(const RowFileInfo& info, int64_t ram_bytes);
// `profile` was measured at plan_cache_sizes().
Plan make_plan(const RowFileInfo& info, const CorpusProfile& profile, const PlanOptions& options);

// How a plan is shown (planner_report.cc).
nlohmann::ordered_json plan_json(const CorpusProfile& profile, const Plan& plan);
std::string plan_text(const CorpusProfile& profile, const Plan& plan, const PlanOptions& options);
// One SVG: hit rate over cache size (logarithmic), a line per policy.
std::string plan_svg(const CorpusProfile& profile, const Plan& plan);

}  // namespace engram
