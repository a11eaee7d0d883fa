#include "engram/lab/score.h"

#include <algorithm>
#include <numeric>

#include "engram/core/json.h"
#include "engram/lab/probe_text.h"

namespace engram {
namespace {

// One sequence to read: context and continuation without its last token, which is only predicted.
struct Sequence {
  std::vector<int32_t> tokens;
  int64_t first = 0;  // position whose prediction is the continuation's first token
  bool shortened = false;
};

Sequence make_sequence(const Continuation& continuation, int64_t window) {
  Sequence out;
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
  std::vector<Sequence> sequences;
  int64_t length = 0;
  for (size_t index : chosen) {
    sequences.push_back(make_sequence(all[index], model.config.max_position_embeddings));
    length = std::max(length, static_cast<int64_t>(sequences.back().tokens.size()));
  }
  std::vector<int32_t> tokens;
  for (const Sequence& sequence : sequences) {
    tokens.insert(tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
    tokens.resize(tokens.size() + static_cast<size_t>(length) - sequence.tokens.size(), -1);
  }
  Transformer transformer = model.model;
  const torch::Tensor hidden =
      transformer->forward(model.prepare_input(tokens, static_cast<int64_t>(sequences.size()), length, {}, memory_off));
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto& wanted = all[chosen[i]].tokens;
    const auto count = static_cast<int64_t>(wanted.size());
    const torch::Tensor logits =
        transformer->logits(hidden[static_cast<int64_t>(i)].narrow(0, sequences[i].first, count).unsqueeze(0))[0];
    const torch::Tensor targets = torch::tensor(wanted, torch::kInt).to(torch::kLong).to(logits.device());
    scores[chosen[i]] = {-target_nats(logits, targets).to(torch::kDouble).sum().item<double>(), count,
                         logits.argmax(1).eq(targets).all().item<bool>(), sequences[i].shortened};
  }
}

// One token for every open prompt and pass, until none is open. Prompts are filled up behind their end.
void generate_batch(const LoadedModel& model, std::span<const GreedyPrompt> prompts, std::vector<size_t> open,
                    bool memory_off, std::vector<std::string>& texts) {
  Transformer transformer = model.model;
  std::vector<std::vector<int32_t>> sequences;
  for (size_t index : open) sequences.push_back(prompts[index].tokens);
  std::vector<int64_t> left;
  for (size_t index : open) left.push_back(prompts[index].max_tokens);
  while (std::any_of(left.begin(), left.end(), [](int64_t n) { return n > 0; })) {
    size_t length = 0;
    for (const auto& sequence : sequences) length = std::max(length, sequence.size());
    std::vector<int32_t> tokens;
    std::vector<int64_t> last;
    for (const auto& sequence : sequences) {
      tokens.insert(tokens.end(), sequence.begin(), sequence.end());
      tokens.resize(tokens.size() + length - sequence.size(), -1);
      last.push_back(static_cast<int64_t>(sequence.size()) - 1);
    }
    const auto count = static_cast<int64_t>(sequences.size());
    const torch::Tensor hidden =
        transformer->forward(model.prepare_input(tokens, count, static_cast<int64_t>(length), {}, memory_off));
    const torch::Tensor rows = torch::arange(count, hidden.device());
    const torch::Tensor at = torch::tensor(last, torch::kLong).to(hidden.device());
    const torch::Tensor choice =
        transformer->logits(hidden.index({rows, at}).unsqueeze(0))[0].argmax(1).to(torch::kCPU);
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (left[i] <= 0) continue;
      const auto token = static_cast<int32_t>(choice[static_cast<int64_t>(i)].item<int64_t>());
      if (model.tokenizer->is_special(token)) {
        left[i] = 0;
        continue;
      }
      sequences[i].push_back(token);
      texts[open[i]] += model.tokenizer->token_bytes(token);
      --left[i];
    }
  }
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
  const auto batch = static_cast<size_t>(options.batch_size);
  for (size_t begin = 0; begin < order.size(); begin += batch) {
    const auto chosen = std::span<const size_t>(order).subspan(begin, std::min(batch, order.size() - begin));
    score_batch(model, continuations, chosen, options.memory_off, scores);
    if (options.on_progress &&
        !options.on_progress(static_cast<int64_t>(begin + chosen.size()), static_cast<int64_t>(order.size()))) {
      return Status(StatusCode::kCancelled, "scoring interrupted");
    }
  }
  return scores;
}

Result<std::vector<std::string>> greedy_texts(const LoadedModel& model, std::span<const GreedyPrompt> prompts,
                                              const ScoreOptions& options) {
  torch::InferenceMode inference;
  const int64_t window = model.config.max_position_embeddings;
  std::vector<size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<int64_t>(prompts[i].tokens.size());
    if (length < 1 || length + prompts[i].max_tokens > window) {
      return invalid_argument("prompt {}: got {} tokens and {} to follow, wanted at least 1 and at most {} in all", i,
                              length, prompts[i].max_tokens, window);
    }
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return prompts[a].tokens.size() < prompts[b].tokens.size(); });
  std::vector<std::string> texts(prompts.size());
  const auto batch = static_cast<size_t>(options.batch_size);
  for (size_t begin = 0; begin < order.size(); begin += batch) {
    std::vector<size_t> open(order.begin() + static_cast<std::ptrdiff_t>(begin),
                             order.begin() + static_cast<std::ptrdiff_t>(std::min(begin + batch, order.size())));
    generate_batch(model, prompts, std::move(open), options.memory_off, texts);
    const auto done = static_cast<int64_t>(std::min(begin + batch, order.size()));
    if (options.on_progress && !options.on_progress(done, static_cast<int64_t>(order.size()))) {
      return Status(StatusCode::kCancelled, "generation interrupted");
    }
  }
  return texts;
}

}  // namespace engram
