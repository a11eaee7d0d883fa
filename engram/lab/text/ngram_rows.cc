#include "engram/lab/text/ngram_rows.h"

#include <algorithm>

#include "engram/core/mix.h"

namespace engram {
namespace {

constexpr int64_t kChunk = 65536;

}  // namespace

std::vector<uint64_t> ngram_keys(const TokenMap& map, std::span<const int32_t> tokens,
                                 std::span<const int64_t> document_starts, int order, int pad_token_id) {
  const auto canonical = map.ids();
  const auto pad = static_cast<uint64_t>(canonical[static_cast<size_t>(pad_token_id)]);
  std::vector<uint64_t> keys(tokens.size());
  size_t next = 0, start = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (next < document_starts.size() && document_starts[next] == static_cast<int64_t>(t)) {
      start = t;
      ++next;
    }
    uint64_t key = 0;
    for (size_t k = 0; k < static_cast<size_t>(order); ++k) {
      const bool inside = t >= start + k;
      key = splitmix64(key ^ (inside ? static_cast<uint64_t>(canonical[static_cast<size_t>(tokens[t - k])]) : pad));
    }
    keys[t] = key;
  }
  return keys;
}

int64_t NgramCounts::find(uint64_t key) const {
  const auto found = std::lower_bound(keys.begin(), keys.end(), key);
  return found == keys.end() || *found != key ? -1 : found - keys.begin();
}

NgramCounts count_ngrams(std::span<const uint64_t> keys) {
  std::vector<std::pair<uint64_t, int64_t>> sorted(keys.size());
  for (size_t t = 0; t < keys.size(); ++t) sorted[t] = {keys[t], static_cast<int64_t>(t)};
  std::sort(sorted.begin(), sorted.end());
  NgramCounts out;
  for (const auto& [key, position] : sorted) {
    if (out.keys.empty() || out.keys.back() != key) {
      out.keys.push_back(key);
      out.counts.push_back(0);
      out.positions.push_back(position);
    }
    ++out.counts.back();
  }
  return out;
}

void for_each_row_chunk(const NgramHasher& hasher, const TokenMap& map, std::span<const int32_t> tokens,
                        std::span<const int64_t> document_starts, int max_ngram_size,
                        const std::function<void(int64_t, int64_t, std::span<const int64_t>)>& visit) {
  const auto canonical = map.ids();
  const auto total = static_cast<int64_t>(tokens.size());
  std::vector<int64_t> row_ids;
  for (int64_t begin = 0; begin < total; begin += kChunk) {
    const int64_t length = std::min(kChunk, total - begin);
    const auto first = std::lower_bound(document_starts.begin(), document_starts.end(), begin);
    const auto last = std::lower_bound(first, document_starts.end(), begin + length);
    std::vector<int32_t> starts, lookback;
    for (auto start = first; start != last; ++start) starts.push_back(static_cast<int32_t>(*start - begin));
    const int64_t document = first == document_starts.begin() ? 0 : *(first - 1);
    for (int64_t t = std::max(document, begin - (max_ngram_size - 1)); t < begin; ++t) {
      lookback.push_back(canonical[static_cast<size_t>(tokens[static_cast<size_t>(t)])]);
    }
    row_ids.resize(static_cast<size_t>(length * hasher.rows_per_token()));
    throw_if_error(hasher.hash(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(length)), starts,
                               lookback, row_ids));
    visit(begin, length, row_ids);
  }
}

std::vector<int64_t> row_traffic(const NgramHasher& hasher, const TokenMap& map, std::span<const int32_t> tokens,
                                 std::span<const int64_t> document_starts, int max_ngram_size) {
  std::vector<int64_t> traffic(static_cast<size_t>(hasher.num_rows()), 0);
  for_each_row_chunk(hasher, map, tokens, document_starts, max_ngram_size,
                     [&](int64_t, int64_t, std::span<const int64_t> row_ids) {
                       for (int64_t row : row_ids) ++traffic[static_cast<size_t>(row)];
                     });
  return traffic;
}

}  // namespace engram
