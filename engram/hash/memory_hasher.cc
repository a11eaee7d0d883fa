#include "engram/hash/memory_hasher.h"

#include <algorithm>

#include "engram/text/tokenizer.h"

namespace engram {

Result<TokenMap> make_token_map(const EngramConfig& config, const Tokenizer& tokenizer) {
  if (config.rule == HashRule::kEngram) return TokenMap::from_tokenizer(tokenizer);
  if (tokenizer.vocab_size() > config.compressed_vocab_size)
    return invalid_argument("the tokenizer has {} ids, the table's vocabulary {}", tokenizer.vocab_size(),
                            config.compressed_vocab_size);
  return TokenMap::identity(config.compressed_vocab_size);
}

Result<MemoryHasher> MemoryHasher::create(const EngramLayout& layout, const TokenMap& map,
                                          std::span<const int> layer_ids) {
  if (map.compressed_vocab_size() != layout.config().compressed_vocab_size) {
    return invalid_argument("compressed_vocab_size: the tokenizer has {}, the layout wants {}",
                            map.compressed_vocab_size(), layout.config().compressed_vocab_size);
  }
  const auto ids = map.ids();
  for (size_t i = 0; layout.cut_id() >= 0 && i < ids.size(); ++i) {
    if (ids[i] != static_cast<int32_t>(i))
      return invalid_argument("token map: id {} became {}, wanted raw ids for the rule {}", i, ids[i],
                              hash_rule_name(layout.config().rule));
  }
  MemoryHasher hasher;
  hasher.map_ = map;
  for (int layer_id : layer_ids.empty() ? std::span<const int>(layout.config().layer_ids) : layer_ids) {
    ENGRAM_ASSIGN_OR_RETURN(const int layer, layout.config().find_layer(layer_id));
    hasher.layers_.emplace_back(layout, layer);
  }
  return hasher;
}

NgramContext MemoryHasher::new_context(int64_t max_roll_back) const {
  ENGRAM_CHECK(!layers_.empty(), "a memory without layers");
  return NgramContext(map_, layers_[0].max_ngram_size(), max_roll_back, layers_[0].cut_id());
}

void MemoryHasher::hash(const NgramContext& context, int64_t count, RowIds& row_ids) const {
  if (row_ids.num_layers() == 0) row_ids = RowIds(num_layers(), rows_per_token());
  const int64_t before = row_ids.num_tokens();
  row_ids.resize(before + count);
  for (int at = 0; at < num_layers(); ++at) {
    layer(at).hash(context, count, row_ids.mutable_layer(at).subspan(static_cast<size_t>(before * rows_per_token())));
  }
}

Result<RowIds> MemoryHasher::hash(std::span<const int32_t> token_ids, std::span<const int32_t> starts) const {
  RowIds out(num_layers(), rows_per_token());
  if (layers_.empty()) return out;
  NgramContext context = new_context();
  ENGRAM_RETURN_IF_ERROR(context.append(token_ids, starts));
  hash(context, static_cast<int64_t>(token_ids.size()), out);
  return out;
}

Status MemoryHasher::hash_text(std::span<const int32_t> token_ids, std::span<const int64_t> document_starts,
                               const std::function<void(int64_t, const RowIds&)>& visit) const {
  constexpr size_t kChunk = 16384;
  NgramContext context = new_context();
  auto next = document_starts.begin();
  for (size_t first = 0; first < token_ids.size(); first += kChunk) {
    const auto chunk = token_ids.subspan(first, std::min(kChunk, token_ids.size() - first));
    std::vector<int32_t> starts;
    for (; next != document_starts.end() && *next < static_cast<int64_t>(first + chunk.size()); ++next)
      starts.push_back(static_cast<int32_t>(*next - static_cast<int64_t>(first)));
    ENGRAM_RETURN_IF_ERROR(context.append(chunk, starts));
    RowIds row_ids;
    hash(context, std::ssize(chunk), row_ids);
    visit(static_cast<int64_t>(first), row_ids);
  }
  return {};
}

}  // namespace engram
