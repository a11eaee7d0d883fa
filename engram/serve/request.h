// What a client of the engine asks for, and what it gets back while it runs. Plain values, without torch or JSON.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engram/model/decode/sampler.h"

namespace engram {

inline constexpr int kMaxLogprobs = 20;

struct SamplingParams : SamplerOptions {
  int max_tokens = 128;  // generated at most, >= 0
  Penalties penalties;
  std::vector<std::string> stop;  // the text ends before the first of them, UTF-8
  int logprobs = -1;              // the chosen token's and those of the n likeliest; -1: none
  int prompt_logprobs = -1;       // the same of the prompt's tokens; such a prompt is computed as a whole, never cached
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to a token's logit, before penalties
  bool ignore_eos = false;
  Status validate() const;  // kInvalidArgument: names the field, got, wanted
  // The next token is the likeliest one, and nothing else of its logits is asked for.
  bool wants_likeliest_only() const;
};

struct GenerationRequest {
  std::vector<int32_t> prompt;  // token ids, at least one
  SamplingParams sampling;
  std::vector<int32_t> forced;  // generated instead of what is sampled, as far as they go: measurements and scoring
  bool memory_off = false;      // knock-out: Engram blocks add nothing
  std::vector<std::string> overlays;  // names; their rows in the tables' place, of two the later one's
  bool trace = false;                 // events carry what the memory did
};

// What one Engram layer did at one token.
struct LayerTrace {
  int layer_id = 0;
  std::vector<float> gates;        // [M] alpha per residual stream
  std::vector<int64_t> row_ids;    // [R], order-major
  std::vector<std::string> tiers;  // [R] what served the row: hot, cache, dram, page_cache, drive, resident, or
                                   // "overlay NAME"
};
struct TokenTrace {
  int32_t token = -1;
  std::vector<LayerTrace> layers;
};

enum class FinishReason { kNone, kStop, kLength, kCancelled, kError };

// One generated token, or the end without one (none was asked for, cancelled, failed).
struct GenerationEvent {
  int32_t token = -1;  // -1: none
  std::string text;    // UTF-8 that is complete and cannot belong to a stop string; special tokens have none
  std::optional<TokenScore> logprob;
  std::vector<TokenScore> prompt_logprobs;  // with the first event, when asked for: the prompt's tokens but its first
  std::vector<TokenTrace> trace;  // with the first event: all prompt tokens; then the tokens run since the last event
  FinishReason finish = FinishReason::kNone;                            // any other: the last event
  Status error;                                                         // with kError
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;  // so far; cached: prefix found in the cache
};

}  // namespace engram
