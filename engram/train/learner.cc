#include "engram/train/learner.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>

#include "engram/core/mix.h"
#include "engram/dist/pairwise_sum.h"
#include "engram/dist/partition.h"
#include "engram/model/io/lora.h"
#include "engram/model/ops/autocast.h"
#include "engram/train/one_row_table.h"
#include "engram/train/sharded_table.h"
#include "engram/train/trainable_table.h"

namespace engram {
namespace {

RowIds joined_ids(std::span<const Batch> batches) {
  RowIds joined(batches[0].row_ids.num_layers(), batches[0].row_ids.rows_per_token());
  for (const Batch& batch : batches) joined.append(batch.row_ids);
  return joined;
}

// Tokens of each expert, of all blocks.
std::vector<int64_t> expert_loads(const TransformerImpl& model) {
  std::vector<int64_t> all;
  for (const torch::Tensor& load : model.expert_loads()) {
    const torch::Tensor here = load.to(torch::kCPU);
    all.insert(all.end(), here.const_data_ptr<int64_t>(), here.const_data_ptr<int64_t>() + here.numel());
  }
  return all;
}

// How many gates of each layer lie in each of kGateBins parts of 0 .. 1.
std::vector<int64_t> count_gates(const std::vector<torch::Tensor>& gates, size_t layers) {
  std::vector<int64_t> counts(layers * kGateBins);
  for (size_t layer = 0; layer < std::min(layers, gates.size()); ++layer) {
    const torch::Tensor bins = (gates[layer].to(torch::kCPU).flatten() * kGateBins).clamp(0, kGateBins - 1);
    for (const float bin : std::span(bins.const_data_ptr<float>(), static_cast<size_t>(bins.numel())))
      ++counts[layer * kGateBins + static_cast<size_t>(bin)];
  }
  return counts;
}

void set_expert_loads(TransformerImpl& model, std::vector<int64_t> all) {
  int64_t* next = all.data();
  for (torch::Tensor load : model.expert_loads()) {
    load.copy_(torch::from_blob(next, load.sizes(), torch::kLong));
    next += load.numel();
  }
}

}  // namespace

Learner::Learner(const RunInputs& inputs, Communicator& ranks)
    : ranks_(ranks), recipe_(inputs.recipe), device_(inputs.recipe.train.device) {
  torch::manual_seed(static_cast<uint64_t>(recipe_.train.seed));
  model_.config = recipe_.model;
  model_.tokenizer = inputs.tokenizer;
  model_.special = find_special_tokens(*inputs.tokenizer);
  model_.hasher = inputs.hasher;
  // Weights are drawn on the CPU, so that every device starts from the same ones.
  std::optional<ExpertRanks> experts;
  if (recipe_.train.shard_experts && ranks_.size() > 1)
    experts = ExpertRanks{&ranks_, recipe_.data.batch_size * recipe_.model.max_position_embeddings,
                          recipe_.train.accumulation / ranks_.size()};
  model_.model = Transformer(recipe_.model, experts);
  if (recipe_.lora.rank > 0) add_lora(*model_.model, recipe_.lora);
  model_.model->to(device_);
  model_.model->train();
  make_tables(inputs);
  optimizer_.emplace(ranks_, freeze(parameter_groups(*model_.model)), recipe_.optimizer);
  if (recipe_.train.frozen_dtype == TrainDtype::kBf16) model_.model->halve_frozen_projections();
}

// What is to be trained, and by what; the rest has no gradient from here on, nor anything that only its gradient needs.
std::vector<ParameterInfo> Learner::freeze(std::vector<ParameterInfo> parameters) {
  for (ParameterInfo& info : parameters) {
    if (recipe_.optimizer.matrices == MatrixOptimizer::kAdamW) info.kind = ParameterKind::kVector;
    if (!is_frozen(recipe_.train, info.role)) continue;
    info.tensor.requires_grad_(false);
    frozen_.push_back(info.tensor);
  }
  std::erase_if(parameters, [](const ParameterInfo& info) { return !info.tensor.requires_grad(); });
  return parameters;
}

std::unique_ptr<LearningTable> Learner::make_table(int layer, int64_t num_rows) {
  RowSparseAdamOptions options;
  options.beta1 = recipe_.optimizer.adamw_beta1;
  options.beta2 = recipe_.optimizer.adamw_beta2;
  options.eps = recipe_.optimizer.adamw_eps;
  options.row_wise = recipe_.optimizer.table_state == TableStateKind::kRow;
  options.momentum = recipe_.optimizer.table_momentum;
  const auto seed = static_cast<uint64_t>(recipe_.train.seed);
  options.noise_key = splitmix64(splitmix64(~seed) + static_cast<uint64_t>(layer));
  const RowPartition partition(num_rows, ranks_.size());
  const int64_t row_dim = recipe_.model.engram.head_dim;
  const auto dtype = recipe_.train.table_dtype == TrainDtype::kBf16 ? torch::kBFloat16 : torch::kFloat32;
  torch::Tensor rows = torch::empty({partition.count(ranks_.rank()), row_dim}, dtype);
  partition.ranges(0, num_rows, [&](int owner, int64_t row, int64_t local, int64_t count) {
    constexpr int64_t kPiece = 1 << 16;  // rows drawn in fp32 at a time
    for (int64_t done = 0; owner == ranks_.rank() && done < count; done += kPiece) {
      const torch::Tensor piece = torch::empty({std::min(kPiece, count - done), row_dim});
      draw_table_rows(seed, layer, row + done, recipe_.model.initializer_range, piece.mutable_data_ptr<float>(),
                      piece.size(0), row_dim);
      rows.narrow(0, local + done, piece.size(0)).copy_(piece);
    }
  });
  if (ranks_.size() > 1) {
    auto table = std::make_unique<ShardedTable>(ranks_, partition, std::move(rows), options);
    sharded_.push_back(&table->shard());
    return table;
  }
  const torch::Device home = recipe_.train.table_placement == TablePlacement::kDevice ? device_ : torch::kCPU;
  auto table = std::make_unique<TrainableTable>(rows.to(home), device_, options);
  local_.push_back(table.get());
  return table;
}

void Learner::make_tables(const RunInputs& inputs) {
  const int rows_per_token = inputs.hasher.rows_per_token();
  for (const NgramHasher& layer : inputs.hasher.layers()) {
    std::unique_ptr<LearningTable> table = make_table(static_cast<int>(tables_.size()), layer.num_rows());
    tables_.push_back(table.get());
    if (recipe_.train.control == ControlKind::kShuffledHash) {
      auto shuffled = std::make_unique<ShuffledTable>(std::move(table), rows_per_token, recipe_.train.seed);
      shuffled_.push_back(shuffled.get());
      model_.tables.push_back(std::move(shuffled));
    } else if (recipe_.train.control == ControlKind::kCapacityOne) {
      model_.tables.push_back(std::make_unique<OneRowTable>(std::move(table), rows_per_token));
    } else {
      model_.tables.push_back(std::move(table));
    }
  }
}

torch::Tensor Learner::to_device(const std::vector<int32_t>& ids, const Batch& batch) const {
  return torch::from_blob(const_cast<int32_t*>(ids.data()), {batch.batch_size, batch.sequence_length}, torch::kInt32)
      .to(device_, torch::kInt64);
}

std::unique_ptr<RowRequest> Learner::request(std::span<const Batch> batches) {
  const RowIds ids = joined_ids(batches);
  std::vector<std::span<const int64_t>> layers;
  for (int layer = 0; layer < ids.num_layers(); ++layer) layers.push_back(ids.layer(layer));
  return std::make_unique<RowRequest>(ranks_, sharded_, layers);
}

// One gather per layer for the whole step: a row that several micro-batches use is one leaf, with one gradient.
std::vector<MemoryRows> Learner::gather(std::span<const Batch> batches, int64_t step) {
  RECORD_USER_SCOPE("phase:table");
  std::vector<MemoryRows> memory;
  if (!sharded_.empty()) {
    rows_ = std::move(next_rows_);
    if (!rows_) {  // nobody has asked during the step before
      rows_ = request(batches);
      rows_->send_ids();
      rows_->send_rows();
    }
    memory = rows_->rows();
  } else if (!model_.tables.empty()) {
    for (ShuffledTable* table : shuffled_) table->begin(step);
    const RowIds ids = joined_ids(batches);
    std::vector<std::unique_ptr<MemoryRead>> reads;
    for (size_t layer = 0; layer < model_.tables.size(); ++layer)
      reads.push_back(model_.tables[layer]->submit(ids.layer(static_cast<int>(layer))));
    for (const auto& read : reads) {
      throw_if_error(read->wait());
      memory.push_back(read->rows());
    }
  }
  const int64_t sequences = batches[0].batch_size * std::ssize(batches);
  for (MemoryRows& rows : memory) rows = shaped(std::move(rows), sequences, batches[0].sequence_length);
  return memory;
}

torch::Tensor Learner::micro_batch_loss(const Batch& batch, std::vector<MemoryRows> memory, ForwardTrace* trace) {
  ForwardInput input;
  input.tokens = to_device(batch.tokens, batch);
  input.memory = std::move(memory);
  input.starts = batch.starts;
  input.recompute = recipe_.train.recompute;
  const Autocast autocast(recipe_.train.dtype == TrainDtype::kBf16, device_.type());
  const torch::Tensor hidden = model_.model->forward(input, trace);
  RECORD_USER_SCOPE("phase:head");
  return model_.model->loss(hidden, to_device(batch.targets, batch));
}

StepResult Learner::step(std::span<const Batch> batches, int64_t step, double multiplier, const std::atomic<bool>* stop,
                         std::span<const Batch> next) {
  TORCH_CHECK(!batches.empty(), "step: got no batch");
  StepResult result;
  StepClock clock(ranks_);
  const int64_t own = std::ssize(batches), all = own * ranks_.size();
  const std::vector<MemoryRows> memory = gather(batches, step);
  std::vector<torch::Tensor> losses;
  StepTotals totals;
  PairwiseSum row_gradients;
  ForwardTrace trace;  // of the step's last micro-batch
  for (int64_t i = 0; i < own; ++i) {
    const Batch& batch = batches[static_cast<size_t>(i)];
    std::vector<MemoryRows> mine;
    for (const MemoryRows& rows : memory)
      mine.push_back({own == 1 ? rows.unique_rows : rows.unique_rows.detach().requires_grad_(),
                      rows.index.narrow(0, i * batch.batch_size, batch.batch_size)});
    const bool traced = histograms_ && i == own - 1 && ranks_.rank() == ranks_.size() - 1;
    const torch::Tensor loss =
        micro_batch_loss(batch, mine, traced ? &trace : nullptr) * (1.0 / static_cast<double>(all));
    clock.lap(result.seconds, &StepSeconds::forward);
    optimizer_->exchange().begin_backward(/*last=*/i == own - 1);
    loss.backward();
    optimizer_->exchange().end_backward();
    clock.lap(result.seconds, &StepSeconds::backward);
    losses.push_back(loss.detach());
    std::vector<torch::Tensor> term;
    for (const MemoryRows& rows : mine) term.push_back(rows.unique_rows.grad());
    row_gradients.push(std::move(term));
    totals.targets += std::ranges::count_if(batch.targets, [](int32_t target) { return target >= 0; });
    const int64_t positions = batch.batch_size * batch.sequence_length * ranks_.size();
    result.positions += positions;
    result.looked_up_rows += positions * batch.row_ids.rows_per_token() * std::ssize(tables_);
  }
  RECORD_USER_SCOPE("phase:optimizers");
  totals.stop = stop != nullptr && stop->load();
  totals.losses.resize(static_cast<size_t>(all));
  const torch::Tensor nats = at::stack(losses).to(torch::kCPU, torch::kFloat64);
  std::copy_n(nats.const_data_ptr<double>(), own, totals.losses.begin() + ranks_.rank() * own);
  totals.gate_means = model_.model->gate_means();
  if (ranks_.rank() != ranks_.size() - 1) std::ranges::fill(totals.gate_means, 0.0);  // the last micro-batch is there
  if (histograms_) totals.gate_counts = count_gates(trace.gates, totals.gate_means.size());
  update(collect(row_gradients.finish(), next, totals), multiplier, totals, result);
  clock.lap(result.seconds, &StepSeconds::optimizers);
  return result;
}

// All gradients go to their owners (`rows`: those of each memory layer) and `totals` becomes that of all ranks; returns
// the sums of the parameters owned here. What needs no answer is sent first.
std::vector<torch::Tensor> Learner::collect(const std::vector<torch::Tensor>& rows, std::span<const Batch> next,
                                            StepTotals& totals) {
  if (rows_) rows_->send_gradients(rows);
  if (!sharded_.empty() && !next.empty()) next_rows_ = request(next);
  for (size_t layer = 0; layer < local_.size(); ++layer) {
    totals.squares.add(local_[layer]->collect_gradient(rows[layer]));
    totals.asked_rows += local_[layer]->touched_rows();
  }
  if (rows_) {
    totals.squares.add(rows_->collect_gradients());
    totals.asked_rows = rows_->asked_rows();
  }
  totals.touched_rows.resize(static_cast<size_t>(ranks_.size()));
  for (const LearningTable* table : tables_)
    totals.touched_rows[static_cast<size_t>(ranks_.rank())] += table->touched_rows();
  std::vector<torch::Tensor> gradients = optimizer_->exchange().finish_sum();
  totals.squares.add(gradient_squares(gradients));
  if (next_rows_) next_rows_->send_ids();
  if (ranks_.size() > 1) {
    totals.expert_loads = expert_loads(*model_.model);
    add_over_ranks(ranks_, totals);
    set_expert_loads(*model_.model, totals.expert_loads);
  }
  return gradients;
}

void Learner::update(std::vector<torch::Tensor> gradients, double multiplier, const StepTotals& totals,
                     StepResult& result) {
  result.loss = totals.loss();
  result.tokens = totals.targets;
  result.grad_norm = totals.gradient_norm();
  for (const int64_t count : totals.touched_rows) result.touched_rows += count;
  result.asked_rows = totals.asked_rows;
  if (result.touched_rows > 0)
    result.busiest_owner = static_cast<double>(*std::ranges::max_element(totals.touched_rows) * ranks_.size()) /
                           static_cast<double>(result.touched_rows);
  result.expert_load = model_.model->expert_load_ratio();
  result.gate_mean = totals.gate_means;
  result.gate_counts = totals.gate_counts;
  if (histograms_) result.expert_counts = expert_loads(*model_.model);
  result.stop = totals.stop;
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    if (next_rows_) next_rows_->send_rows();
    model_.model->update_expert_bias(0);
    return;
  }
  const double scale = clip_scale(result.grad_norm, recipe_.optimizer.clip_norm);
  scale_gradients(gradients, scale);
  optimizer_->step(gradients, multiplier);
  for (LearningTable* table : tables_)
    table->apply_gradient(recipe_.optimizer.adamw_lr * recipe_.optimizer.table_lr_multiplier * multiplier, scale);
  if (next_rows_) next_rows_->send_rows();
  model_.model->update_expert_bias(is_frozen(recipe_.train, ParameterRole::kRouter) ? 0
                                                                                    : recipe_.train.expert_bias_rate);
  optimizer_->exchange().finish_return();
}

Result<std::string> Learner::sample(const std::string& prompt, const GenerateOptions& options) {
  for (ShuffledTable* table : shuffled_) table->begin(ShuffledTable::kEvaluation);
  std::string text;
  model_.model->eval();
  const auto tokens = generate(model_, prompt, options, [&](std::string_view piece) {
    text += piece;
    return true;
  });
  model_.model->train();
  ENGRAM_RETURN_IF_ERROR(tokens.status());
  return text;
}

template <typename Evaluate>
auto Learner::evaluate_text(const Evaluate& evaluate, const TokenText& text, const EvaluateOptions& options) {
  for (ShuffledTable* table : shuffled_) table->begin(ShuffledTable::kEvaluation);
  EvaluateOptions shared = options;
  shared.targets = text.targets;
  shared.part = ranks_.rank();
  shared.parts = ranks_.size();
  shared.sum_over_parts = [this](std::vector<double>& numbers) {
    if (ranks_.size() == 1) return;
    ranks_.sum(Channel::kControl, torch::from_blob(numbers.data(), {std::ssize(numbers)}, torch::kDouble)).wait();
  };
  model_.model->eval();
  auto result = evaluate(model_, text.token_ids, text.document_starts, text.bytes, shared);
  model_.model->train();
  return result;
}

Result<EvaluateResult> Learner::validate(const TokenText& text, const EvaluateOptions& options) {
  return evaluate_text(evaluate, text, options);
}

Result<DocumentsResult> Learner::validate_documents(const TokenText& text, const EvaluateOptions& options) {
  return evaluate_text(evaluate_documents, text, options);
}

}  // namespace engram
