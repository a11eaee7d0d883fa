// TokenMap: raw token id -> canonical id (the paper's tokenizer compression).
//
// Built once from a tokenizer: ids whose decoded text normalises to the same key share a canonical id, given in
// first-seen order (docs/engram.md section 1). Immutable; threads may share one; cheap to copy (shared storage).
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engram/core/status.h"

namespace engram {

class Tokenizer;

class TokenMap {
 public:
  static Result<TokenMap> from_tokenizer(const Tokenizer& tokenizer);
  // Every raw id is its own canonical id (ablation "without compression", and ids that are already canonical).
  static TokenMap identity(int vocab_size);
  // kInvalidArgument: a canonical id that is negative or not below compressed_vocab_size.
  static Result<TokenMap> from_ids(std::vector<int32_t> canonical_ids, int compressed_vocab_size);

  int vocab_size() const { return static_cast<int>(ids_->size()); }
  int compressed_vocab_size() const { return compressed_vocab_size_; }
  std::span<const int32_t> ids() const { return *ids_; }  // [vocab_size]
  // SHA-256 over the map as little-endian int32, lower-case hex.
  std::string sha256() const;

 private:
  std::shared_ptr<const std::vector<int32_t>> ids_ = std::make_shared<const std::vector<int32_t>>();
  int compressed_vocab_size_ = 0;
};

}  // namespace engram
