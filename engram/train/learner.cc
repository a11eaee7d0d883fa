#include "engram/train/learner.h"

#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>

#include <cmath>

#include "engram/dist/pairwise_sum.h"
#include "engram/train/one_row_table.h"

namespace engram {
namespace {

// Runs matrix products in bf16 while alive; weights stay fp32.
class Autocast {
 public:
  Autocast(bool enabled, torch::Device device) : enabled_(enabled), device_(device.type()) {
    if (!enabled_) return;
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, torch::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!enabled_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, false);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool enabled_;
  torch::DeviceType device_;
};

}  // namespace

Learner::Learner(const RunInputs& inputs) : recipe_(inputs.recipe), device_(inputs.recipe.train.device) {
  torch::manual_seed(static_cast<uint64_t>(recipe_.train.seed));
  model_.config = recipe_.model;
  model_.tokenizer = inputs.tokenizer;
  model_.special = find_special_tokens(*inputs.tokenizer);
  model_.hasher = inputs.hasher;
  // Weights are drawn on the CPU, so that every device starts from the same ones.
  model_.model = Transformer(recipe_.model);
  model_.model->to(device_);
  model_.model->train();
  make_tables(inputs);
  optimizer_.emplace(*model_.model, recipe_.optimizer);
}

void Learner::make_tables(const RunInputs& inputs) {
  RowSparseAdamOptions options;
  options.beta1 = recipe_.optimizer.adamw_beta1;
  options.beta2 = recipe_.optimizer.adamw_beta2;
  options.eps = recipe_.optimizer.adamw_eps;
  options.row_wise = recipe_.optimizer.table_state == TableStateKind::kRow;
  const torch::Device home = recipe_.train.table_placement == TablePlacement::kDevice ? device_ : torch::kCPU;
  const int rows_per_token = inputs.hasher.rows_per_token();
  for (const NgramHasher& layer : inputs.hasher.layers()) {
    torch::Tensor rows = torch::empty({layer.num_rows(), recipe_.model.engram.head_dim}, torch::kFloat32);
    draw_table_rows(static_cast<uint64_t>(recipe_.train.seed), static_cast<int>(tables_.size()), 0,
                    recipe_.model.initializer_range, rows.data_ptr<float>(), rows.size(0), rows.size(1));
    auto table = std::make_unique<TrainableTable>(rows.to(home), device_, options);
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

// One gather per layer for the whole step: a row that several micro-batches use is one leaf, with one gradient.
std::vector<MemoryRows> Learner::gather(std::span<const Batch> batches, int64_t step) {
  RECORD_USER_SCOPE("phase:table");
  for (ShuffledTable* table : shuffled_) table->begin(step);
  RowIds joined;
  if (batches.size() > 1) {
    joined = RowIds(batches[0].row_ids.num_layers(), batches[0].row_ids.rows_per_token());
    for (const Batch& batch : batches) joined.append(batch.row_ids);
  }
  const RowIds& ids = batches.size() > 1 ? joined : batches[0].row_ids;
  std::vector<std::unique_ptr<MemoryRead>> reads;
  for (size_t layer = 0; layer < model_.tables.size(); ++layer)
    reads.push_back(model_.tables[layer]->submit(ids.layer(static_cast<int>(layer))));
  std::vector<MemoryRows> memory;
  for (const auto& read : reads) {
    throw_if_error(read->wait());
    const int64_t sequences = batches[0].batch_size * static_cast<int64_t>(batches.size());
    memory.push_back(shaped(read->rows(), sequences, batches[0].sequence_length));
  }
  return memory;
}

torch::Tensor Learner::micro_batch_loss(const Batch& batch, std::vector<MemoryRows> memory) {
  ForwardInput input;
  input.tokens = to_device(batch.tokens, batch);
  input.memory = std::move(memory);
  input.starts = batch.starts;
  const Autocast autocast(recipe_.train.dtype == TrainDtype::kBf16, device_);
  const torch::Tensor hidden = model_.model->forward(input);
  RECORD_USER_SCOPE("phase:head");
  return model_.model->loss(hidden, to_device(batch.targets, batch));
}

StepResult Learner::step(std::span<const Batch> batches, int64_t step, double multiplier) {
  TORCH_CHECK(!batches.empty(), "step: got no batch");
  StepResult result;
  const double share = 1.0 / static_cast<double>(batches.size());
  const std::vector<MemoryRows> memory = gather(batches, step);
  std::vector<torch::Tensor> losses;
  PairwiseSum gradients;
  for (size_t i = 0; i < batches.size(); ++i) {
    const Batch& batch = batches[i];
    std::vector<MemoryRows> mine;
    for (const MemoryRows& rows : memory)
      mine.push_back({batches.size() == 1 ? rows.unique_rows : rows.unique_rows.detach().requires_grad_(),
                      rows.index.narrow(0, static_cast<int64_t>(i) * batch.batch_size, batch.batch_size)});
    const torch::Tensor loss = micro_batch_loss(batch, mine) * share;
    loss.backward();
    losses.push_back(loss.detach());
    std::vector<torch::Tensor> term = optimizer_->take_gradients();
    for (const MemoryRows& rows : mine) term.push_back(rows.unique_rows.grad());
    gradients.push(std::move(term));
    result.tokens += batch.batch_size * batch.sequence_length;
  }
  RECORD_USER_SCOPE("phase:optimizers");
  result.expert_load = model_.model->expert_load_ratio();
  result.gate_mean = model_.model->gate_means();
  const torch::Tensor nats = at::stack(losses).to(torch::kCPU, torch::kFloat64);
  for (int64_t i = 0; i < nats.numel(); ++i) result.loss += nats.const_data_ptr<double>()[i];
  update(gradients.finish(), multiplier, result);
  return result;
}

// `gradients`: of the parameters, then of the rows of each memory layer.
void Learner::update(std::vector<torch::Tensor> gradients, double multiplier, StepResult& result) {
  ExactSum row_squares;
  for (size_t layer = tables_.size(); layer-- > 0; gradients.pop_back()) {
    row_squares.add(tables_[layer]->collect_gradient(std::move(gradients.back())));
    result.touched_rows += tables_[layer]->touched_rows();
  }
  double squares = row_squares.value();
  for (const double square : gradient_squares(gradients)) squares += square;
  result.grad_norm = std::sqrt(squares);
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) return;
  const double scale = clip_scale(result.grad_norm, recipe_.optimizer.clip_norm);
  scale_gradients(gradients, scale);
  optimizer_->set_gradients(gradients);
  optimizer_->step(multiplier);
  optimizer_->take_gradients();
  for (TrainableTable* table : tables_)
    table->apply_gradient(recipe_.optimizer.adamw_lr * recipe_.optimizer.table_lr_multiplier * multiplier, scale);
  model_.model->update_expert_bias(recipe_.train.expert_bias_rate);
}

Result<EvaluateResult> Learner::validate(std::span<const int32_t> token_ids, std::span<const int64_t> document_starts,
                                         int64_t bytes, const EvaluateOptions& options) {
  for (ShuffledTable* table : shuffled_) table->begin(ShuffledTable::kEvaluation);
  model_.model->eval();
  Result<EvaluateResult> result = evaluate(model_, token_ids, document_starts, bytes, options);
  model_.model->train();
  return result;
}

}  // namespace engram
