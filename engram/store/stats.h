// What a store counts: rows served per tier, pages and bytes moved, de-duplication, waiting, use of prefetches.
//
// Rows are counted as callers ask for them, duplicates included, when their read has succeeded. Tiers are sorted,
// fastest first. The first's hits + misses are `rows`; each later tier's equal the misses of the tier before it. Tiers
// below a cache count what the cache fetches from them: distinct rows and prefetched ones. Times are monotonic. As a
// struct, as JSON, and as Prometheus text.
#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace engram {

struct LatencySummary {
  uint64_t count = 0;
  double us_mean = 0, us_p50 = 0, us_p99 = 0, us_max = 0;  // quantiles within 1/8 of their value
};

// Durations, four buckets per power of two. Thread-safe, without locks.
class LatencyHistogram {
 public:
  void record(std::chrono::nanoseconds duration);
  LatencySummary summary() const;

 private:
  std::array<std::atomic<uint64_t>, 256> buckets_{};
  std::atomic<uint64_t> sum_ns_{0}, max_ns_{0};
};

struct TierStats {
  std::string name;            // hot, cache, dram, mapped, page_cache, drive
  uint64_t hits = 0;           // rows that this tier served
  uint64_t misses = 0;         // rows that it was asked for and passed on to the next one
  uint64_t pages = 0;          // pages it read
  uint64_t bytes = 0;          // bytes it read (drive) or copied out (memory)
  uint64_t evictions = 0;      // rows
  uint64_t resident_rows = 0;  // now, in the memory of this process
  uint64_t resident_bytes = 0;
};

struct PrefetchStats {
  uint64_t requested = 0;  // rows of prefetch() calls
  uint64_t dropped = 0;    // under load
  uint64_t useless = 0;    // there already, or on their way
  uint64_t used = 0;       // read after they had arrived
  uint64_t late = 0;       // read while still on their way
  uint64_t unused = 0;     // evicted before any read
};

// Plain value: one moment's counts since open.
struct StoreStats {
  uint64_t reads = 0;         // read() calls that succeeded
  uint64_t failed_reads = 0;  // that did not, bad arguments included
  uint64_t rows = 0;          // of successful reads
  uint64_t unique_rows = 0;   // the same without duplicates inside one read
  uint64_t retries = 0;       // pages read twice
  std::vector<TierStats> tiers;
  PrefetchStats prefetch;
  LatencySummary read;   // from read() to the last byte
  LatencySummary stall;  // callers blocked in Pending::wait(), or in read() itself where the tier is memory

  double rows_per_unique_row() const;  // the de-duplication ratio, 1 or more; 1 when nothing was read
  const TierStats* find_tier(const std::string& name) const;
  nlohmann::ordered_json to_json() const;
  // Metrics engram_store_*, each with `labels` (`layer="1"`) in its braces.
  std::string to_prometheus(const std::string& labels = "") const;
};

// The metrics of several stores, each with its labels. All samples of a metric follow one TYPE line, as Prometheus
// asks.
std::string to_prometheus(std::span<const std::pair<std::string, StoreStats>> stores);

// The counters behind a StoreStats that every store keeps. Thread-safe, without locks.
struct StoreCounters {
  std::atomic<uint64_t> reads{0}, failed_reads{0}, rows{0}, unique_rows{0}, retries{0};
  LatencyHistogram read, stall;

  void count_read(uint64_t num_rows, uint64_t num_unique, std::chrono::steady_clock::time_point start);
  // Everything but tiers and prefetch.
  StoreStats snapshot() const;
};

}  // namespace engram
