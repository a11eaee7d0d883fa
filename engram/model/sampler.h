// Sampler: logits -> one token. Greedy at temperature 0; deterministic for a seed, on any machine.
#pragma once
#include <cstdint>
#include <span>

#include "engram/core/numpy_random.h"
#include "engram/core/status.h"

namespace engram {

struct SamplerOptions {
  double temperature = 0.8;  // 0: greedy
  int top_k = 0;             // 0: off
  double top_p = 1.0;        // 1: off
  int64_t seed = 0;
  Status validate() const;  // names the flag, got, wanted
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  // logits [V], all finite. Ties go to the lower id. Order: temperature, top-k, top-p.
  int32_t sample(std::span<const float> logits);

 private:
  SamplerOptions options_;
  NumpyRandom random_;
};

}  // namespace engram
