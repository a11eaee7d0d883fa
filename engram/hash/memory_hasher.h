// MemoryHasher: tokens -> the row ids of every layer of one memory. What a model, a row file and the C ABI hash with.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engram/core/status.h"
#include "engram/hash/layout.h"
#include "engram/hash/ngram_context.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/hash/row_ids.h"
#include "engram/hash/token_map.h"

namespace engram {

class Tokenizer;

// The token map of a model with this tokenizer: compression, or for a rule of raw ids none. kInvalidArgument: a
// tokenizer of more ids than that rule's vocabulary.
Result<TokenMap> make_token_map(const EngramConfig& config, const Tokenizer& tokenizer);

// Immutable after create(); threads may share one; cheap to copy.
class MemoryHasher {
 public:
  MemoryHasher() = default;  // no layer: a model without memory
  // layer_ids: blocks of the layout, in this order; empty: all. kInvalidArgument: a map of another size than the
  // layout's compressed_vocab_size (that would rehash the whole table without a word), or one that changes ids under a
  // rule of raw ids. kNotFound: no such block.
  static Result<MemoryHasher> create(const EngramLayout& layout, const TokenMap& map,
                                     std::span<const int> layer_ids = {});

  int num_layers() const { return static_cast<int>(layers_.size()); }
  const NgramHasher& layer(int at) const { return layers_[static_cast<size_t>(at)]; }
  const std::vector<NgramHasher>& layers() const { return layers_; }
  int rows_per_token() const { return layers_.empty() ? 0 : layers_[0].rows_per_token(); }  // R
  const TokenMap& map() const { return map_; }

  // A sequence that begins. REQUIRES: at least one layer.
  NgramContext new_context(int64_t max_roll_back = 0) const;
  // Hashes the last `count` tokens of the context, of every layer, and puts their ids after `row_ids`'s.
  // REQUIRES: count <= context.num_held(), a context of this hasher, row_ids with its layers (or none at all).
  void hash(const NgramContext& context, int64_t count, RowIds& row_ids) const;
  // A whole sequence at once: NgramContext::append()'s arguments and errors.
  Result<RowIds> hash(std::span<const int32_t> token_ids, std::span<const int32_t> starts = {}) const;
  // A text of any length, in chunks: visit(index of the first token, the ids of the chunk's tokens), in order.
  // document_starts: indices into the text, ascending. kInvalidArgument: an id outside the vocabulary.
  Status hash_text(std::span<const int32_t> token_ids, std::span<const int64_t> document_starts,
                   const std::function<void(int64_t, const RowIds&)>& visit) const;

 private:
  TokenMap map_ = TokenMap::identity(0);
  std::vector<NgramHasher> layers_;
};

}  // namespace engram
