#include "engram/model/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace engram {
namespace {

Status check_arguments(const LoadedModel& model, std::span<const int32_t> token_ids,
                       std::span<const int64_t> document_starts, int64_t bytes, const EvaluateOptions& options) {
  if (token_ids.size() < 2) return invalid_argument("evaluate: got {} tokens, wanted at least 2", token_ids.size());
  if (bytes <= 0) return invalid_argument("evaluate: got {} bytes of text, wanted at least 1", bytes);
  if (options.batch_size < 1) return invalid_argument("batch size: got {}, wanted at least 1", options.batch_size);
  for (size_t i = 0; i < token_ids.size(); ++i) {
    if (token_ids[i] < 0 || token_ids[i] >= model.config.vocab_size) {
      return invalid_argument("evaluate: token {} is {}, wanted 0 <= id < {}", i, token_ids[i],
                              model.config.vocab_size);
    }
  }
  int64_t previous = -1;
  for (int64_t start : document_starts) {
    if (start <= previous || start >= static_cast<int64_t>(token_ids.size())) {
      return invalid_argument("evaluate: document start {} after {}, wanted ascending indices below {}", start,
                              previous, token_ids.size());
    }
    previous = start;
  }
  return Status();
}

// Nats over `count` windows of `length` targets each; the first begins at token `begin`.
double window_nats(const LoadedModel& model, std::span<const int32_t> token_ids,
                   std::span<const int64_t> document_starts, int64_t begin, int64_t count, int64_t length,
                   bool memory_off) {
  std::vector<int32_t> inputs, targets;
  std::vector<std::vector<int32_t>> starts(static_cast<size_t>(count));
  for (int64_t w = 0; w < count; ++w) {
    const int64_t first = begin + w * length;
    const auto tokens = token_ids.subspan(static_cast<size_t>(first), static_cast<size_t>(length) + 1);
    inputs.insert(inputs.end(), tokens.begin(), tokens.end() - 1);
    targets.insert(targets.end(), tokens.begin() + 1, tokens.end());
    auto next = std::upper_bound(document_starts.begin(), document_starts.end(), first);
    for (; next != document_starts.end() && *next < first + length; ++next) {
      starts[static_cast<size_t>(w)].push_back(static_cast<int32_t>(*next - first));
    }
  }
  const ForwardInput input = model.prepare_input(inputs, count, length, starts, memory_off);
  Transformer transformer = model.model;
  const torch::Tensor target = torch::tensor(targets, torch::kInt).to(torch::kLong).view({count, length});
  return transformer->loss_sum(transformer->forward(input), target.to(input.tokens.device())).first;
}

}  // namespace

Result<EvaluateResult> evaluate(const LoadedModel& model, std::span<const int32_t> token_ids,
                                std::span<const int64_t> document_starts, int64_t bytes,
                                const EvaluateOptions& options) {
  ENGRAM_RETURN_IF_ERROR(check_arguments(model, token_ids, document_starts, bytes, options));
  torch::InferenceMode inference;
  const int64_t length = model.config.max_position_embeddings;
  EvaluateResult result;
  result.tokens = static_cast<int64_t>(token_ids.size()) - 1;
  result.bytes = bytes;
  double nats = 0.0;
  for (int64_t done = 0; done < result.tokens;) {
    const int64_t full = (result.tokens - done) / length;  // whole windows left; the last window may be shorter
    const int64_t count = full > 0 ? std::min(full, options.batch_size) : 1;
    const int64_t window = full > 0 ? length : result.tokens - done;
    nats += window_nats(model, token_ids, document_starts, done, count, window, options.memory_off);
    done += count * window;
    if (options.on_progress && !options.on_progress(done, result.tokens)) {
      return Status(StatusCode::kCancelled, "evaluation interrupted");
    }
  }
  result.loss = nats / static_cast<double>(result.tokens);
  result.bits_per_byte = nats / (std::numbers::ln2 * static_cast<double>(bytes));
  return result;
}

}  // namespace engram
