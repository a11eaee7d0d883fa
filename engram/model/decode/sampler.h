// Sampler: logits -> one token. Greedy at temperature 0; deterministic for a seed.
//
// One draw of the seed's stream a token, and one pass over the logits: the token is the first one, by id, at which the
// weights of the tokens that are kept add up to more than the draw's share of them all. Weights are fp32, so that on
// another machine's vector unit a draw within 1e-6 of a border may fall on its other side.
#pragma once
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engram/core/status.h"
#include "engram/hash/numpy_random.h"

namespace engram {

struct SamplerOptions {
  double temperature = 0.8;  // 0: greedy
  int top_k = 0;             // 0: off
  double top_p = 1.0;        // 1: off
  double min_p = 0.0;        // drops tokens below min_p * (the likeliest one's probability); 0: off
  int64_t seed = 0;
  Status validate() const;  // names the field, got, wanted
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  // logits [V], all finite. Greedy ties go to the lower id. Filters keep the likeliest tokens, of equal ones those of
  // lower ids, in this order: top-k, min-p, top-p (the shortest list whose share of what is left reaches p).
  int32_t sample(std::span<const float> logits);
  // As if `count` tokens had been sampled.
  void skip(size_t count);

 private:
  SamplerOptions options_;
  NumpyRandom random_;
};

// Penalties on tokens seen before, in place, as vLLM and transformers define them.
struct Penalties {
  double repetition = 1.0;  // divides the positive and multiplies the negative logits of all tokens seen; 1: off
  double presence = 0.0;    // taken off the logits of tokens generated
  double frequency = 0.0;   // the same, times how often
  Status validate() const;  // names the field, got, wanted
  bool any() const { return repetition != 1.0 || presence != 0.0 || frequency != 0.0; }
};
// What penalties ask of a sequence, kept while it grows.
class SeenTokens {
 public:
  // tokens: the whole sequence, of which those of earlier calls are the beginning; the first num_prompt are the prompt.
  void read(std::span<const int32_t> tokens, size_t num_prompt);
  // How often each token was generated; 0: it is in the prompt alone.
  const std::unordered_map<int32_t, int>& generated() const { return generated_; }

 private:
  size_t num_read_ = 0;
  std::unordered_map<int32_t, int> generated_;
};
void apply_penalties(const Penalties& penalties, const SeenTokens& seen, std::span<float> logits);

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0;
};
// A token's log probability, and the likeliest tokens in its place, likeliest first.
struct TokenScore : TokenLogprob {
  std::vector<TokenLogprob> top;
};
// log softmax(logits) of `token` and of the `count` likeliest tokens, of equal ones those of lower ids. Finite logits.
TokenScore score_token(std::span<const float> logits, int32_t token, int count);
bool all_finite(std::span<const float> logits);

}  // namespace engram
