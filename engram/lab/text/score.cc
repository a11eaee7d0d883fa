#include "engram/lab/text/score.h"

#include <algorithm>
#include <numeric>

#include "engram/core/json.h"
#include "engram/lab/text/probe_text.h"
#include "engram/serve/llm_engine.h"

namespace engram {
namespace {

// One sequence to read: context and continuation without its last token, which is only predicted.
struct ScoredSequence {
  std::vector<int32_t> tokens;
  int64_t first = 0;  // position whose prediction is the continuation's first token
  bool shortened = false;
};

ScoredSequence make_sequence(const Continuation& continuation, int64_t window) {
  ScoredSequence out;
  out.tokens = continuation.context;
  out.tokens.insert(out.tokens.end(), continuation.tokens.begin(), continuation.tokens.end() - 1);
  const int64_t excess = static_cast<int64_t>(out.tokens.size()) - window;
  if (excess > 0) {
    out.tokens.erase(out.tokens.begin(), out.tokens.begin() + excess);
    out.shortened = true;
  }
  out.first = static_cast<int64_t>(out.tokens.size()) - static_cast<int64_t>(continuation.tokens.size());
  return out;
}

// Shorter sequences are filled up behind their end, where a causal model cannot look.
void score_batch(const LoadedModel& model, std::span<const Continuation> all, std::span<const size_t> chosen,
                 bool memory_off, std::vector<Score>& scores) {
  std::vector<ScoredSequence> sequences;
  int64_t length = 0;
  for (size_t index : chosen) {
    sequences.push_back(make_sequence(all[index], model.config.max_position_embeddings));
    length = std::max(length, static_cast<int64_t>(sequences.back().tokens.size()));
  }
  std::vector<int32_t> tokens;
  for (const ScoredSequence& sequence : sequences) {
    tokens.insert(tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
    tokens.resize(tokens.size() + static_cast<size_t>(length) - sequence.tokens.size(), -1);
  }
  const Transformer& transformer = model.model;
  const torch::Tensor hidden =
      transformer->forward(model.prepare_input(tokens, static_cast<int64_t>(sequences.size()), length, {}, memory_off));
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto& wanted = all[chosen[i]].tokens;
    const auto count = static_cast<int64_t>(wanted.size());
    Score& score = scores[chosen[i]];
    score = {.tokens = count, .greedy = true, .nats = {}, .shortened = sequences[i].shortened};
    // A long text times a large vocabulary would not fit: a few rows of logits at a time.
    const int64_t step = std::max<int64_t>(1, (int64_t{1} << 23) / model.config.vocab_size);
    for (int64_t begin = 0; begin < count; begin += step) {
      const int64_t rows = std::min(step, count - begin);
      const torch::Tensor logits =
          transformer->logits(hidden[static_cast<int64_t>(i)].narrow(0, sequences[i].first + begin, rows));
      const torch::Tensor targets =
          torch::tensor(std::vector<int64_t>(wanted.begin() + begin, wanted.begin() + begin + rows))
              .to(logits.device());
      const torch::Tensor nats = target_nats(logits, targets).to(torch::kCPU, torch::kFloat).contiguous();
      score.nats.insert(score.nats.end(), nats.const_data_ptr<float>(), nats.const_data_ptr<float>() + rows);
      score.greedy = score.greedy && logits.argmax(1).eq(targets).all().item<bool>();
    }
    for (const float nats : score.nats) score.log_likelihood -= nats;
  }
}

// Pages for the batch, or for one sequence that fills the window where that is more.
EngineOptions engine_options(const LoadedModel& model, const ScoreOptions& options) {
  EngineOptions out;
  out.prefix_cache = false;
  out.scheduler.max_sequences = options.batch_size;
  out.scheduler.max_batched_tokens = std::max(out.scheduler.max_batched_tokens, options.batch_size);
  const int64_t window = model.config.max_position_embeddings + out.block_size;
  const torch::Dtype dtype = page_dtype(model.model->parameters().front());
  out.kv_cache_bytes = std::max(out.kv_cache_bytes, window * PagedCache::bytes_per_token(model.config, dtype));
  return out;
}

}  // namespace

Result<Continuation> split_continuation(const LoadedModel& model, const std::string& prompt,
                                        const std::string& answer) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> before, model.tokenizer->encode(prompt));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> whole, model.tokenizer->encode(prompt + answer));
  const auto mismatch = std::mismatch(before.begin(), before.end(), whole.begin(), whole.end());
  Continuation out;
  out.context.assign(whole.begin(), mismatch.second);
  out.tokens.assign(mismatch.second, whole.end());
  if (out.tokens.empty()) return invalid_argument("answer: got an empty text behind {}", quote_text(prompt));
  if (out.context.empty()) {
    if (model.special.bos < 0)
      return invalid_argument("prompt: got an empty prompt, and the vocabulary has no bos token");
    out.context.push_back(model.special.bos);
  }
  return out;
}

Result<std::vector<Score>> score_continuations(const LoadedModel& model, std::span<const Continuation> continuations,
                                               const ScoreOptions& options) {
  torch::InferenceMode inference;
  const int64_t window = model.config.max_position_embeddings;
  std::vector<size_t> order(continuations.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto length_of = [&](size_t i) { return continuations[i].context.size() + continuations[i].tokens.size(); };
  for (size_t i = 0; i < continuations.size(); ++i) {
    if (static_cast<int64_t>(continuations[i].tokens.size()) > window || continuations[i].context.empty() ||
        continuations[i].tokens.empty()) {
      return invalid_argument("continuation {}: got {} + {} tokens, wanted a context and at most {}", i,
                              continuations[i].context.size(), continuations[i].tokens.size(), window);
    }
  }
  // Neighbours of like length waste little on filling.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return length_of(a) < length_of(b); });
  std::vector<Score> scores(continuations.size());
  constexpr size_t kBatchTokens = 1 << 14;
  for (size_t begin = 0, count = 1; begin < order.size(); begin += count, count = 1) {
    const auto fits = [&](size_t next) {
      return count < static_cast<size_t>(options.batch_size) && (count + 1) * length_of(order[next]) <= kBatchTokens;
    };
    while (begin + count < order.size() && fits(begin + count)) ++count;
    const auto chosen = std::span<const size_t>(order).subspan(begin, count);
    score_batch(model, continuations, chosen, options.memory_off, scores);
    if (options.on_progress &&
        !options.on_progress(static_cast<int64_t>(begin + chosen.size()), static_cast<int64_t>(order.size()))) {
      return Status(StatusCode::kCancelled, "scoring interrupted");
    }
  }
  return scores;
}

Result<std::vector<std::string>> greedy_texts(Env& env, const LoadedModel& model, std::span<const GreedyPrompt> prompts,
                                              const ScoreOptions& options) {
  const int64_t window = model.config.max_position_embeddings;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<int64_t>(prompts[i].tokens.size());
    if (length < 1 || length + prompts[i].max_tokens > window) {
      return invalid_argument("prompt {}: got {} tokens and {} to follow, wanted at least 1 and at most {} in all", i,
                              length, prompts[i].max_tokens, window);
    }
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto engine, LLMEngine::create(env, model, engine_options(model, options)));
  std::vector<std::string> texts(prompts.size());
  const auto total = static_cast<int64_t>(prompts.size());
  int64_t done = 0;
  Status failure;
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].max_tokens < 1) {
      ++done;
      continue;
    }
    GenerationRequest request;
    request.prompt = prompts[i].tokens;
    request.sampling.max_tokens = static_cast<int>(prompts[i].max_tokens);
    request.sampling.temperature = 0;
    request.memory_off = options.memory_off;
    ENGRAM_RETURN_IF_ERROR(engine->check(request));
    engine->add(i, std::move(request), [&, i, open = true](const GenerationEvent& event) mutable {
      open = open && event.token >= 0 && !model.tokenizer->is_special(event.token);
      if (open) texts[i] += model.tokenizer->token_bytes(event.token);
      if (event.finish == FinishReason::kError && failure.ok()) failure = event.error;
      if (event.finish != FinishReason::kNone) ++done;
    });
  }
  for (int64_t told = 0; engine->has_work();) {
    engine->step();
    if (done == told || !options.on_progress) continue;
    told = done;
    if (!options.on_progress(done, total)) return Status(StatusCode::kCancelled, "generation interrupted");
  }
  ENGRAM_RETURN_IF_ERROR(failure);
  return texts;
}

}  // namespace engram
