#include "engram/model/decode/generate.h"

#include <algorithm>

namespace engram {
namespace {

void keep_last(std::vector<int32_t>& tokens, size_t count) {
  if (tokens.size() > count) tokens.erase(tokens.begin(), tokens.end() - static_cast<std::ptrdiff_t>(count));
}

}  // namespace

Status GenerateOptions::validate() const {
  if (max_tokens < 0) return invalid_argument("max_tokens: got {}, wanted >= 0", max_tokens);
  return sampler.validate();
}

Result<std::vector<int32_t>> prompt_context(const LoadedModel& model, const std::string& prompt) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model.tokenizer->encode(prompt, /*add_special=*/true));
  if (tokens.empty() && model.special.bos < 0) {
    return invalid_argument("prompt: got an empty one, wanted text (the vocabulary has no bos token)");
  }
  if (tokens.empty()) tokens.push_back(model.special.bos);
  keep_last(tokens, static_cast<size_t>(model.config.max_position_embeddings));
  return tokens;
}

bool GeneratedText::push(int32_t token) {
  tokens_.push_back(token);
  if (model_.special.ends_text(token) && !ignore_eos_) return false;
  if (model_.tokenizer->is_special(token)) return true;
  const std::string piece = utf8_.push(model_.tokenizer->token_bytes(token));
  stopped_ = !piece.empty() && !on_text_(piece);
  return !stopped_;
}

void GeneratedText::finish() {
  if (stopped_) return;
  const std::string rest = utf8_.finish();
  if (!rest.empty()) on_text_(rest);
}

void generate_by_recomputing(const LoadedModel& model, std::vector<int32_t> context, const GenerateOptions& options,
                             Sampler& sampler, GeneratedText& text) {
  torch::InferenceMode inference;
  const Transformer& transformer = model.model;
  while (std::ssize(text.tokens()) < options.max_tokens) {
    keep_last(context, static_cast<size_t>(model.config.max_position_embeddings));
    const int64_t length = std::ssize(context);
    const ForwardInput input = model.prepare_input(context, 1, length, {}, options.memory_off);
    const torch::Tensor last = transformer->forward(input).narrow(1, length - 1, 1);
    const torch::Tensor logits = transformer->logits(last).reshape({-1}).to(torch::kCPU, torch::kFloat).contiguous();
    TORCH_CHECK(logits.isfinite().all().item<bool>(), "generate: the model's logits are not finite");
    context.push_back(sampler.sample({logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())}));
    if (!text.push(context.back())) return;
  }
}

Result<std::vector<int32_t>> generate(const LoadedModel& model, const std::string& prompt,
                                      const GenerateOptions& options, const OnText& on_text) {
  ENGRAM_RETURN_IF_ERROR(options.validate());
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> context, prompt_context(model, prompt));
  Sampler sampler(options.sampler);
  GeneratedText text(model, on_text, options.ignore_eos);
  generate_by_recomputing(model, std::move(context), options, sampler, text);
  text.finish();
  return text.tokens();
}

}  // namespace engram
