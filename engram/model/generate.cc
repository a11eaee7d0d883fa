#include "engram/model/generate.h"

#include <algorithm>

namespace engram {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";

struct Utf8Step {
  size_t length;  // bytes to take
  bool valid;     // a character; else a maximal broken part, one U+FFFD
  bool complete;  // false: the bytes end inside a character
};

// The next character by the table of well-formed sequences (Unicode, 3.9): overlong forms and surrogates are broken.
Utf8Step next_character(std::string_view bytes) {
  auto at = [bytes](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {1, true, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, true};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {i, false, false};
    unsigned char low = 0x80, high = 0xBF;
    if (i == 1 && lead == 0xE0) low = 0xA0;
    if (i == 1 && lead == 0xED) high = 0x9F;
    if (i == 1 && lead == 0xF0) low = 0x90;
    if (i == 1 && lead == 0xF4) high = 0x8F;
    if (at(i) < low || at(i) > high) return {i, false, true};
  }
  return {length, true, true};
}

Result<std::vector<int32_t>> prompt_tokens(const LoadedModel& model, const std::string& prompt) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model.tokenizer->encode(prompt));
  if (!tokens.empty()) return tokens;
  if (model.special.bos < 0) {
    return invalid_argument("--prompt: got an empty prompt, wanted text (the vocabulary has no bos token)");
  }
  return std::vector<int32_t>{model.special.bos};
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  size_t used = 0;
  while (used < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(used);
    const Utf8Step step = next_character(rest);
    if (!step.complete) break;
    out += step.valid ? rest.substr(0, step.length) : kReplacement;
    used += step.length;
  }
  pending_.erase(0, used);
  return out;
}

std::string Utf8Stream::finish() {
  const bool broken = !pending_.empty();
  pending_.clear();
  return broken ? std::string(kReplacement) : std::string();
}

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
