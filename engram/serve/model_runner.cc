#include "engram/serve/model_runner.h"

#include <algorithm>

#include "engram/model/ops/parallel.h"

namespace engram {
namespace {

PagedStep make_step(std::span<const ScheduledChunk> chunks, int64_t block_size, torch::Device device) {
  std::vector<StepSequence> sequences;
  for (const ScheduledChunk& chunk : chunks) {
    const Sequence& s = *chunk.sequence;
    sequences.push_back({s.num_computed, chunk.count, s.block_table, s.request.memory_off});
  }
  return PagedStep(std::move(sequences), block_size, device);
}

torch::Tensor token_tensor(std::span<const ScheduledChunk> chunks, int64_t num_tokens, torch::Device device) {
  torch::Tensor tokens = torch::empty({num_tokens}, torch::kLong);
  int64_t* to = tokens.mutable_data_ptr<int64_t>();
  for (const ScheduledChunk& chunk : chunks) {
    const auto first = chunk.sequence->tokens.begin() + chunk.sequence->num_computed;
    to = std::copy(first, first + chunk.count, to);
  }
  return copy_ahead(tokens, device);
}

constexpr size_t kScoredRows = 128;

// A prompt's token whose log probability is asked for, and the row of the token before it.
struct ScoredRow {
  int64_t row;
  int32_t token;
  int count;  // likeliest ones
  size_t chunk;
};

std::vector<ScoredRow> scored_rows(std::span<const ScheduledChunk> chunks, const PagedStep& step) {
  std::vector<ScoredRow> out;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Sequence& s = *chunks[i].sequence;
    const int count = s.request.sampling.prompt_logprobs;
    const int64_t end = count < 0 ? 0 : std::min(s.num_computed + chunks[i].count, s.num_prompt() - 1);
    for (int64_t at = std::max(s.num_computed, s.num_scored); at < end; ++at) {
      out.push_back({step.first_token(i) + at - s.num_computed, s.tokens[static_cast<size_t>(at + 1)], count, i});
    }
  }
  return out;
}

std::vector<TokenScore> scores_on_cpu(const torch::Tensor& logits, std::span<const ScoredRow> wanted) {
  std::vector<TokenScore> out(wanted.size());
  const auto width = static_cast<size_t>(logits.size(1));
  const float* from = logits.const_data_ptr<float>();
  parallel_tasks(std::ssize(wanted), [&](int64_t task) {
    const auto i = static_cast<size_t>(task);
    const std::span<const float> row(from + i * width, width);
    if (all_finite(row)) out[i] = score_token(row, wanted[i].token, wanted[i].count);
  });
  return out;
}

// There, so that a few numbers of a row travel.
std::vector<TokenScore> scores_on_device(const torch::Tensor& logits, std::span<const ScoredRow> wanted) {
  std::vector<int64_t> tokens;
  int count = 1;
  for (const ScoredRow& one : wanted) tokens.push_back(one.token);
  for (const ScoredRow& one : wanted) count = std::max(count, one.count);
  const auto [top, top_ids] = logits.topk(std::min<int64_t>(count, logits.size(1)), -1);
  const torch::Tensor own =
      logits.gather(1, copy_ahead(torch::tensor(tokens, torch::kLong), logits.device()).view({-1, 1}));
  const torch::Tensor values = (torch::cat({own, top}, 1) - logits.logsumexp(-1, true)).to(torch::kCPU).contiguous();
  const torch::Tensor ids = top_ids.to(torch::kCPU).contiguous();
  const torch::Tensor finite = logits.isfinite().all(-1).to(torch::kCPU);
  std::vector<TokenScore> out(wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const float* value = values.const_data_ptr<float>() + static_cast<int64_t>(i) * values.size(1);
    const int64_t* id = ids.const_data_ptr<int64_t>() + static_cast<int64_t>(i) * ids.size(1);
    if (!finite.const_data_ptr<bool>()[i]) continue;
    out[i] = {{wanted[i].token, value[0]}, {}};
    for (int64_t k = 0; k < std::min<int64_t>(wanted[i].count, ids.size(1)); ++k) {
      out[i].top.push_back({static_cast<int32_t>(id[k]), value[1 + k]});
    }
  }
  return out;
}

}  // namespace

ModelRunner::ModelRunner(const LoadedModel& model, const ServedTables& tables, int64_t num_blocks, int64_t block_size,
                         bool overlap_reads)
    : model_(model),
      tables_(tables),
      device_(model.model->parameters().front().device()),
      cache_(model.config, num_blocks, block_size, device_, page_dtype(model.model->parameters().front())),
      overlap_reads_(overlap_reads) {}

StepOutput ModelRunner::run(std::span<const ScheduledChunk> chunks, std::span<const UpcomingTokens> upcoming) {
  const c10::InferenceMode inference;
  std::vector<StepRows> rows, next;
  for (const ScheduledChunk& chunk : chunks)
    rows.push_back(hash(*chunk.sequence, chunk.sequence->num_computed, chunk.count));
  for (const UpcomingTokens& tokens : overlap_reads_ ? upcoming : std::span<const UpcomingTokens>())
    next.push_back(hash(*tokens.sequence, tokens.first, tokens.count));
  StepMemory memory = tables_.begin(rows, next, overlap_reads_);  // rows are on their way

  const PagedStep step = make_step(chunks, cache_.block_size(), device_);
  const Transformer& transformer = model_.model;
  std::vector<torch::Tensor> gates;
  const bool traced =
      std::any_of(chunks.begin(), chunks.end(), [](const auto& c) { return c.sequence->request.trace; });
  StepInput input;
  input.tokens = token_tensor(chunks, step.num_tokens(), device_);
  input.step = &step;
  input.cache = &cache_;
  input.memory = [&](int layer) { return memory.rows(layer); };
  input.gates = traced ? &gates : nullptr;
  const torch::Tensor hidden = transformer->step(input);

  std::vector<int64_t> sampled;
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (!chunks[i].samples()) continue;
    const int64_t end = step.first_token(i) + chunks[i].count;
    for (int64_t at = end - 1 - chunks[i].sequence->num_drafts; at < end; ++at) sampled.push_back(at);
  }
  StepOutput out;
  out.failures = memory.failures();
  out.stall_seconds = memory.stall_seconds();
  out.row_bytes = memory.bytes();
  out.next.resize(chunks.size());
  out.traces.resize(chunks.size());
  out.prompt_logprobs.resize(chunks.size());
  score_prompts(chunks, step, hidden, out);
  if (!sampled.empty()) {
    const torch::Tensor last = hidden.index_select(0, copy_ahead(torch::tensor(sampled, torch::kLong), device_));
    read_logits(chunks, transformer->logits(last), out);
  }
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (chunks[i].sequence->request.trace) out.traces[i] = trace(chunks[i], rows[i], step.first_token(i), gates);
  }
  return out;
}

void ModelRunner::score_prompts(std::span<const ScheduledChunk> chunks, const PagedStep& step,
                                const torch::Tensor& hidden, StepOutput& out) const {
  const Transformer& transformer = model_.model;
  const std::vector<ScoredRow> wanted = scored_rows(chunks, step);
  for (size_t begin = 0; begin < wanted.size(); begin += kScoredRows) {
    const auto part = std::span(wanted).subspan(begin, std::min(kScoredRows, wanted.size() - begin));
    std::vector<int64_t> rows;
    for (const ScoredRow& one : part) rows.push_back(one.row);
    const torch::Tensor index = copy_ahead(torch::tensor(rows, torch::kLong), device_);
    const torch::Tensor logits = transformer->logits(hidden.index_select(0, index)).contiguous();
    std::vector<TokenScore> scores = logits.is_cpu() ? scores_on_cpu(logits, part) : scores_on_device(logits, part);
    for (size_t i = 0; i < part.size(); ++i) out.prompt_logprobs[part[i].chunk].push_back(std::move(scores[i]));
  }
}

// The step's one wait for a GPU, where no prompt is scored: its tokens must be known before the next step's rows can
// be.
void ModelRunner::read_logits(std::span<const ScheduledChunk> chunks, const torch::Tensor& logits, StepOutput& out) {
  std::vector<NextToken*> whole, alone;  // those whose logits are read, and those whose likeliest token is
  std::vector<int64_t> whole_rows, alone_rows;
  int64_t row = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (!chunks[i].samples()) continue;
    const Sequence& sequence = *chunks[i].sequence;
    const bool only = !logits.is_cpu() && sequence.request.sampling.wants_likeliest_only();
    out.next[i].resize(static_cast<size_t>(1 + sequence.num_drafts));
    for (NextToken& next : out.next[i]) {
      (only ? alone : whole).push_back(&next);
      (only ? alone_rows : whole_rows).push_back(row++);
    }
  }
  if (!alone.empty()) {
    const torch::Tensor finite = logits.isfinite().all(-1);
    const torch::Tensor best = logits.argmax(-1).masked_fill(finite.logical_not(), -1).to(torch::kCPU);
    for (size_t i = 0; i < alone.size(); ++i) {
      alone[i]->likeliest = static_cast<int32_t>(best.const_data_ptr<int64_t>()[alone_rows[i]]);
    }
  }
  if (whole.empty()) return;
  const torch::Tensor rows =
      alone.empty() ? logits : logits.index_select(0, copy_ahead(torch::tensor(whole_rows, torch::kLong), device_));
  logits_ = rows.to(torch::kCPU, torch::kFloat).contiguous();
  const int64_t width = logits_.size(1);
  for (size_t i = 0; i < whole.size(); ++i) {
    float* from = logits_.mutable_data_ptr<float>() + static_cast<int64_t>(i) * width;
    whole[i]->logits = {from, static_cast<size_t>(width)};
  }
}

StepRows ModelRunner::hash(Sequence& sequence, int64_t first, int64_t count) const {
  if (sequence.request.memory_off || model_.hasher.num_layers() == 0) return {nullptr, 0, count, {}};
  SequenceRows& rows = sequence.rows;
  const std::span<const int32_t> tokens = sequence.tokens;
  if (!rows.context || first < rows.begin) {  // what stands in pages of the prefix cache needs no rows
    rows = {model_.hasher.new_context(), RowIds(), first};
    const int64_t before = std::min<int64_t>(first, rows.context->max_ngram_size() - 1);
    throw_if_error(
        rows.context->append(tokens.subspan(static_cast<size_t>(first - before), static_cast<size_t>(before))));
  }
  if (const int64_t missing = first + count - rows.end(); missing > 0) {
    throw_if_error(rows.context->append(tokens.subspan(static_cast<size_t>(rows.end()), static_cast<size_t>(missing))));
    model_.hasher.hash(*rows.context, missing, rows.ids);
  }
  std::vector<const ServedOverlay*> overlays;
  for (const std::string& name : sequence.request.overlays) overlays.push_back(tables_.find_overlay(name));
  return {&rows.ids, first - rows.begin, count, std::move(overlays)};
}

std::vector<TokenTrace> ModelRunner::trace(const ScheduledChunk& chunk, const StepRows& step_rows, int64_t first_token,
                                           const std::vector<torch::Tensor>& gates) const {
  const Sequence& sequence = *chunk.sequence;
  std::vector<TokenTrace> out;
  for (int64_t t = 0; t < chunk.count; ++t)
    out.push_back({sequence.tokens[static_cast<size_t>(sequence.num_computed + t)], {}});
  for (size_t layer = 0; layer < gates.size() && step_rows.row_ids != nullptr; ++layer) {
    const int at = static_cast<int>(layer);
    const std::span<const int64_t> row_ids = step_rows.row_ids->layer(at, step_rows.first, step_rows.count);
    std::vector<std::string> tiers = tables_.source(at).tiers(row_ids);
    for (const ServedOverlay* overlay : step_rows.overlays) {
      for (size_t i = 0; i < row_ids.size(); ++i) {
        if (overlay->edits(at, row_ids[i])) tiers[i] = "overlay " + overlay->name();
      }
    }
    const torch::Tensor gate = gates[layer].to(torch::kCPU, torch::kFloat).contiguous();
    const int64_t streams = gate.size(1);
    const size_t rows = row_ids.size() / out.size();
    for (size_t t = 0; t < out.size(); ++t) {
      LayerTrace trace;
      trace.layer_id = model_.config.engram.layer_ids[layer];
      const float* g = gate.const_data_ptr<float>() + (first_token + static_cast<int64_t>(t)) * streams;
      trace.gates.assign(g, g + streams);
      const auto begin = static_cast<std::ptrdiff_t>(t * rows), end = static_cast<std::ptrdiff_t>((t + 1) * rows);
      trace.row_ids.assign(row_ids.begin() + begin, row_ids.begin() + end);
      trace.tiers.assign(tiers.begin() + begin, tiers.begin() + end);
      out[t].layers.push_back(std::move(trace));
    }
  }
  return out;
}

}  // namespace engram
