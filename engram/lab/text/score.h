// Scoring of continuations: how likely a model finds a given text after a prompt.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/model/io/checkpoint.h"

namespace engram {

struct Continuation {
  std::vector<int32_t> context;  // at least one token
  std::vector<int32_t> tokens;   // at least one token
};
// The tokens of prompt + answer, divided where the prompt's own tokens end; a token that spans both belongs to the
// answer. An empty prompt means the bos token. kInvalidArgument: not UTF-8, no bos, an empty answer.
Result<Continuation> split_continuation(const LoadedModel& model, const std::string& prompt, const std::string& answer);

struct Score {
  double log_likelihood = 0;  // nats, of all tokens of the continuation
  int64_t tokens = 0;
  bool greedy = false;      // every token is the model's first choice
  std::vector<float> nats;  // of each of its tokens
  bool shortened = false;   // the context did not fit the model and lost its oldest tokens
};
struct ScoreOptions {
  int64_t batch_size = 16;  // sequences per forward pass
  bool memory_off = false;
  std::function<bool(int64_t done, int64_t total)> on_progress;  // false stops (kCancelled)
};
// Scores in the order given. kInvalidArgument: a continuation longer than the model's context.
Result<std::vector<Score>> score_continuations(const LoadedModel& model, std::span<const Continuation> continuations,
                                               const ScoreOptions& options = {});

// The model's first choices after each prompt, as text, in the order given; a text ends before a special token or
// after its own number of tokens. kInvalidArgument: an empty prompt, or one that leaves no room for its tokens.
struct GreedyPrompt {
  std::vector<int32_t> tokens;
  int64_t max_tokens = 0;
};
Result<std::vector<std::string>> greedy_texts(Env& env, const LoadedModel& model, std::span<const GreedyPrompt> prompts,
                                              const ScoreOptions& options = {});

}  // namespace engram
