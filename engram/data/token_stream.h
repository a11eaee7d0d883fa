// TokenStream: the tokens of several shards as one sequence. TokenWindows: where that is cut for a model.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engram/core/status.h"
#include "engram/data/packing.h"
#include "engram/data/token_shard.h"

namespace engram {

// Immutable; threads share it. The shards outlive it.
class TokenStream {
 public:
  explicit TokenStream(std::vector<const TokenShard*> shards);
  int64_t num_tokens() const { return num_tokens_; }
  int64_t counted_tokens() const { return counted_tokens_; }
  const std::vector<const TokenShard*>& shards() const { return shards_; }

  // Tokens [begin, begin + out.size()) of the stream, as they are and as targets (-1 where one does not count).
  void copy_tokens(int64_t begin, std::span<int32_t> out) const;
  void copy_targets(int64_t begin, std::span<int32_t> out) const;
  // Document starts strictly inside (begin, end), relative to begin.
  std::vector<int32_t> starts(int64_t begin, int64_t end) const;
  // For after tokens or starts were used.
  Status readable() const;

 private:
  template <typename Copy>
  void for_each_part(int64_t begin, std::span<int32_t> out, Copy&& copy) const;
  // The last shard that begins at or before the position (so never an empty one that another follows).
  size_t shard_at(int64_t position) const;

  std::vector<const TokenShard*> shards_;
  std::vector<int64_t> begins_;
  int64_t num_tokens_ = 0, counted_tokens_ = 0;
};

// Windows of at most length + 1 tokens: `length` inputs and, one further on, their targets. Immutable.
class TokenWindows {
 public:
  TokenWindows(const TokenStream& stream, Packing packing, int64_t length);
  int64_t count() const { return packing_ == Packing::kStream ? stream_windows_ : std::ssize(begins_); }
  int64_t begin(int64_t window) const {
    return packing_ == Packing::kStream ? window * length_ : begins_[static_cast<size_t>(window)];
  }
  int64_t end(int64_t window) const {
    return packing_ == Packing::kStream ? (window + 1) * length_ + 1 : ends_[static_cast<size_t>(window)];
  }

 private:
  void add_document(int64_t begin, int64_t end);

  Packing packing_;
  int64_t length_, stream_windows_ = 0;
  std::vector<int64_t> begins_, ends_;  // with kDocuments
  bool open_ = false;                   // the last window takes another document, if there is room
};

}  // namespace engram
