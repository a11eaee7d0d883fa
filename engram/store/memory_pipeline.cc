#include "engram/store/memory_pipeline.h"

#include <algorithm>

#include "engram/store/open.h"

namespace engram {
namespace {

// Long enough to fill a drive's queue, short enough to start it soon.
constexpr size_t kPieceTokens = 1024;

// The starts within [begin, end), counted from `begin`.
std::vector<int32_t> starts_within(std::span<const int32_t> starts, size_t begin, size_t end) {
  std::vector<int32_t> within;
  for (int32_t start : starts) {
    if (static_cast<size_t>(start) >= begin && static_cast<size_t>(start) < end)
      within.push_back(start - static_cast<int32_t>(begin));
  }
  return within;
}

}  // namespace

TokenHistory::TokenHistory(int max_ngram_size, int max_roll_back)
    : lookback_size_(static_cast<size_t>(std::max(1, max_ngram_size) - 1)),
      kept_(lookback_size_ + static_cast<size_t>(std::max(0, max_roll_back))) {}

void TokenHistory::append(std::span<const int32_t> canonical_ids, std::span<const int32_t> starts) {
  num_tokens_ += static_cast<int64_t>(canonical_ids.size());
  // Of a long chunk only the end is remembered.
  const size_t first = canonical_ids.size() - std::min(canonical_ids.size(), kept_);
  auto start = std::lower_bound(starts.begin(), starts.end(), static_cast<int32_t>(first));
  for (size_t i = first; i < canonical_ids.size(); ++i) {
    const bool starts_document = start != starts.end() && static_cast<size_t>(*start) == i;
    if (starts_document) ++start;
    tokens_.push_back({canonical_ids[i], starts_document});
  }
  if (tokens_.size() > kept_) tokens_.erase(tokens_.begin(), tokens_.end() - static_cast<int64_t>(kept_));
}

std::vector<int32_t> TokenHistory::lookback() const {
  std::vector<int32_t> ids;
  for (size_t i = tokens_.size(); i > 0 && ids.size() < lookback_size_; --i) {
    ids.push_back(tokens_[i - 1].canonical_id);
    if (tokens_[i - 1].starts_document) break;
  }
  std::reverse(ids.begin(), ids.end());
  return ids;
}

Status TokenHistory::roll_back(int64_t count) {
  // What stays must be all that was there before, or enough for a look-back.
  const auto size = static_cast<int64_t>(tokens_.size());
  const bool has_all = size == num_tokens_;
  const int64_t most = has_all ? size : size - static_cast<int64_t>(lookback_size_);
  if (count < 0 || count > most)
    return invalid_argument("taking back {} tokens of {}, wanted 0 .. {}", count, num_tokens_, most);
  tokens_.resize(static_cast<size_t>(size - count));
  num_tokens_ -= count;
  return {};
}

bool MemoryRead::done(int layer) const {
  return std::ranges::all_of(pending_[static_cast<size_t>(layer)], [](const Pending& piece) { return piece.done(); });
}

Status MemoryRead::wait(int layer) {
  Status status;
  for (Pending& piece : pending_[static_cast<size_t>(layer)]) {
    Status ended = piece.wait();
    if (status.ok()) status = std::move(ended);
  }
  pending_[static_cast<size_t>(layer)].clear();
  return status;
}

Result<MemoryPipeline> MemoryPipeline::create(const TokenMap& map, std::vector<NgramHasher> hashers,
                                              std::vector<std::unique_ptr<RowStore>> stores,
                                              std::vector<int> layer_ids) {
  if (hashers.empty() || hashers.size() != stores.size() || hashers.size() != layer_ids.size())
    return invalid_argument("{} hashers, {} stores and {} layer ids, wanted one of each per layer", hashers.size(),
                            stores.size(), layer_ids.size());
  for (size_t i = 0; i < hashers.size(); ++i) {
    if (hashers[i].num_rows() != stores[i]->num_rows() || hashers[i].rows_per_token() != hashers[0].rows_per_token())
      return invalid_argument("layer {}: the store has {} rows, wanted {}", layer_ids[i], stores[i]->num_rows(),
                              hashers[i].num_rows());
  }
  MemoryPipeline pipeline;
  pipeline.map_ = map;
  pipeline.layer_ids_ = std::move(layer_ids);
  pipeline.hashers_ = std::move(hashers);
  pipeline.stores_ = std::move(stores);
  return pipeline;
}

Result<MemoryPipeline> MemoryPipeline::open(Env& env, std::string_view uri, const TokenMap& map,
                                            std::span<const int> layer_ids) {
  ENGRAM_ASSIGN_OR_RETURN(OpenTable table, open_row_stores(env, uri, layer_ids));
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, table.info.layout());
  ENGRAM_RETURN_IF_ERROR(table.info.check_token_map(map));
  std::vector<NgramHasher> hashers;
  const std::vector<int>& all = layout.config().layer_ids;
  for (int layer_id : table.layer_ids) {
    const auto position = std::find(all.begin(), all.end(), layer_id) - all.begin();
    ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher, NgramHasher::create(layout, map, static_cast<int>(position)));
    hashers.push_back(std::move(hasher));
  }
  return create(map, std::move(hashers), std::move(table.stores), std::move(table.layer_ids));
}

// What NgramHasher::hash() would refuse, before anything is read.
Status MemoryPipeline::check(std::span<const SequenceChunk> chunks) const {
  for (size_t i = 0; i < chunks.size(); ++i) {
    const SequenceChunk& chunk = chunks[i];
    if (chunk.history == nullptr) return invalid_argument("sequence {}: no history", i);
    for (size_t at = 0; at < chunk.token_ids.size(); ++at) {
      if (const int32_t id = chunk.token_ids[at]; id < -1 || id >= map_.vocab_size())
        return invalid_argument("sequence {}: token {} is {}, wanted -1 (masked) .. {}", i, at, id,
                                map_.vocab_size() - 1);
    }
    int64_t low = 0;
    for (int32_t start : chunk.starts) {
      if (start < low || static_cast<size_t>(start) >= chunk.token_ids.size())
        return invalid_argument("sequence {}: a document starts at {}, wanted {} .. {}", i, start, low,
                                static_cast<int64_t>(chunk.token_ids.size()) - 1);
      low = int64_t{start} + 1;
    }
  }
  return {};
}

std::vector<int32_t> MemoryPipeline::canonical(std::span<const int32_t> token_ids) const {
  std::vector<int32_t> ids(token_ids.begin(), token_ids.end());
  for (int32_t& id : ids) id = id < 0 ? -1 : map_.ids()[static_cast<size_t>(id)];
  return ids;
}

void MemoryPipeline::for_each_piece(int layer, std::span<const SequenceChunk> chunks,
                                    const std::function<void(std::span<const int64_t>, int64_t)>& fn) const {
  const NgramHasher& hasher = hashers_[static_cast<size_t>(layer)];
  const auto rows_per_token = static_cast<size_t>(hasher.rows_per_token());
  std::vector<int64_t> row_ids(kPieceTokens * rows_per_token);
  size_t tokens = 0;  // in row_ids
  int64_t first = 0;
  const auto flush = [&] {
    if (tokens > 0) fn(std::span(row_ids).first(tokens * rows_per_token), first);
    first += static_cast<int64_t>(tokens);
    tokens = 0;
  };
  for (const SequenceChunk& chunk : chunks) {
    TokenHistory history = *chunk.history;
    for (size_t at = 0; at < chunk.token_ids.size();) {
      const size_t count = std::min(chunk.token_ids.size() - at, kPieceTokens - tokens);
      const std::span<const int32_t> part = chunk.token_ids.subspan(at, count);
      const std::vector<int32_t> starts = starts_within(chunk.starts, at, at + count);
      const auto out = std::span(row_ids).subspan(tokens * rows_per_token, count * rows_per_token);
      const Status status = hasher.hash(part, starts, history.lookback(), out);
      ENGRAM_CHECK(status.ok(), "checked before: {}", status.message());
      history.append(canonical(part), starts);
      at += count;
      tokens += count;
      if (tokens == kPieceTokens) flush();
    }
  }
  flush();
}

Result<MemoryRead> MemoryPipeline::read(std::span<const SequenceChunk> chunks,
                                        std::span<const std::span<std::byte>> out) const {
  ENGRAM_RETURN_IF_ERROR(check(chunks));
  size_t tokens = 0;
  for (const SequenceChunk& chunk : chunks) tokens += chunk.token_ids.size();
  const size_t rows = tokens * static_cast<size_t>(rows_per_token());
  if (out.size() != stores_.size())
    return invalid_argument("outputs for {} layers, wanted {}", out.size(), stores_.size());
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i].size() != rows * stores_[i]->row_bytes())
      return invalid_argument("layer {}: {} bytes for {} rows of {}", layer_ids_[i], out[i].size(), rows,
                              stores_[i]->row_bytes());
  }
  MemoryRead read;
  read.pending_.resize(stores_.size());
  for (size_t i = 0; i < stores_.size(); ++i) {
    const size_t token_bytes = static_cast<size_t>(rows_per_token()) * stores_[i]->row_bytes();
    for_each_piece(static_cast<int>(i), chunks, [&](std::span<const int64_t> row_ids, int64_t first) {
      const size_t bytes = row_ids.size() * stores_[i]->row_bytes();
      read.pending_[i].push_back(
          stores_[i]->read(row_ids, out[i].subspan(static_cast<size_t>(first) * token_bytes, bytes)));
    });
  }
  for (const SequenceChunk& chunk : chunks) chunk.history->append(canonical(chunk.token_ids), chunk.starts);
  return read;
}

void MemoryPipeline::prefetch(std::span<const SequenceChunk> chunks) const {
  if (!check(chunks).ok()) return;
  for (size_t i = 0; i < stores_.size(); ++i) {
    for_each_piece(static_cast<int>(i), chunks,
                   [&](std::span<const int64_t> row_ids, int64_t) { stores_[i]->prefetch(row_ids); });
  }
}

}  // namespace engram
