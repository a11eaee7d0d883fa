#include "engram/data/text_parts.h"

#include <algorithm>
#include <unordered_set>

#include "engram/core/mix.h"

namespace engram {
namespace {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15u;  // odd
constexpr int64_t kChunk = 1 << 20;              // training tokens in memory at a time
constexpr int kFilterBits = 24;

// Rolling hash of the last kOverlapTokens tokens, modulo 2^64.
class RunHash {
 public:
  RunHash() {
    for (int64_t i = 0; i < kOverlapTokens; ++i) leaving_ *= kBase;
  }
  void add(int32_t token) {
    uint64_t& oldest = tokens_[static_cast<size_t>(seen_++ % kOverlapTokens)];
    const uint64_t value = splitmix64(static_cast<uint64_t>(token));
    sum_ = sum_ * kBase + value - oldest * leaving_;
    oldest = value;
  }
  bool full() const { return seen_ >= kOverlapTokens; }
  uint64_t value() const { return splitmix64(sum_); }

 private:
  uint64_t tokens_[kOverlapTokens] = {}, sum_ = 0, leaving_ = 1;
  int64_t seen_ = 0;
};

// Which of the sorted hashes occur in the training text. A bitmap says no at once for nearly all that do not.
std::vector<bool> find_runs(const std::vector<uint64_t>& wanted, std::span<const TokenShard* const> training) {
  std::vector<bool> filter(size_t{1} << kFilterBits), found(wanted.size());
  for (const uint64_t hash : wanted) filter[hash >> (64 - kFilterBits)] = true;
  std::vector<int32_t> tokens;
  for (const TokenShard* shard : training) {
    RunHash run;
    const int64_t total = shard->info().num_tokens;
    for (int64_t begin = 0; begin < total; begin += kChunk) {
      tokens.resize(static_cast<size_t>(std::min(kChunk, total - begin)));
      shard->copy_tokens(begin, tokens);
      for (const int32_t token : tokens) {
        run.add(token);
        if (!run.full() || !filter[run.value() >> (64 - kFilterBits)]) continue;
        const auto place = std::lower_bound(wanted.begin(), wanted.end(), run.value());
        if (place != wanted.end() && *place == run.value()) found[static_cast<size_t>(place - wanted.begin())] = true;
      }
    }
  }
  return found;
}

}  // namespace

std::vector<bool> repeated_bigrams(std::span<const int32_t> token_ids, int64_t window) {
  std::vector<bool> out(token_ids.size());
  std::unordered_set<uint64_t> seen;
  for (size_t i = 1; i < token_ids.size(); ++i) {
    if ((static_cast<int64_t>(i) - 1) % window == 0) seen.clear();
    const uint64_t bigram =
        static_cast<uint64_t>(static_cast<uint32_t>(token_ids[i - 1])) << 32 | static_cast<uint32_t>(token_ids[i]);
    out[i] = !seen.insert(bigram).second;
  }
  return out;
}

std::vector<bool> overlap_with(std::span<const int32_t> token_ids, std::span<const TokenShard* const> training) {
  std::vector<bool> out(token_ids.size());
  std::vector<uint64_t> hashes;  // hashes[i]: of the run that ends at token i + kOverlapTokens - 1
  RunHash run;
  for (const int32_t token : token_ids) {
    run.add(token);
    if (run.full()) hashes.push_back(run.value());
  }
  std::vector<uint64_t> wanted = hashes;
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  const std::vector<bool> found = find_runs(wanted, training);
  for (size_t i = 0; i < hashes.size(); ++i) {
    const auto place = std::lower_bound(wanted.begin(), wanted.end(), hashes[i]) - wanted.begin();
    if (!found[static_cast<size_t>(place)]) continue;
    for (size_t t = i; t < i + static_cast<size_t>(kOverlapTokens); ++t) out[t] = true;
  }
  return out;
}

std::vector<PartLoss> TextParts::losses(std::span<const double> nats, std::span<const int64_t> tokens) const {
  std::vector<PartLoss> out;
  const auto add = [&](const std::string& name, auto belongs) {
    PartLoss part{name, 0, 0};
    for (size_t cell = 0; cell < nats.size(); ++cell) {
      if (!belongs(cell)) continue;
      part.tokens += tokens[cell];
      part.loss += nats[cell];
    }
    if (part.tokens > 0) part.loss /= static_cast<double>(part.tokens);
    out.push_back(std::move(part));
  };
  add("repeats", [](size_t cell) { return (cell & 1) != 0; });
  add("rest", [](size_t cell) { return (cell & 1) == 0; });
  add("overlap", [](size_t cell) { return (cell & 2) != 0; });
  add("no overlap", [](size_t cell) { return (cell & 2) == 0; });
  add("rest, no overlap", [](size_t cell) { return (cell & 3) == 0; });
  for (size_t source = 0; source < sources.size() && sources.size() > 1; ++source)
    add("source " + sources[source], [&](size_t cell) { return cell / 4 == source; });
  return out;
}

TextParts divide_text(std::span<const int32_t> token_ids, int64_t window, std::span<const TokenShard> validation,
                      std::span<const TokenShard* const> training) {
  TextParts parts;
  const std::vector<bool> repeats = repeated_bigrams(token_ids, window), overlap = overlap_with(token_ids, training);
  for (const TokenShard& shard : validation) {
    const auto source = static_cast<uint32_t>(parts.sources.size());
    parts.sources.push_back(shard.path());
    const size_t end = std::min(token_ids.size(), parts.cells.size() + static_cast<size_t>(shard.info().num_tokens));
    for (size_t i = parts.cells.size(); i < end; ++i)
      parts.cells.push_back(static_cast<uint32_t>(4 * source + 2 * overlap[i] + repeats[i]));
  }
  return parts;
}

}  // namespace engram
