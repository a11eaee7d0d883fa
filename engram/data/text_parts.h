// Text parts: a validation text divided by what makes its tokens easy, so that one loss becomes several.
//
//   repeats       the token and the one before it, a bigram, stand earlier in the same window: copying finds it
//   overlap       the token lies in a run of kOverlapTokens that the training text has too
//   source        which shard the token comes from
// A cell is a combination of the three; every token has one. Losses of parts are sums of cells.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engram/data/token_shard.h"

namespace engram {

inline constexpr int64_t kOverlapTokens = 13;

// Of every token, as its window sees it: windows of `window` tokens overlap by one, and the token after the last of a
// window is that window's to predict (model/windows.h). The first token of all is predicted by nobody.
std::vector<bool> repeated_bigrams(std::span<const int32_t> token_ids, int64_t window);
// Reads the training text once, about 50M tokens a second.
std::vector<bool> overlap_with(std::span<const int32_t> token_ids, std::span<const TokenShard* const> training);

struct PartLoss {
  std::string name;  // repeats, rest, overlap, no overlap, "rest, no overlap", and "source NAME" when there are several
  int64_t tokens = 0;
  double loss = 0;  // nats per token; 0 when there is no token
};

struct TextParts {
  std::vector<uint32_t> cells;       // of every token
  std::vector<std::string> sources;  // names of the shards

  int count() const { return 4 * static_cast<int>(sources.size()); }
  // From what a model needs for the tokens of each cell, [count()] each.
  std::vector<PartLoss> losses(std::span<const double> nats, std::span<const int64_t> tokens) const;
};
// token_ids: the beginning of the shards of `validation` back to back, perhaps not all.
TextParts divide_text(std::span<const int32_t> token_ids, int64_t window, std::span<const TokenShard> validation,
                      std::span<const TokenShard* const> training);

}  // namespace engram
