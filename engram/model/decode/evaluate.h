// Evaluation: the loss of a token sequence under a model, every token after the first predicted exactly once.
//
// The sequence is cut into windows of the model's length that overlap by one token, as in training: each window is
// read alone: n-grams and positions begin at its first token and stop at document starts inside it.
//   loss           nats per predicted token
//   bits_per_byte  nats in all / (ln 2 * bytes); bytes are those of the whole text, so it compares across tokenizers
// Or every document is read alone, and its first token is not predicted.
//   exact          share of the documents whose every target is the model's first choice: what it would have written
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engram/core/status.h"
#include "engram/model/io/checkpoint.h"

namespace engram {

struct EvaluateOptions {
  int64_t batch_size = 8;   // windows per forward pass; changes speed, not the result (except rounding)
  bool memory_off = false;  // knock the rows out: Engram blocks add nothing
  // The text again, -1 where a token does not count. Empty: all count.
  std::span<const int32_t> targets;
  // Divides the loss: of every token of the text a cell in [0, cells), e.g. of data/text_parts.h. Empty: no division.
  std::span<const uint32_t> cell_of;
  int cells = 0;
  std::function<bool(int64_t predicted, int64_t total)> on_progress;  // after each batch; false stops (kCancelled)
  // Several ranks share the work: this one computes batches part, part + parts, .. (all ask for rows equally often).
  // sum_over_parts adds up numbers that one rank has and the others leave 0, so that all get the whole result.
  int part = 0, parts = 1;
  std::function<void(std::vector<double>& numbers)> sum_over_parts;
};

struct EvaluateResult {
  int64_t tokens = 0;  // predicted tokens that count; without a mask one less than the sequence has
  int64_t bytes = 0;
  double loss = 0.0;
  double bits_per_byte = 0.0;
  std::vector<double> cell_nats;     // [cells] sums; their sum is loss * tokens, except rounding
  std::vector<int64_t> cell_tokens;  // [cells]
};

// token_ids [n] raw ids, n >= 2; document_starts ascending, 0 may be left out; bytes > 0: UTF-8 bytes of the text.
// kInvalidArgument: too few tokens, none that counts, an id outside the vocabulary, bad starts, cells or targets that
// do not fit. The model stays as it is.
Result<EvaluateResult> evaluate(const LoadedModel& model, std::span<const int32_t> token_ids,
                                std::span<const int64_t> document_starts, int64_t bytes,
                                const EvaluateOptions& options = {});

struct DocumentsResult {
  int64_t tokens = 0, documents = 0;  // those that count, and documents with some
  double loss = 0, bits_per_byte = 0, exact = 0;
};
// The same arguments; cells are not looked at. A document longer than the model has windows to itself, as above.
Result<DocumentsResult> evaluate_documents(const LoadedModel& model, std::span<const int32_t> token_ids,
                                           std::span<const int64_t> document_starts, int64_t bytes,
                                           const EvaluateOptions& options = {});

}  // namespace engram
