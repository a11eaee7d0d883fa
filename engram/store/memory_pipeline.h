// MemoryPipeline: the tokens of a batch of sequences -> the rows of every Engram layer, in one call.
//
// Row ids are made here (hash/ngram_hasher.h) and go once to each layer's store. A call is cut into pieces: while a
// piece's rows are on their way the next one is hashed, and all of a layer's pieces are asked for before the next
// layer's, so an early layer does not wait for a late one. The same call serves prefill chunks, decode steps of
// one token, and the verification of draft tokens, whose rejected tail TokenHistory::roll_back() takes back.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/hash/token_map.h"
#include "engram/store/row_store.h"

namespace engram {

// What one sequence carries from call to call: the canonical ids of its latest tokens. Copyable value; one thread.
class TokenHistory {
 public:
  // max_roll_back: tokens that can be taken back at any time (the longest draft).
  explicit TokenHistory(int max_ngram_size, int max_roll_back = 0);

  // canonical_ids: -1 is a masked position; starts: indices of document starts among them, ascending.
  void append(std::span<const int32_t> canonical_ids, std::span<const int32_t> starts);
  // The last max_ngram_size - 1 canonical ids of the current document, oldest first: what NgramHasher::hash() takes.
  std::vector<int32_t> lookback() const;
  // Takes back the last `count` tokens. kInvalidArgument: more than were appended, or than it remembers; nothing
  // changes.
  Status roll_back(int64_t count);
  int64_t num_tokens() const { return num_tokens_; }

 private:
  struct Token {
    int32_t canonical_id;
    bool starts_document;
  };
  size_t lookback_size_, kept_;
  int64_t num_tokens_ = 0;
  std::vector<Token> tokens_;  // the latest; all of them while there are fewer than kept_
};

// New tokens of one sequence.
struct SequenceChunk {
  TokenHistory* history = nullptr;     // what came before; read() appends token_ids to it
  std::span<const int32_t> token_ids;  // raw ids; -1 is a masked position
  std::span<const int32_t> starts;     // index of each document's first token in this chunk, ascending; may be empty
};

// Rows under way. Move-only; waits when destroyed. One thread.
class MemoryRead {
 public:
  bool done(int layer) const;
  // Waits for one layer's rows. `layer` is a position in MemoryPipeline::layer_ids(). Once per layer.
  Status wait(int layer);

 private:
  friend class MemoryPipeline;
  std::vector<std::vector<Pending>> pending_;  // [layers][pieces]
};

// Immutable; threads may share one.
class MemoryPipeline {
 public:
  // One hasher and one store per layer. kInvalidArgument: their numbers, or the rows of a layer, disagree.
  static Result<MemoryPipeline> create(const TokenMap& map, std::vector<NgramHasher> hashers,
                                       std::vector<std::unique_ptr<RowStore>> stores, std::vector<int> layer_ids);
  // Everything from a row file: the stores of a URI (engram/store/open.h), hashed as its header says. layer_ids empty:
  // all. kFailedPrecondition: the file says nothing of hashing, or was made for another tokenizer.
  static Result<MemoryPipeline> open(Env& env, std::string_view uri, const TokenMap& map,
                                     std::span<const int> layer_ids = {});

  int num_layers() const { return static_cast<int>(stores_.size()); }
  const std::vector<int>& layer_ids() const { return layer_ids_; }
  int rows_per_token() const { return hashers_[0].rows_per_token(); }
  RowStore& store(int layer) const { return *stores_[static_cast<size_t>(layer)]; }

  // Starts reading. The histories must be different ones; each has its chunk appended when this returns.
  //   out[layer]  [T, R, row_bytes of the layer], T tokens of all chunks back to back; the caller's until wait(layer)
  // kInvalidArgument: a size, an id outside the vocabulary, starts that are not ascending; nothing is read and no
  // history changes. Errors of the stores come from wait().
  Result<MemoryRead> read(std::span<const SequenceChunk> chunks, std::span<const std::span<std::byte>> out) const;
  // Hints that these tokens may follow (drafts). Histories stay. Tokens that read() would refuse give no hint.
  void prefetch(std::span<const SequenceChunk> chunks) const;

 private:
  MemoryPipeline() = default;
  Status check(std::span<const SequenceChunk> chunks) const;
  // Calls fn with the row ids [tokens, R] of each piece, in order, and the index of its first token.
  void for_each_piece(int layer, std::span<const SequenceChunk> chunks,
                      const std::function<void(std::span<const int64_t>, int64_t)>& fn) const;
  std::vector<int32_t> canonical(std::span<const int32_t> token_ids) const;

  TokenMap map_ = TokenMap::identity(0);
  std::vector<int> layer_ids_;
  std::vector<NgramHasher> hashers_;
  std::vector<std::unique_ptr<RowStore>> stores_;
};

}  // namespace engram
