// Row-sparse Adam: one fused update of the table rows that a step touched.
//
// Each row has its own step counter, and bias correction uses it: a row that does not occur neither decays nor counts.
// When every row occurs in every step this is plain Adam. No weight decay.
//   second moment per element: v <- beta2 v + (1 - beta2) g^2
//   row-wise:                  v <- beta2 v + (1 - beta2) mean(g^2), one float per row
//   row <- row - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
//   without a first moment:    beta1 is 0 and m the gradient, as in RMSprop
// Rows and first moments may be bf16. All arithmetic is in fp32; the result is rounded up or down at random, so that
// the mean is kept where updates are smaller than half a step of bf16. The random bits are those of row_noise(), so a
// result does not depend on threads, on who owns the row, or on a stop between two steps. Thread-safe over disjoint
// rows: split the ids and call from several threads. A row's result does not depend on the split or on the other rows;
// it depends on the vector width only through row-wise sums.
#pragma once
#include <cstdint>

#include "engram/core/mix.h"

namespace engram {

struct RowAdamOptions {
  float lr = 0;
  float beta1 = 0, beta2 = 0, eps = 0;
  float gradient_scale = 1;  // multiplies every gradient first (clipping)
  bool row_wise = false;     // v holds one float per row
  uint64_t noise_key = 0;    // of this table: what row_noise() starts from
};

// The state of one table; nothing is owned.
struct RowAdamState {
  float* table = nullptr;     // [num_rows, dim]
  float* m = nullptr;         // [num_rows, dim]
  float* v = nullptr;         // [num_rows, dim], or [num_rows] when row_wise
  uint32_t* steps = nullptr;  // [num_rows], updates each row has seen; saturates
  int64_t dim = 0;
  uint16_t* table_bf16 = nullptr;  // instead of table
  uint16_t* m_bf16 = nullptr;      // instead of m; neither: no first moment
};

// 32 random bits of each number of a row at one of its steps. Column c has mix_word(row_noise() + c * kNoiseStride):
// the upper half rounds the row, the lower half its first moment.
inline constexpr uint32_t kNoiseStride = 0x9E3779B9u;
inline uint32_t row_noise(uint64_t key, int64_t number, uint32_t step) {
  return static_cast<uint32_t>(splitmix64(splitmix64(key + static_cast<uint64_t>(number)) + step));
}
// Every input bit reaches every output bit (the constants are lowbias32's).
inline uint32_t mix_word(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// Updates row row_ids[i] with gradient[i], i < count.
//   row_ids   [count]       distinct, each in [0, num_rows): the caller checks
//   gradient  [count, dim]
//   numbers   [count]       of the rows in the whole table, for row_noise(); null: row_ids
void row_adam(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
              const RowAdamOptions& options, const int64_t* numbers = nullptr);

// The oracle: the same in plain scalar loops.
void row_adam_plain(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
                    const RowAdamOptions& options, const int64_t* numbers = nullptr);

}  // namespace engram
