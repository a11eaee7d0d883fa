#include "engram/store/stats.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
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

std::string to_prometheus(std::span<const std::pair<std::string, StoreStats>> stores) {
  std::string text;
  // One metric: its TYPE line, and what `samples(stats, sample)` gives for each store by calling sample(extra, value).
  const auto metric = [&](const std::string& name, const char* kind, const auto& samples) {
    text += fmt::format("# TYPE engram_store_{} {}\n", name, kind);
    for (const auto& store : stores) {
      const std::string& labels = store.first;  // clang 14 captures no structured binding
      samples(store.second, [&](const std::string& extra, auto value, const char* suffix = "") {
        const char* const comma = labels.empty() || extra.empty() ? "" : ",";
        text += fmt::format("engram_store_{}{}{{{}{}{}}} {}\n", name, suffix, labels, comma, extra, value);
      });
    }
  };
  const StoreStats none;
  const TierStats no_tier;
  for (size_t i = 0; i < counts_of(none).size(); ++i)
    metric(fmt::format("{}_total", counts_of(none)[i].first), "counter",
           [&](const StoreStats& stats, const auto& sample) { sample("", counts_of(stats)[i].second); });
  for (size_t i = 0; i < counts_of(no_tier).size(); ++i)
    metric(fmt::format("tier_{}_total", counts_of(no_tier)[i].first), "counter",
           [&](const StoreStats& stats, const auto& sample) {
             for (const TierStats& tier : stats.tiers)
               sample(fmt::format("tier=\"{}\"", tier.name), counts_of(tier)[i].second);
           });
  for (size_t i = 0; i < sizes_of(no_tier).size(); ++i)
    metric(fmt::format("tier_{}", sizes_of(no_tier)[i].first), "gauge",
           [&](const StoreStats& stats, const auto& sample) {
             for (const TierStats& tier : stats.tiers)
               sample(fmt::format("tier=\"{}\"", tier.name), sizes_of(tier)[i].second);
           });
  metric("prefetch_rows_total", "counter", [](const StoreStats& stats, const auto& sample) {
    for (const auto& [name, value] : counts_of(stats.prefetch)) sample(fmt::format("outcome=\"{}\"", name), value);
  });
  for (const auto& [name, latency] :
       {std::pair{"read_seconds", &StoreStats::read}, std::pair{"stall_seconds", &StoreStats::stall}}) {
    metric(name, "summary", [latency = latency](const StoreStats& stats, const auto& sample) {
      const LatencySummary& times = stats.*latency;
      sample("quantile=\"0.5\"", times.us_p50 * 1e-6);
      sample("quantile=\"0.99\"", times.us_p99 * 1e-6);
      sample("quantile=\"1\"", times.us_max * 1e-6);
      sample("", times.us_mean * 1e-6 * static_cast<double>(times.count), "_sum");
      sample("", times.count, "_count");
    });
  }
  return text;
}

std::string StoreStats::to_prometheus(const std::string& labels) const {
  const std::pair<std::string, StoreStats> one{labels, *this};
  return engram::to_prometheus({&one, 1});
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
