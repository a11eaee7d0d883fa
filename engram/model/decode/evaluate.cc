#include "engram/model/decode/evaluate.h"

#include <algorithm>
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
  const bool cells_fit = std::all_of(options.cell_of.begin(), options.cell_of.end(),
                                     [&](uint32_t cell) { return static_cast<int64_t>(cell) < options.cells; });
  if (!options.cell_of.empty() && (options.cell_of.size() != token_ids.size() || !cells_fit))
    return invalid_argument("evaluate: {} cells of tokens below {}, wanted one for each of {} tokens",
                            options.cell_of.size(), options.cells, token_ids.size());
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

// Loss and number of each cell's targets in a batch: a second pass through the head, over the rows of one cell at a
// time, so that the sum over all targets stays what it is without cells. [2 * cells]
std::vector<double> cell_losses(const TransformerImpl& model, const torch::Tensor& hidden, const WindowBatch& batch,
                                const EvaluateOptions& options) {
  std::vector<double> losses(2 * static_cast<size_t>(options.cells));
  const int64_t count = batch.count * batch.length;
  std::vector<std::vector<int64_t>> places(static_cast<size_t>(options.cells));
  for (int64_t i = 0; i < count; ++i) places[options.cell_of[static_cast<size_t>(batch.begin + i + 1)]].push_back(i);
  const torch::Tensor rows = hidden.reshape({count, -1}), targets = batch.targets.reshape({count});
  for (size_t cell = 0; cell < places.size(); ++cell) {
    if (places[cell].empty()) continue;
    const torch::Tensor index = torch::tensor(places[cell], torch::kLong);
    const auto [nats, tokens] = model.loss_sum(rows.index_select(0, index.to(rows.device())).unsqueeze(0),
                                               targets.index_select(0, index).unsqueeze(0).to(rows.device()));
    losses[2 * cell] = nats;
    losses[2 * cell + 1] = static_cast<double>(tokens);
  }
  return losses;
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
  if (!options.cell_of.empty()) {
    result.cell_nats.resize(static_cast<size_t>(options.cells));
    result.cell_tokens.resize(static_cast<size_t>(options.cells));
  }
  // Of each batch in order its loss and, where cells divide it, theirs: summed at the end, in this order.
  std::vector<double> numbers;
  const size_t width = 1 + 2 * result.cell_nats.size();
  int64_t done = 0, batches = 0;
  const Transformer& transformer = model.model;
  const bool finished =
      for_each_window(token_ids, document_starts, model.config.max_position_embeddings, options.batch_size,
                      [&](const WindowBatch& batch) {
                        numbers.resize(numbers.size() + width);
                        done += batch.count * batch.length;
                        if (batches++ % options.parts != options.part) return true;
                        const ForwardInput input = model.prepare_input(batch.tokens, batch.count, batch.length,
                                                                       batch.starts, options.memory_off);
                        const torch::Tensor hidden = transformer->forward(input);
                        double* own = numbers.data() + numbers.size() - width;
                        own[0] = transformer->loss_sum(hidden, batch.targets.to(input.tokens.device())).first;
                        if (width > 1) std::ranges::copy(cell_losses(*transformer, hidden, batch, options), own + 1);
                        return !options.on_progress || options.on_progress(done, result.tokens);
                      });
  if (!finished) return Status(StatusCode::kCancelled, "evaluation interrupted");
  // In the last round some ranks have no batch; but an owner of rows or experts answers the others.
  const bool idle = batches % options.parts != 0 && options.part >= batches % options.parts;
  for (const auto& table : model.tables)
    if (idle && !options.memory_off) ENGRAM_RETURN_IF_ERROR(table->submit({})->wait());
  if (idle) transformer->join_experts();
  if (options.sum_over_parts) options.sum_over_parts(numbers);
  double nats = 0.0;
  for (size_t batch = 0; batch < numbers.size(); batch += width) {
    nats += numbers[batch];
    for (size_t cell = 0; cell < result.cell_nats.size(); ++cell) {
      result.cell_nats[cell] += numbers[batch + 1 + 2 * cell];
      result.cell_tokens[cell] += static_cast<int64_t>(numbers[batch + 2 + 2 * cell]);
    }
  }
  result.loss = nats / static_cast<double>(result.tokens);
  result.bits_per_byte = nats / (std::numbers::ln2 * static_cast<double>(bytes));
  return result;
}

}  // namespace engram
