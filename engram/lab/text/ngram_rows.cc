#include "engram/lab/text/ngram_rows.h"

#include <algorithm>

#include "engram/core/mix.h"

namespace engram {
std::vector<uint64_t> ngram_keys(const TokenMap& map, std::span<const int32_t> tokens,
                                 std::span<const int64_t> document_starts, int order, const EngramConfig& config) {
  const auto canonical = map.ids();
  const auto pad = static_cast<uint64_t>(canonical[static_cast<size_t>(config.pad_token_id)]);
  const int cut_id = config.rule == HashRule::kEngram ? -1 : config.pad_token_id;
  std::vector<uint64_t> keys(tokens.size());
  size_t next = 0, start = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (next < document_starts.size() && document_starts[next] == static_cast<int64_t>(t)) {
      start = t;
      ++next;
    }
    if (t > 0 && tokens[t - 1] == cut_id) start = t;
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

std::vector<std::vector<int64_t>> row_traffic(const MemoryHasher& hasher, std::span<const int32_t> tokens,
                                              std::span<const int64_t> document_starts) {
  std::vector<std::vector<int64_t>> traffic;
  for (const NgramHasher& layer : hasher.layers()) traffic.emplace_back(static_cast<size_t>(layer.num_rows()), 0);
  throw_if_error(hasher.hash_text(tokens, document_starts, [&](int64_t, const RowIds& row_ids) {
    for (size_t layer = 0; layer < traffic.size(); ++layer) {
      for (int64_t row : row_ids.layer(static_cast<int>(layer))) ++traffic[layer][static_cast<size_t>(row)];
    }
  }));
  return traffic;
}

}  // namespace engram
