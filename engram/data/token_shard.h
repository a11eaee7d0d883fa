// Token shards: tokenised text on disk, mapped when read. Bytes: docs/formats/token_shard.md.
//
// A shard holds a header (magic, dtype u16 or u32, vocabulary size and digest, counts, raw byte count), the token ids
// of whole documents back to back, and the index of each document's first token. The raw byte count travels with the
// tokens, so bits per byte = nats * tokens / (ln 2 * raw_bytes) needs nothing else. A shard may have a mask, which says
// which tokens a model is to learn to predict; without one all count.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

struct TokenShardInfo {
  int64_t num_tokens = 0;
  int64_t num_documents = 0;
  int64_t raw_bytes = 0;  // UTF-8 bytes of the text the tokens came from
  int32_t vocab_size = 0;
  std::string vocabulary_digest;  // Tokenizer::vocabulary_digest(), 64 hex digits
  bool masked = false;            // some tokens may not count
  int64_t counted_tokens = 0;     // num_tokens without a mask
  int64_t counted_bytes = 0;      // UTF-8 bytes of the text that counts; raw_bytes without a mask
};

// Immutable after open(); threads may share one. Move-only.
class TokenShard {
 public:
  // kNotFound; kDataLoss: magic, version, counts against file size, CRC, ids below vocab_size, starts ascending.
  static Result<TokenShard> open(Env& env, const std::string& path);
  const TokenShardInfo& info() const { return info_; }
  const std::string& path() const { return path_; }
  // Copies tokens [begin, begin + out.size()) as int32. REQUIRES: the range lies inside the shard.
  void copy_tokens(int64_t begin, std::span<int32_t> out) const;
  // The same tokens as targets: -1 where one does not count.
  void copy_targets(int64_t begin, std::span<int32_t> out) const;
  std::span<const int64_t> document_starts() const { return starts_; }  // [num_documents], ascending, first is 0
  // For after tokens or starts were used: kDataLoss where the file was cut since it was opened.
  Status readable() const { return file_->readable(); }

 private:
  std::string path_;
  TokenShardInfo info_;
  std::unique_ptr<MappedFile> file_;
  const std::byte* tokens_ = nullptr;
  int token_bytes_ = 2;
  std::span<const int64_t> starts_;
  const std::byte* counted_ = nullptr;  // a bit for each token; null without a mask
};

// Text as evaluation reads it, in memory: documents back to back.
struct TokenText {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> targets;          // the same, -1 where a token does not count
  std::vector<int64_t> document_starts;  // ascending
  int64_t bytes = 0;                     // UTF-8 bytes of the text that counts
};
// Every shard, in order, as one text.
TokenText read_shards(std::span<const TokenShard> shards);

// Streams documents into a shard; the file appears under its name only in finish().
class TokenShardWriter {
 public:
  // masked: the shard has a mask, format version 2; else version 1.
  static Result<std::unique_ptr<TokenShardWriter>> create(Env& env, const std::string& path, int32_t vocab_size,
                                                          const std::string& vocabulary_digest, bool masked = false);
  ~TokenShardWriter();
  // The tokens before first_counted do not count, and neither do raw_bytes - counted_bytes. REQUIRES: a mask, where
  // some do not.
  Status append_document(std::span<const int32_t> token_ids, int64_t raw_bytes, int64_t first_counted,
                         int64_t counted_bytes);
  Status append_document(std::span<const int32_t> token_ids, int64_t raw_bytes) {
    return append_document(token_ids, raw_bytes, 0, raw_bytes);
  }
  Result<TokenShardInfo> finish();

 private:
  struct Impl;
  explicit TokenShardWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
