// ModelRunner: runs the scheduled tokens of a step through the model, over its pages and its tables.
#pragma once
#include <torch/types.h>

#include <memory>
#include <optional>
#include <vector>

#include "engram/model/memory/served_tables.h"
#include "engram/serve/scheduler.h"

namespace engram {

// The model's output after one token: logits [V], valid until the next run(). From a GPU, and when the request wants
// nothing else, only the likeliest token: -1 when the logits are not finite.
struct NextToken {
  std::span<float> logits;
  std::optional<int32_t> likeliest;
};

struct StepOutput {
  // For each chunk, in order, when it samples: after its last known token, then after each of its drafts.
  std::vector<std::vector<NextToken>> next;
  std::vector<Status> failures;                 // for each chunk: its rows could not be read
  std::vector<std::vector<TokenTrace>> traces;  // for each chunk whose request wants one: its tokens
  // For each chunk whose request wants them: of the prompt's tokens behind the chunk's, those that are not known yet.
  // Token -1: the logits are not finite.
  std::vector<std::vector<TokenScore>> prompt_logprobs;
  double stall_seconds = 0;  // waiting for rows
  int64_t row_bytes = 0;     // of rows read
};

// One thread. `model` and `tables` outlive it.
class ModelRunner {
 public:
  ModelRunner(const LoadedModel& model, const ServedTables& tables, int64_t num_blocks, int64_t block_size,
              bool overlap_reads);
  // upcoming: tokens whose rows the next step may want; the stores that can hold rows are told.
  // Throws c10::Error where the model fails.
  StepOutput run(std::span<const ScheduledChunk> chunks, std::span<const UpcomingTokens> upcoming = {});

 private:
  void read_logits(std::span<const ScheduledChunk> chunks, const torch::Tensor& logits, StepOutput& out);
  // The head over the rows asked for, a few at a time: no logits of a whole prompt are ever there.
  void score_prompts(std::span<const ScheduledChunk> chunks, const PagedStep& step, const torch::Tensor& hidden,
                     StepOutput& out) const;
  // The rows of a sequence's tokens [first, first + count), hashed unless they are already.
  StepRows hash(Sequence& sequence, int64_t first, int64_t count) const;
  std::vector<TokenTrace> trace(const ScheduledChunk& chunk, const StepRows& step_rows, int64_t first_token,
                                const std::vector<torch::Tensor>& gates) const;

  const LoadedModel& model_;
  const ServedTables& tables_;
  const torch::Device device_;  // of the model
  PagedCache cache_;
  bool overlap_reads_;
  torch::Tensor logits_;
};

}  // namespace engram
