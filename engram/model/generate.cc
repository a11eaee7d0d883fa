#include "engram/model/generate.h"

#include <algorithm>

#include "engram/core/utf8_stream.h"

namespace engram {
namespace {

Result<std::vector<int32_t>> prompt_tokens(const LoadedModel& model, const std::string& prompt) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model.tokenizer->encode(prompt));
  if (!tokens.empty()) return tokens;
  if (model.special.bos < 0) {
    return invalid_argument("--prompt: got an empty prompt, wanted text (the vocabulary has no bos token)");
  }
  return std::vector<int32_t>{model.special.bos};
}

}  // namespace

Result<std::vector<int32_t>> generate(const LoadedModel& model, const std::string& prompt,
                                      const GenerateOptions& options,
                                      const std::function<bool(std::string_view)>& on_text) {
  ENGRAM_RETURN_IF_ERROR(options.sampler.validate());
  if (options.max_tokens < 0) return invalid_argument("--max-tokens: got {}, wanted >= 0", options.max_tokens);
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> context, prompt_tokens(model, prompt));
  const size_t window = static_cast<size_t>(model.config.max_position_embeddings);

  torch::InferenceMode inference;
  Transformer transformer = model.model;
  Sampler sampler(options.sampler);
  Utf8Stream text;
  std::vector<int32_t> generated;
  while (static_cast<int>(generated.size()) < options.max_tokens) {
    if (context.size() > window) context.erase(context.begin(), context.end() - static_cast<std::ptrdiff_t>(window));
    const int64_t length = static_cast<int64_t>(context.size());
    const ForwardInput input = model.prepare_input(context, 1, length, {}, options.memory_off);
    const torch::Tensor last = transformer->forward(input).narrow(1, length - 1, 1);
    const torch::Tensor logits = transformer->logits(last).reshape({-1}).to(torch::kCPU, torch::kFloat).contiguous();
    TORCH_CHECK(logits.isfinite().all().item<bool>(), "generate: the model's logits are not finite");
    const int32_t token = sampler.sample({logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())});
    generated.push_back(token);
    context.push_back(token);
    if (token == model.special.eos) break;
    if (model.tokenizer->is_special(token)) continue;
    const std::string piece = text.push(model.tokenizer->token_bytes(token));
    if (!piece.empty() && !on_text(piece)) return generated;
  }
  const std::string rest = text.finish();
  if (!rest.empty()) on_text(rest);
  return generated;
}

}  // namespace engram
