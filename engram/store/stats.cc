#include "engram/store/stats.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace engram {
namespace {

// Bucket of a duration: the power of two and the two bits below the leading one.
size_t bucket_of(uint64_t ns) {
  if (ns < 4) return ns;
  const int power = 63 - std::countl_zero(ns);
  return static_cast<size_t>(power) * 4 + ((ns >> (power - 2)) & 3);
}
// The middle of a bucket, in microseconds.
double middle_of(size_t bucket) {
  if (bucket < 8) return static_cast<double>(bucket) * 1e-3;
  return std::ldexp(4.5 + static_cast<double>(bucket % 4), static_cast<int>(bucket / 4) - 2) * 1e-3;
}

}  // namespace

void LatencyHistogram::record(std::chrono::nanoseconds duration) {
  const auto ns = static_cast<uint64_t>(std::max<int64_t>(0, duration.count()));
  buckets_[bucket_of(ns)].fetch_add(1, std::memory_order_relaxed);
  sum_ns_.fetch_add(ns, std::memory_order_relaxed);
  uint64_t max = max_ns_.load(std::memory_order_relaxed);
  while (ns > max && !max_ns_.compare_exchange_weak(max, ns, std::memory_order_relaxed)) {
  }
}

LatencySummary LatencyHistogram::summary() const {
  std::array<uint64_t, 256> counts;
  LatencySummary summary;
  for (size_t i = 0; i < counts.size(); ++i) {
    counts[i] = buckets_[i].load(std::memory_order_relaxed);
    summary.count += counts[i];
  }
  if (summary.count == 0) return summary;
  summary.us_mean =
      static_cast<double>(sum_ns_.load(std::memory_order_relaxed)) * 1e-3 / static_cast<double>(summary.count);
  summary.us_max = static_cast<double>(max_ns_.load(std::memory_order_relaxed)) * 1e-3;
  const auto quantile = [&](double share) {
    const auto wanted = static_cast<uint64_t>(std::ceil(share * static_cast<double>(summary.count)));
    uint64_t seen = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      seen += counts[i];
      if (seen >= wanted) return std::min(middle_of(i), summary.us_max);
    }
    return summary.us_max;
  };
  summary.us_p50 = quantile(0.5);
  summary.us_p99 = quantile(0.99);
  return summary;
}

double StoreStats::rows_per_unique_row() const {
  return unique_rows == 0 ? 1.0 : static_cast<double>(rows) / static_cast<double>(unique_rows);
}

const TierStats* StoreStats::find_tier(const std::string& name) const {
  for (const TierStats& tier : tiers) {
    if (tier.name == name) return &tier;
  }
  return nullptr;
}

namespace {

nlohmann::ordered_json latency_json(const LatencySummary& latency) {
  return {{"count", latency.count},
          {"mean_us", latency.us_mean},
          {"p50_us", latency.us_p50},
          {"p99_us", latency.us_p99},
          {"max_us", latency.us_max}};
}

// Name and value of every plain count, for both text forms.
std::vector<std::pair<const char*, uint64_t>> counts_of(const StoreStats& stats) {
  return {{"reads", stats.reads},
          {"failed_reads", stats.failed_reads},
          {"rows", stats.rows},
          {"unique_rows", stats.unique_rows},
          {"retries", stats.retries}};
}
std::vector<std::pair<const char*, uint64_t>> counts_of(const TierStats& tier) {
  return {{"hits", tier.hits},
          {"misses", tier.misses},
          {"pages", tier.pages},
          {"bytes", tier.bytes},
          {"evictions", tier.evictions}};
}
std::vector<std::pair<const char*, uint64_t>> sizes_of(const TierStats& tier) {
  return {{"resident_rows", tier.resident_rows}, {"resident_bytes", tier.resident_bytes}};
}
std::vector<std::pair<const char*, uint64_t>> counts_of(const PrefetchStats& prefetch) {
  return {{"requested", prefetch.requested}, {"dropped", prefetch.dropped}, {"useless", prefetch.useless},
          {"used", prefetch.used},           {"late", prefetch.late},       {"unused", prefetch.unused}};
}

}  // namespace

nlohmann::ordered_json StoreStats::to_json() const {
  nlohmann::ordered_json json;
  for (const auto& [name, value] : counts_of(*this)) json[name] = value;
  json["rows_per_unique_row"] = rows_per_unique_row();
  json["tiers"] = nlohmann::ordered_json::array();
  for (const TierStats& tier : tiers) {
    nlohmann::ordered_json entry = {{"name", tier.name}};
    for (const auto& [name, value] : counts_of(tier)) entry[name] = value;
    for (const auto& [name, value] : sizes_of(tier)) entry[name] = value;
    json["tiers"].push_back(entry);
  }
  for (const auto& [name, value] : counts_of(prefetch)) json["prefetch"][name] = value;
  json["read"] = latency_json(read);
  json["stall"] = latency_json(stall);
  return json;
}

std::string StoreStats::to_prometheus(const std::string& labels) const {
  std::string text;
  const auto line = [&](const std::string& name, const std::string& extra, auto value) {
    const std::string comma = labels.empty() || extra.empty() ? "" : ",";
    text += fmt::format("engram_store_{}{{{}{}{}}} {}\n", name, labels, comma, extra, value);
  };
  const auto type = [&](const std::string& name, const char* kind) {
    text += fmt::format("# TYPE engram_store_{} {}\n", name, kind);
  };
  for (const auto& [name, value] : counts_of(*this)) {
    type(fmt::format("{}_total", name), "counter");
    line(fmt::format("{}_total", name), "", value);
  }
  for (size_t i = 0; i < counts_of(TierStats{}).size(); ++i) {
    const std::string name = fmt::format("tier_{}_total", counts_of(TierStats{})[i].first);
    type(name, "counter");
    for (const TierStats& tier : tiers) line(name, fmt::format("tier=\"{}\"", tier.name), counts_of(tier)[i].second);
  }
  for (size_t i = 0; i < sizes_of(TierStats{}).size(); ++i) {
    const std::string name = fmt::format("tier_{}", sizes_of(TierStats{})[i].first);
    type(name, "gauge");
    for (const TierStats& tier : tiers) line(name, fmt::format("tier=\"{}\"", tier.name), sizes_of(tier)[i].second);
  }
  type("prefetch_rows_total", "counter");
  for (const auto& [name, value] : counts_of(prefetch))
    line("prefetch_rows_total", fmt::format("outcome=\"{}\"", name), value);
  for (const auto& [name, latency] : {std::pair{"read_seconds", read}, std::pair{"stall_seconds", stall}}) {
    type(name, "summary");
    line(name, "quantile=\"0.5\"", latency.us_p50 * 1e-6);
    line(name, "quantile=\"0.99\"", latency.us_p99 * 1e-6);
    line(name, "quantile=\"1\"", latency.us_max * 1e-6);
    line(std::string(name) + "_sum", "", latency.us_mean * 1e-6 * static_cast<double>(latency.count));
    line(std::string(name) + "_count", "", latency.count);
  }
  return text;
}

void StoreCounters::count_read(uint64_t num_rows, uint64_t num_unique, std::chrono::steady_clock::time_point start) {
  reads.fetch_add(1, std::memory_order_relaxed);
  rows.fetch_add(num_rows, std::memory_order_relaxed);
  unique_rows.fetch_add(num_unique, std::memory_order_relaxed);
  read.record(std::chrono::steady_clock::now() - start);
}

StoreStats StoreCounters::snapshot() const {
  StoreStats stats;
  stats.reads = reads.load(std::memory_order_relaxed);
  stats.failed_reads = failed_reads.load(std::memory_order_relaxed);
  stats.rows = rows.load(std::memory_order_relaxed);
  stats.unique_rows = unique_rows.load(std::memory_order_relaxed);
  stats.retries = retries.load(std::memory_order_relaxed);
  stats.read = read.summary();
  stats.stall = stall.summary();
  return stats;
}

}  // namespace engram
