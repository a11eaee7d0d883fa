// Row-sparse Adam: one fused update of the table rows that a step touched.
//
// Each row has its own step counter, and bias correction uses it: a row that does not occur neither decays nor counts.
// When every row occurs in every step this is plain Adam. No weight decay.
//   second moment per element: v <- beta2 v + (1 - beta2) g^2
//   row-wise:                  v <- beta2 v + (1 - beta2) mean(g^2), one float per row
//   row <- row - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
// Thread-safe over disjoint rows: split the ids and call from several threads. A row's result does not depend on the
// split or on the other rows; it depends on the vector width only through row-wise sums.
#pragma once
#include <cstdint>

namespace engram {

struct RowAdamOptions {
  float lr = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float eps = 1e-8f;
  float gradient_scale = 1;  // multiplies every gradient first (clipping)
  bool row_wise = false;     // v holds one float per row
};

// The state of one table; nothing is owned.
struct RowAdamState {
  float* table = nullptr;     // [num_rows, dim]
  float* m = nullptr;         // [num_rows, dim]
  float* v = nullptr;         // [num_rows, dim], or [num_rows] when row_wise
  uint32_t* steps = nullptr;  // [num_rows], updates each row has seen; saturates
  int64_t dim = 0;
};

// Updates row row_ids[i] with gradient[i], i < count.
//   row_ids   [count]       distinct, each in [0, num_rows): the caller checks
//   gradient  [count, dim]
void row_adam(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
              const RowAdamOptions& options);

// The oracle: the same in plain scalar loops.
void row_adam_plain(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
                    const RowAdamOptions& options);

}  // namespace engram
