#include "engram/model/decode/evaluate.h"

#include <algorithm>
#include <cmath>
#include <map>
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
  const bool targets_fit = std::ranges::equal(options.targets, token_ids,
                                              [](int32_t target, int32_t id) { return target == id || target == -1; });
  if (!options.targets.empty() && !targets_fit)
    return invalid_argument("evaluate: got {} targets, wanted the {} tokens, or -1 for some", options.targets.size(),
                            token_ids.size());
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

Status no_target() { return invalid_argument("evaluate: got no token that counts, wanted at least 1"); }

// Of a batch, without those that do not count. [count, length]
torch::Tensor counted_targets(const WindowBatch& batch, std::span<const int32_t> targets) {
  if (targets.empty()) return batch.targets;
  const auto own =
      targets.subspan(static_cast<size_t>(batch.begin) + 1, static_cast<size_t>(batch.count * batch.length));
  return torch::tensor(std::vector<int32_t>(own.begin(), own.end()), torch::kLong).view({batch.count, batch.length});
}

// In the last round of batches some ranks have none; but an owner of rows or experts answers the others.
Status join_last_round(const LoadedModel& model, int64_t batches, const EvaluateOptions& options) {
  if (batches % options.parts == 0 || options.part < batches % options.parts) return {};
  for (const auto& table : model.tables)
    if (!options.memory_off) ENGRAM_RETURN_IF_ERROR(table->submit({})->wait());
  model.model->join_experts();
  return {};
}

// Loss and number of each cell's targets in a batch: a second pass through the head, over the rows of one cell at a
// time, so that the sum over all targets stays what it is without cells. [2 * cells]
std::vector<double> cell_losses(const TransformerImpl& model, const torch::Tensor& hidden, const WindowBatch& batch,
                                const torch::Tensor& counted, const EvaluateOptions& options) {
  std::vector<double> losses(2 * static_cast<size_t>(options.cells));
  const int64_t count = batch.count * batch.length;
  std::vector<std::vector<int64_t>> places(static_cast<size_t>(options.cells));
  for (int64_t i = 0; i < count; ++i) places[options.cell_of[static_cast<size_t>(batch.begin + i + 1)]].push_back(i);
  const torch::Tensor rows = hidden.reshape({count, -1}), targets = counted.reshape({count});
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

// A document, or a window of one that is longer than the model.
struct Piece {
  int64_t begin = 0, length = 0;  // it reads tokens [begin, begin + length) and predicts those one further on
  size_t document = 0;
};

// Those with a target, neighbours of like length.
std::vector<Piece> cut_documents(std::span<const int32_t> targets, std::span<const int64_t> document_starts,
                                 int64_t window) {
  std::vector<int64_t> edges = {0};
  for (const int64_t start : document_starts)
    if (start > 0) edges.push_back(start);
  edges.push_back(std::ssize(targets));
  std::vector<Piece> pieces;
  for (size_t d = 0; d + 1 < edges.size(); ++d) {
    for (int64_t begin = edges[d]; begin + 1 < edges[d + 1]; begin += window) {
      const Piece piece{begin, std::min(window, edges[d + 1] - 1 - begin), d};
      const auto own = targets.subspan(static_cast<size_t>(begin) + 1, static_cast<size_t>(piece.length));
      if (std::ranges::any_of(own, [](int32_t id) { return id >= 0; })) pieces.push_back(piece);
    }
  }
  std::ranges::stable_sort(pieces, {}, &Piece::length);
  return pieces;
}

// Adds to [2 * pieces]: nats of each one's targets, and how many of them are not the model's first choice. Shorter
// pieces are filled up behind their end, where a causal model cannot look.
void score_pieces(const LoadedModel& model, std::span<const int32_t> token_ids, std::span<const int32_t> targets,
                  std::span<const Piece> pieces, bool memory_off, std::span<double> numbers) {
  const int64_t length = pieces.back().length, count = std::ssize(pieces);
  std::vector<int32_t> tokens(static_cast<size_t>(count * length), -1);
  std::vector<int64_t> places, wanted;
  for (int64_t i = 0; i < count; ++i) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    std::copy_n(token_ids.begin() + piece.begin, piece.length, tokens.begin() + i * length);
    for (int64_t t = 0; t < piece.length; ++t) {
      const int32_t target = targets[static_cast<size_t>(piece.begin + t + 1)];
      if (target < 0) continue;
      places.push_back(i * length + t);
      wanted.push_back(target);
    }
  }
  const Transformer& transformer = model.model;
  const torch::Tensor hidden =
      transformer->forward(model.prepare_input(tokens, count, length, {}, memory_off)).view({count * length, -1});
  const torch::Tensor index = torch::tensor(places).to(hidden.device()),
                      ids = torch::tensor(wanted).to(hidden.device());
  // Many rows times a large vocabulary would not fit: a few rows of logits at a time.
  const int64_t step = std::max<int64_t>(1, (int64_t{1} << 23) / model.config.vocab_size);
  for (int64_t begin = 0; begin < std::ssize(places); begin += step) {
    const int64_t rows = std::min(step, std::ssize(places) - begin);
    const torch::Tensor own = ids.narrow(0, begin, rows);
    const torch::Tensor logits = transformer->logits(hidden.index_select(0, index.narrow(0, begin, rows)));
    const torch::Tensor nats = (logits.logsumexp(1) - logits.gather(1, own.unsqueeze(1)).squeeze(1))
                                   .to(torch::kCPU, torch::kDouble)
                                   .contiguous();
    const torch::Tensor missed = logits.argmax(1).ne(own).to(torch::kCPU);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t piece = places[static_cast<size_t>(begin + i)] / length;
      numbers[static_cast<size_t>(2 * piece)] += nats.const_data_ptr<double>()[i];
      numbers[static_cast<size_t>(2 * piece + 1)] += missed.const_data_ptr<bool>()[i] ? 1 : 0;
    }
  }
}

}  // namespace

Result<EvaluateResult> evaluate(const LoadedModel& model, std::span<const int32_t> token_ids,
                                std::span<const int64_t> document_starts, int64_t bytes,
                                const EvaluateOptions& options) {
  ENGRAM_RETURN_IF_ERROR(check_arguments(model, token_ids, document_starts, bytes, options));
  torch::InferenceMode inference;
  EvaluateResult result;
  const int64_t predicted = std::ssize(token_ids) - 1;
  result.tokens = predicted;
  if (!options.targets.empty())
    result.tokens = std::ranges::count_if(options.targets.subspan(1), [](int32_t id) { return id >= 0; });
  if (result.tokens == 0) return no_target();
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
                        const torch::Tensor counted = counted_targets(batch, options.targets);
                        double* own = numbers.data() + numbers.size() - width;
                        own[0] = transformer->loss_sum(hidden, counted.to(input.tokens.device())).first;
                        if (width > 1)
                          std::ranges::copy(cell_losses(*transformer, hidden, batch, counted, options), own + 1);
                        return !options.on_progress || options.on_progress(done, predicted);
                      });
  if (!finished) return Status(StatusCode::kCancelled, "evaluation interrupted");
  ENGRAM_RETURN_IF_ERROR(join_last_round(model, batches, options));
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

Result<DocumentsResult> evaluate_documents(const LoadedModel& model, std::span<const int32_t> token_ids,
                                           std::span<const int64_t> document_starts, int64_t bytes,
                                           const EvaluateOptions& options) {
  EvaluateOptions checked = options;
  checked.cell_of = {};
  ENGRAM_RETURN_IF_ERROR(check_arguments(model, token_ids, document_starts, bytes, checked));
  torch::InferenceMode inference;
  const std::span<const int32_t> targets = options.targets.empty() ? token_ids : options.targets;
  const std::vector<Piece> pieces = cut_documents(targets, document_starts, model.config.max_position_embeddings);
  if (pieces.empty()) return no_target();
  std::vector<double> numbers(2 * pieces.size());
  const auto total = std::ssize(pieces);
  int64_t batches = 0;
  for (int64_t done = 0; done < total; ++batches) {
    const auto at = static_cast<size_t>(done), count = static_cast<size_t>(std::min(options.batch_size, total - done));
    done += static_cast<int64_t>(count);
    if (batches % options.parts == options.part)
      score_pieces(model, token_ids, targets, std::span(pieces).subspan(at, count), options.memory_off,
                   std::span(numbers).subspan(2 * at, 2 * count));
    if (options.on_progress && !options.on_progress(done, total))
      return Status(StatusCode::kCancelled, "evaluation interrupted");
  }
  ENGRAM_RETURN_IF_ERROR(join_last_round(model, batches, options));
  if (options.sum_over_parts) options.sum_over_parts(numbers);
  DocumentsResult result;
  double nats = 0;
  std::map<size_t, bool> exact;
  for (size_t i = 0; i < pieces.size(); ++i) {
    nats += numbers[2 * i];
    bool& all = exact.emplace(pieces[i].document, true).first->second;
    all = all && numbers[2 * i + 1] == 0;
    const auto own = targets.subspan(static_cast<size_t>(pieces[i].begin) + 1, static_cast<size_t>(pieces[i].length));
    result.tokens += std::ranges::count_if(own, [](int32_t id) { return id >= 0; });
  }
  result.documents = std::ssize(exact);
  result.loss = nats / static_cast<double>(result.tokens);
  result.bits_per_byte = nats / (std::numbers::ln2 * static_cast<double>(bytes));
  const auto hits = std::ranges::count_if(exact, [](const auto& document) { return document.second; });
  result.exact = static_cast<double>(hits) / static_cast<double>(result.documents);
  return result;
}

}  // namespace engram
