// Causal attention with rotary keys in fp32, one key-value head of one sequence at a time.
//
// A query or key head is nope plain columns followed by rope rotated ones; the kernel rotates while it packs, so the
// caller hands over projections as they are. Scores of 64 queries against a few hundred keys are made, turned into
// probabilities and used up in cache; only one log-sum per query is kept for the backward pass (FlashAttention,
// arXiv 2205.14135). Scores are held key by key with the queries across the vector, so that the softmax over keys
// needs no sum within a vector. Sums run in a fixed order: results do not depend on threads.
#pragma once
#include <cstdint>

namespace engram {

struct AttentionShape {
  int64_t length = 0;       // T
  int64_t heads = 0;        // H query heads
  int64_t kv_heads = 0;     // each serves heads / kv_heads consecutive query heads
  int64_t nope = 0;         // columns without position; may be 0
  int64_t rope = 0;         // rotated columns, even; may be 0
  int64_t value = 0;        // columns of a value head
  bool interleaved = true;  // rotary pairs (0, 1), (2, 3), ..; else (0, rope / 2), ..
  float scale = 1.0f;       // of the scores

  int64_t width() const { return nope + rope; }
};

// Head h of token t starts at data + t * row_stride + h * head_stride.
struct HeadRows {
  const float* data = nullptr;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
};

// One sequence. Nothing is owned.
struct AttentionInput {
  HeadRows query;              // nope + rope columns
  HeadRows key;                // nope columns
  HeadRows key_rope;           // rope columns; head_stride 0: one rotary key for all heads
  HeadRows value;              // value columns
  const float* cos = nullptr;  // [T, rope / 2]
  const float* sin = nullptr;
  const int32_t* first_key = nullptr;  // [T] the oldest key each query sees, at most its own; null: 0
};

// Handles the query heads of one key-value head.
//   out      [T, H * value]  their columns
//   log_sum  [H, T]          their rows, for attention_backward
void attention_forward(const AttentionShape& shape, const AttentionInput& input, int64_t kv_head, float* out,
                       float* log_sum);

// Rows as in HeadRows, written and not added to. key_rope is this head's own share, rows rope apart: the caller sums
// the heads that share a key.
struct AttentionGradients {
  float* query = nullptr;      // [T, H * (nope + rope)]
  float* key_value = nullptr;  // [T, kv_heads * (nope + value)], per head nope then value columns
  float* key_rope = nullptr;   // [T, rope]
};
void attention_backward(const AttentionShape& shape, const AttentionInput& input, int64_t kv_head, const float* out,
                        const float* log_sum, const float* dout, const AttentionGradients& gradients);

// The oracle of the forward pass, in double, for all heads.
void attention_plain(const AttentionShape& shape, const AttentionInput& input, float* out);

}  // namespace engram
