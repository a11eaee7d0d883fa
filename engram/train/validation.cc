#include "engram/train/validation.h"

#include "engram/core/checked_math.h"

namespace engram {
namespace {

// What validation reads, in memory once: every shard of data.validation as one sequence, or its first
// train.validation_batches batches.
TokenText read_validation(const RunInputs& inputs) {
  TokenText text = read_shards(inputs.validation);
  const DataRecipe& data = inputs.recipe.data;
  const int64_t length = inputs.recipe.model.max_position_embeddings;
  const int64_t wanted =
      saturating_sum({saturating_product({inputs.recipe.train.validation_batches, data.batch_size, length}), 1});
  if (wanted == 1 || wanted >= static_cast<int64_t>(text.token_ids.size())) return text;
  // A part of the text has no separate byte count: it is that of its tokens. Special tokens stand for no text.
  text.token_ids.resize(static_cast<size_t>(wanted));
  text.targets.resize(static_cast<size_t>(wanted));
  std::erase_if(text.document_starts, [&](int64_t start) { return start >= wanted; });
  text.bytes = 0;
  for (const int32_t id : text.targets)
    if (id >= 0 && !inputs.tokenizer->is_special(id))
      text.bytes += static_cast<int64_t>(inputs.tokenizer->token_bytes(id).size());
  return text;
}

nlohmann::ordered_json to_json(const std::vector<PartLoss>& parts) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const PartLoss& part : parts) out[part.name] = {{"tokens", part.tokens}, {"loss", part.loss}};
  return out;
}

}  // namespace

Validation::Validation(const RunInputs& inputs) : inputs_(inputs), text_(read_validation(inputs)) {}

Status Validation::measure(Learner& learner, const std::string& whose, TrainSummary& summary,
                           nlohmann::ordered_json& line, TrainObserver& observer) {
  if (!inputs_.validation_sets.empty()) {
    ENGRAM_RETURN_IF_ERROR(measure_sets(learner, whose, summary, observer));
    line["validation_sets"] = to_json(summary.validation_sets);
  }
  if (text_.token_ids.size() < 2) return Status();
  EvaluateOptions evaluation;
  evaluation.batch_size = inputs_.recipe.data.batch_size;
  if (!parts_)
    parts_ = divide_text(text_.token_ids, inputs_.recipe.model.max_position_embeddings, inputs_.validation,
                         RunInputs::pointers(inputs_.train));
  evaluation.cell_of = parts_->cells;
  evaluation.cells = parts_->count();
  ENGRAM_ASSIGN_OR_RETURN(const EvaluateResult result, learner.validate(text_, evaluation));
  line["validation_loss"] = summary.validation_loss = result.loss;
  line["bits_per_byte"] = summary.bits_per_byte = result.bits_per_byte;
  summary.validation_parts = parts_->losses(result.cell_nats, result.cell_tokens);
  line["validation_parts"] = to_json(summary.validation_parts);
  observer.on_message(fmt::format("{}: validation loss {:.4f}, {:.4f} bits per byte over {} tokens", whose, result.loss,
                                  result.bits_per_byte, result.tokens));
  return Status();
}

Status Validation::measure_sets(Learner& learner, const std::string& whose, TrainSummary& summary,
                                TrainObserver& observer) {
  EvaluateOptions evaluation;
  evaluation.batch_size = inputs_.recipe.data.batch_size;
  summary.validation_sets.clear();
  for (size_t i = 0; i < inputs_.validation_sets.size(); ++i) {
    const std::string& name = inputs_.recipe.data.validation_sets[i].name;
    const Result<DocumentsResult> got = learner.validate_documents(inputs_.validation_sets[i], evaluation);
    if (!got.ok()) return got.status().with_context("data.validation_set " + name);
    summary.validation_sets.push_back({name, got->tokens, got->documents, got->loss, got->bits_per_byte, got->exact});
    observer.on_message(
        fmt::format("{}: {}: loss {:.4f}, {:.4f} bits per byte, exact {:.4f}, {} tokens of {} documents", whose, name,
                    got->loss, got->bits_per_byte, got->exact, got->tokens, got->documents));
  }
  return {};
}

void Validation::restore(const nlohmann::json& line, TrainSummary& summary) {
  summary.validation_loss = line.value("validation_loss", 0.0);
  summary.bits_per_byte = line.value("bits_per_byte", 0.0);
  if (const auto average = line.find("average"); average != line.end())
    summary.average_validation_loss = average->value("validation_loss", 0.0);
  const nlohmann::json none = nlohmann::json::object(), parts = line.value("validation_parts", none),
                       sets = line.value("validation_sets", none);
  for (const auto& [name, part] : parts.items())
    summary.validation_parts.push_back({name, part.value("tokens", int64_t{0}), part.value("loss", 0.0)});
  for (const auto& [name, set] : sets.items())
    summary.validation_sets.push_back({name, set.value("tokens", int64_t{0}), set.value("documents", int64_t{0}),
                                       set.value("loss", 0.0), set.value("bits_per_byte", 0.0),
                                       set.value("exact", 0.0)});
}

}  // namespace engram
