#include "engram/model/evaluate.h"

#include <cmath>
#include <numbers>

#include "engram/model/windows.h"

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

}  // namespace

Result<EvaluateResult> evaluate(const LoadedModel& model, std::span<const int32_t> token_ids,
                                std::span<const int64_t> document_starts, int64_t bytes,
                                const EvaluateOptions& options) {
  ENGRAM_RETURN_IF_ERROR(check_arguments(model, token_ids, document_starts, bytes, options));
  torch::InferenceMode inference;
  EvaluateResult result;
  result.tokens = static_cast<int64_t>(token_ids.size()) - 1;
  result.bytes = bytes;
  double nats = 0.0;
  int64_t done = 0;
  const Transformer& transformer = model.model;
  const bool finished = for_each_window(
      token_ids, document_starts, model.config.max_position_embeddings, options.batch_size,
      [&](const WindowBatch& batch) {
        const ForwardInput input =
            model.prepare_input(batch.tokens, batch.count, batch.length, batch.starts, options.memory_off);
        nats += transformer->loss_sum(transformer->forward(input), batch.targets.to(input.tokens.device())).first;
        done += batch.count * batch.length;
        return !options.on_progress || options.on_progress(done, result.tokens);
      });
  if (!finished) return Status(StatusCode::kCancelled, "evaluation interrupted");
  result.loss = nats / static_cast<double>(result.tokens);
  result.bits_per_byte = nats / (std::numbers::ln2 * static_cast<double>(bytes));
  return result;
}

}  // namespace engram
