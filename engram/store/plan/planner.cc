#include "engram/store/plan/planner.h"

#include <algorithm>
#include <cmath>

#include "engram/core/mix.h"
#include "engram/store/plan/cache_simulation.h"

namespace engram {
namespace {

constexpr size_t kLargestTrace = 4'000'000;  // accesses that the simulations walk over
constexpr int kRowBits = 48;                 // kMaxRowsPerTable
constexpr int64_t kCacheRowOverhead = 24;    // id and index beside a cached row's bytes

// An access: position of the table and row.
uint64_t key_of(size_t table, int64_t row) {
  return static_cast<uint64_t>(table) << kRowBits | static_cast<uint64_t>(row);
}

// Every access of the tokens, in the order of a decoder: token by token, and for each its rows layer by layer.
Result<std::vector<uint64_t>> hash_tokens(const RowFileInfo& info, const TokenMap& map, std::span<const int32_t> tokens,
                                          std::span<const int64_t> starts, Progress* progress) {
  ENGRAM_ASSIGN_OR_RETURN(const MemoryHasher hasher, info.hasher(map));
  const auto width = static_cast<size_t>(hasher.rows_per_token());
  std::vector<uint64_t> keys;
  keys.reserve(tokens.size() * width * info.tables.size());
  ENGRAM_RETURN_IF_ERROR(hasher.hash_text(tokens, starts, [&](int64_t, const RowIds& rows) {
    for (int64_t t = 0; t < rows.num_tokens(); ++t) {
      for (int layer = 0; layer < rows.num_layers(); ++layer) {
        for (const int64_t row : rows.layer(layer, t, 1)) keys.push_back(key_of(static_cast<size_t>(layer), row));
      }
    }
    if (progress != nullptr) progress->advance(rows.num_tokens());
  }));
  return keys;
}

// Distinct rows a token in batches of `tokens`, over as many whole batches as there are, or one shorter one.
double distinct_per_token(std::span<const uint64_t> keys, int64_t rows_per_token, int64_t tokens) {
  const size_t batch = std::min(keys.size(), static_cast<size_t>(tokens * rows_per_token));
  constexpr size_t kMostKeys = 4'000'000;  // enough for a mean
  std::vector<uint64_t> sorted;
  size_t distinct = 0, counted = 0;
  for (size_t at = 0; at + batch <= keys.size() && (at == 0 || at + batch <= kMostKeys); at += batch) {
    sorted.assign(keys.begin() + static_cast<ptrdiff_t>(at), keys.begin() + static_cast<ptrdiff_t>(at + batch));
    std::sort(sorted.begin(), sorted.end());
    distinct += static_cast<size_t>(std::unique(sorted.begin(), sorted.end()) - sorted.begin());
    counted += batch;
  }
  return static_cast<double>(distinct) / static_cast<double>(counted) * static_cast<double>(rows_per_token);
}

// The accesses of a share of the rows, renumbered.
struct Trace {
  std::vector<uint32_t> keys;
  uint32_t num_keys = 0;
  size_t warm = 0;     // where the second half begins
  double share = 1.0;  // of the rows
};

Trace sample_trace(std::span<const uint64_t> keys, size_t half) {
  Trace trace;
  if (keys.size() > kLargestTrace) trace.share = static_cast<double>(kLargestTrace) / static_cast<double>(keys.size());
  const double bound = trace.share * 0x1p64;
  std::vector<uint64_t> sampled;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (i == half) trace.warm = sampled.size();
    if (trace.share == 1.0 || static_cast<double>(mix_bits(keys[i] + 1)) < bound) sampled.push_back(keys[i]);
  }
  std::vector<uint64_t> names = sampled;
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  for (const uint64_t key : sampled)
    trace.keys.push_back(static_cast<uint32_t>(std::lower_bound(names.begin(), names.end(), key) - names.begin()));
  trace.num_keys = static_cast<uint32_t>(names.size());
  return trace;
}

// [num_keys] place of each key by its count in the first half, most frequent first.
std::vector<uint32_t> rank_keys(const Trace& trace) {
  std::vector<uint32_t> counts(trace.num_keys), order(trace.num_keys), ranks(trace.num_keys);
  for (size_t i = 0; i < trace.warm; ++i) ++counts[trace.keys[i]];
  for (uint32_t key = 0; key < trace.num_keys; ++key) order[key] = key;
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return counts[a] != counts[b] ? counts[a] > counts[b] : a < b; });
  for (uint32_t rank = 0; rank < trace.num_keys; ++rank) ranks[order[rank]] = rank;
  // A row that the first half never asks for is in no hot set, however large.
  for (uint32_t key = 0; key < trace.num_keys; ++key) {
    if (counts[key] == 0) ranks[key] = UINT32_MAX;
  }
  return ranks;
}

// Accesses of the second half to hot keys; the others, in order, go to `rest`.
int64_t count_hot(const Trace& trace, const std::vector<uint32_t>& ranks, int64_t size, Trace* rest) {
  int64_t hits = 0;
  for (size_t i = 0; i < trace.keys.size(); ++i) {
    if (rest != nullptr && i == trace.warm) rest->warm = rest->keys.size();
    if (static_cast<int64_t>(ranks[trace.keys[i]]) < size) {
      if (i >= trace.warm) ++hits;
    } else if (rest != nullptr) {
      rest->keys.push_back(trace.keys[i]);
    }
  }
  return hits;
}

std::vector<CachePoint> measure_caches(const Trace& trace, std::span<const int64_t> sizes) {
  const std::vector<uint32_t> ranks = rank_keys(trace);
  std::vector<int64_t> scaled;
  for (const int64_t size : sizes)
    scaled.push_back(std::max<int64_t>(1, std::llround(static_cast<double>(size) * trace.share)));
  const std::vector<int64_t> lru = simulate_lru(trace.keys, trace.num_keys, trace.warm, scaled);
  const double counted = static_cast<double>(std::max<size_t>(1, trace.keys.size() - trace.warm));
  std::vector<CachePoint> points;
  for (size_t i = 0; i < sizes.size(); ++i) {
    CachePoint point{.rows = sizes[i]};
    Trace rest;
    point.hot = static_cast<double>(count_hot(trace, ranks, scaled[i], nullptr)) / counted;
    point.lru = static_cast<double>(lru[i]) / counted;
    point.s3_fifo = static_cast<double>(simulate_s3_fifo(trace.keys, trace.num_keys, trace.warm, scaled[i])) / counted;
    const int64_t hot = count_hot(trace, ranks, scaled[i] / 2, &rest);
    const int64_t cached = simulate_s3_fifo(rest.keys, trace.num_keys, rest.warm, scaled[i] - scaled[i] / 2);
    point.mixed = static_cast<double>(hot + cached) / counted;
    points.push_back(point);
  }
  return points;
}

// Share of [half, end) whose key is in [0, half). Both parts sorted.
double share_seen(std::span<const uint64_t> first, std::span<const uint64_t> second) {
  size_t seen = 0, at = 0;
  for (const uint64_t key : second) {
    while (at < first.size() && first[at] < key) ++at;
    if (at < first.size() && first[at] == key) ++seen;
  }
  return second.empty() ? 0 : static_cast<double>(seen) / static_cast<double>(second.size());
}

// keys sorted. Counts per row, most frequent first.
RowProfile count_rows_of(const RowFileInfo& info, std::span<const uint64_t> keys) {
  RowProfile profile;
  struct Entry {
    uint32_t count;
    int64_t row;
  };
  std::vector<std::vector<Entry>> entries(info.tables.size());
  for (size_t begin = 0; begin < keys.size();) {
    size_t end = begin;
    while (end < keys.size() && keys[end] == keys[begin]) ++end;
    const auto row = static_cast<int64_t>(keys[begin] & ((uint64_t{1} << kRowBits) - 1));
    entries[keys[begin] >> kRowBits].push_back({static_cast<uint32_t>(std::min<size_t>(end - begin, UINT32_MAX)), row});
    begin = end;
  }
  for (size_t table = 0; table < entries.size(); ++table) {
    std::sort(entries[table].begin(), entries[table].end(),
              [](const Entry& a, const Entry& b) { return a.count != b.count ? a.count > b.count : a.row < b.row; });
    RowProfile::Layer layer{.layer_id = info.tables[table].layer_id};
    for (const Entry& entry : entries[table]) {
      layer.row_ids.push_back(entry.row);
      layer.counts.push_back(entry.count);
    }
    profile.layers.push_back(std::move(layer));
  }
  return profile;
}

double fit_zipf(const RowProfile& profile) {
  std::vector<uint32_t> counts;
  for (const RowProfile::Layer& layer : profile.layers)
    counts.insert(counts.end(), layer.counts.begin(), layer.counts.end());
  std::sort(counts.begin(), counts.end(), std::greater<>());
  // Ranks where counts are 1 or 2 say more about the size of the sample than about the text.
  constexpr uint32_t kLeastCount = 3;
  double n = 0, sum_x = 0, sum_y = 0, sum_xx = 0, sum_xy = 0;
  for (double rank = 1; rank <= static_cast<double>(counts.size()); rank *= 1.25) {
    const uint32_t count = counts[static_cast<size_t>(rank) - 1];
    if (count < kLeastCount) break;
    const double x = std::log(std::floor(rank)), y = std::log(count);
    n += 1, sum_x += x, sum_y += y, sum_xx += x * x, sum_xy += x * y;
  }
  const double spread = n * sum_xx - sum_x * sum_x;
  return n < 8 || spread <= 0 ? 0 : -(n * sum_xy - sum_x * sum_y) / spread;
}

int64_t table_rows(const RowFileInfo& info) {
  int64_t rows = 0;
  for (const RowTable& table : info.tables) rows += table.num_rows;
  return rows;
}

int64_t table_bytes(const RowFileInfo& info) {
  int64_t bytes = 0;
  for (const RowTable& table : info.tables) bytes += table.num_rows * table.row_bytes;
  return bytes;
}

// Mean over the rows of all tables, which may differ in their formats.
double mean_row_bytes(const RowFileInfo& info) {
  return static_cast<double>(table_bytes(info)) / static_cast<double>(table_rows(info));
}

int64_t rows_in_cache(const RowFileInfo& info, int64_t bytes) {
  const double each = mean_row_bytes(info) + static_cast<double>(kCacheRowOverhead);
  return std::clamp<int64_t>(static_cast<int64_t>(static_cast<double>(bytes) / each), 1, table_rows(info));
}

// Hot rows lie far apart: a page of the system's cache holds one of them.
int64_t rows_in_page_cache(const RowFileInfo& info, int64_t bytes) {
  return std::clamp<int64_t>(bytes / kRowPageBytes, 1, table_rows(info));
}

std::string size_text(int64_t bytes) {
  constexpr int64_t kMiB = 1 << 20;
  if (bytes >= 1024 * kMiB && bytes % (1024 * kMiB) == 0) return fmt::format("{}GiB", bytes / (1024 * kMiB));
  return bytes >= kMiB ? fmt::format("{}MiB", bytes / kMiB) : fmt::format("{}KiB", std::max<int64_t>(4, bytes / 1024));
}

// Characters that have a meaning in a store's URI.
std::string escape_path(const std::string& path) {
  std::string escaped;
  for (const char c : path) escaped += c == '%' ? "%25" : c == '?' ? "%3F" : c == '&' ? "%26" : std::string(1, c);
  return escaped;
}

}  // namespace

Result<CorpusProfile> profile_corpus(const RowFileInfo& info, const TokenMap& map, std::span<const int32_t> tokens,
                                     std::span<const int64_t> starts, std::span<const int64_t> sizes,
                                     Progress* progress) {
  if (tokens.size() < 2) return invalid_argument("a corpus of {} tokens, wanted at least 2", tokens.size());
  ENGRAM_ASSIGN_OR_RETURN(std::vector<uint64_t> keys, hash_tokens(info, map, tokens, starts, progress));
  CorpusProfile profile;
  profile.num_tokens = static_cast<int64_t>(tokens.size());
  profile.rows_per_token = static_cast<int64_t>(keys.size() / tokens.size());
  profile.table_rows = table_rows(info);
  for (const int64_t batch : {int64_t{1}, int64_t{64}, int64_t{512}, int64_t{4096}}) {
    if (batch <= profile.num_tokens)
      profile.distinct_per_token.emplace_back(batch, distinct_per_token(keys, profile.rows_per_token, batch));
  }
  const size_t half = tokens.size() / 2 * static_cast<size_t>(profile.rows_per_token);
  profile.points = measure_caches(sample_trace(keys, half), sizes);

  const auto middle = keys.begin() + static_cast<ptrdiff_t>(half);
  std::sort(keys.begin(), middle);
  std::sort(middle, keys.end());
  profile.seen_before = share_seen(std::span(keys).first(half), std::span(keys).subspan(half));
  std::inplace_merge(keys.begin(), middle, keys.end());
  profile.rows = count_rows_of(info, keys);
  profile.rows.num_tokens = profile.num_tokens;
  profile.rows.token_map_sha256 = info.hash->token_map_sha256;
  for (const RowProfile::Layer& layer : profile.rows.layers)
    profile.distinct_rows += static_cast<int64_t>(layer.row_ids.size());
  profile.zipf_exponent = fit_zipf(profile.rows);
  return profile;
}

std::vector<int64_t> plan_cache_sizes(const RowFileInfo& info, int64_t ram_bytes) {
  std::vector<int64_t> sizes = {rows_in_cache(info, ram_bytes), rows_in_page_cache(info, ram_bytes)};
  const int64_t rows = table_rows(info);
  for (const double share : {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0})
    sizes.push_back(std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(rows) * share)));
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

Plan make_plan(const RowFileInfo& info, const CorpusProfile& profile, const PlanOptions& options) {
  Plan plan;
  plan.table_bytes = table_bytes(info);
  const double per_token = static_cast<double>(profile.rows_per_token);
  const std::string path = escape_path(options.table), size = size_text(options.ram_bytes);
  const auto point = [&](int64_t rows) {
    const auto at =
        std::find_if(profile.points.begin(), profile.points.end(), [&](const CachePoint& p) { return p.rows == rows; });
    ENGRAM_CHECK(at != profile.points.end(), "no point of {} rows was measured", rows);
    return *at;
  };
  const auto add = [&](std::string uri, int64_t memory, double hit_rate) {
    PlanTier tier{.uri = std::move(uri), .memory_bytes = memory, .hit_rate = hit_rate};
    tier.memory_bytes_per_token = per_token * mean_row_bytes(info);
    tier.reads_per_token = per_token * (1 - hit_rate);
    tier.drive_bytes_per_token = tier.reads_per_token * static_cast<double>(kRowPageBytes);
    if (options.tokens_per_second) tier.reads_per_second = *options.tokens_per_second * tier.reads_per_token;
    if (options.drive_iops && tier.reads_per_token > 0)
      tier.max_tokens_per_second = *options.drive_iops / tier.reads_per_token;
    tier.fits = memory <= options.ram_bytes && (!options.tokens_per_second || !tier.max_tokens_per_second ||
                                                *tier.max_tokens_per_second >= *options.tokens_per_second);
    plan.tiers.push_back(std::move(tier));
  };
  add("dram:" + path, plan.table_bytes, 1.0);
  const int64_t ram = std::min(options.ram_bytes, plan.table_bytes);
  const CachePoint cached = point(rows_in_cache(info, options.ram_bytes));
  add(fmt::format("nvme:{}?cache={}", path, size), ram, cached.s3_fifo);
  if (!options.profile.empty()) {
    const std::string hot = escape_path(options.profile);
    add(fmt::format("nvme:{}?hot={}&hot_size={}", path, hot, size), ram, cached.hot);
    const std::string half = size_text(options.ram_bytes / 2);
    add(fmt::format("nvme:{}?cache={}&hot={}&hot_size={}", path, half, hot, half), ram, cached.mixed);
  }
  add("pagecache:" + path, ram, point(rows_in_page_cache(info, options.ram_bytes)).lru);
  // All in memory when it fits; else the fewest reads, the earlier one (simpler) among equals.
  if (!plan.tiers[0].fits) {
    plan.recommended = 1;
    for (size_t i = 2; i < plan.tiers.size(); ++i) {
      if (plan.tiers[i].reads_per_token < plan.tiers[plan.recommended].reads_per_token) plan.recommended = i;
    }
  }
  return plan;
}

}  // namespace engram
