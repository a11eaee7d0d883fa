// NgramContext: the tail of one sequence as the hash rule sees it. The hasher takes it and nothing else.
//
// Raw ids go in and become canonical ids once, for all layers. With each of them stands its reach: how many ids, itself
// among them, belong to it before a boundary is met: the sequence's begin, a document's start, a masked position, or,
// in rules that say so, the id that ends a text.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engram/core/status.h"
#include "engram/hash/token_map.h"

namespace engram {

// An id that went through a TokenMap; -1 is a masked position. A type of its own, so that a raw id is never hashed.
enum class CanonicalId : int32_t {};

// Copyable value, copied and rolled back with its sequence; one thread.
class NgramContext {
 public:
  // max_roll_back: tokens that roll_back() can take at any time (the longest draft). cut_id: EngramLayout's.
  NgramContext(TokenMap map, int max_ngram_size, int64_t max_roll_back = 0, int cut_id = -1);

  // The sequence goes on.
  //   token_ids [L]   raw ids; -1 is a masked position
  //   starts    [any] index of each document's first token among them, ascending; may be empty
  // kInvalidArgument: an id outside the vocabulary, starts that are not ascending; nothing changes.
  Status append(std::span<const int32_t> token_ids, std::span<const int32_t> starts = {});
  // The same for ids that are canonical already.
  Status append_canonical(std::span<const CanonicalId> ids);
  // Takes back the last `count` tokens. kInvalidArgument: more than num_held(); nothing changes.
  Status roll_back(int64_t count);

  int64_t num_tokens() const { return num_tokens_; }
  // The latest tokens, which can be hashed and rolled back: those of the last append(), and max_roll_back before them.
  int64_t num_held() const { return static_cast<int64_t>(reach_.size()) - 1; }
  int max_ngram_size() const { return max_ngram_size_; }
  int compressed_vocab_size() const { return map_.compressed_vocab_size(); }
  int cut_id() const { return cut_id_; }

  // What the hasher reads of the last `count` tokens: N-1 ids before them and theirs (masked ones read 0), and the
  // reach of each, at most N. REQUIRES: count <= num_held(). Valid until the context changes.
  std::span<const int32_t> ids(int64_t count) const;
  std::span<const uint8_t> reach(int64_t count) const;

 private:
  template <typename ToCanonical>
  void push(size_t count, std::span<const int32_t> starts, ToCanonical canonical);

  TokenMap map_;
  int max_ngram_size_, cut_id_;
  int64_t max_roll_back_, num_tokens_ = 0;
  std::vector<int32_t> ids_;    // [N-1 + held]
  std::vector<uint8_t> reach_;  // [1 + held], from the token before them
};

}  // namespace engram
