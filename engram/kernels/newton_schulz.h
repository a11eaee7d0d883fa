// The nearest orthogonal matrix by Newton-Schulz iterations (Muon), for one small matrix and one thread.
//
//   X <- X / |X|_F;  then `steps` times  G = X^T X,  X <- X (a I + b G + c G^2)   with Keller Jordan's coefficients,
//   the steepest slope at zero that still keeps singular values inside about [0.7, 1.2]
// All intermediate values stay in the caches, which a batch of library calls over many matrices does not manage.
#pragma once
#include <cstdint>

namespace engram {

struct NewtonSchulz {
  static constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
  static constexpr double kNormEps = 1e-7;  // least norm that X is divided by
};

// Floats of scratch for newton_schulz().
int64_t newton_schulz_scratch(int64_t rows, int64_t columns);

// x [rows, columns], contiguous, changed in place. Cheaper for rows >= columns.
void newton_schulz(float* x, int64_t rows, int64_t columns, int64_t steps, float* scratch);

}  // namespace engram
