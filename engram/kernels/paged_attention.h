// Causal attention of a sequence's new tokens over keys and values that lie in pages, fp32.
//
// The heads that share one key are handled together: with (new token, head) pairs as the columns of one matrix, a
// decode step of multi-query attention, which is what MLA with absorbed projections is, multiplies each key once for
// all heads. Scores of up to 64 columns against a few hundred keys are made, turned into probabilities and used up in
// cache, as in attention.h; sums run in a fixed order, so results do not depend on threads.
#pragma once
#include <cstdint>

namespace engram {

struct PagedAttentionShape {
  int64_t heads = 1;  // query heads that share the key
  int64_t key_width = 0;
  int64_t value_width = 0;
  float scale = 1.0f;  // of the scores
};

// The key (or value) of slot s starts at data + s * row_stride.
struct PagedRows {
  const float* data = nullptr;
  int64_t row_stride = 0;
};

// Token t of the sequence lies in slot blocks[t / block_size] * block_size + t % block_size.
struct PagedSequence {
  const int32_t* blocks = nullptr;
  int64_t block_size = 0;
  int64_t position = 0;  // of the first new token; its key, and those of the other new ones, are in the pages
  int64_t queries = 0;   // new tokens
};

// Head h of new token q starts at data + q * token_stride + h * head_stride.
struct QueryRows {
  const float* data = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
};

// Column c is head c % heads of new token c / heads.
inline constexpr int64_t kPagedColumns = 64;

// Handles the columns [begin, end), at most kPagedColumns of them.
//   out  value_width columns for head h of new token q, at out + q * out_token_stride + h * value_width
void paged_attention(const PagedAttentionShape& shape, const PagedSequence& sequence, const QueryRows& query,
                     const PagedRows& keys, const PagedRows& values, int64_t begin, int64_t end, float* out,
                     int64_t out_token_stride);

// The oracle, in double, for all columns.
void paged_attention_plain(const PagedAttentionShape& shape, const PagedSequence& sequence, const QueryRows& query,
                           const PagedRows& keys, const PagedRows& values, float* out, int64_t out_token_stride);

}  // namespace engram
