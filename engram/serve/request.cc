#include "engram/serve/request.h"

#include <cmath>

namespace engram {
Status SamplingParams::validate() const {
  ENGRAM_RETURN_IF_ERROR(SamplerOptions::validate());
  ENGRAM_RETURN_IF_ERROR(penalties.validate());
  if (max_tokens < 0) return invalid_argument("max_tokens: got {}, wanted 0 or more", max_tokens);
  for (const std::string& text : stop) {
    if (text.empty()) return invalid_argument("stop: got an empty string, wanted one character or more");
  }
  for (const int count : {logprobs, prompt_logprobs}) {
    if (count < -1 || count > kMaxLogprobs) {
      return invalid_argument("logprobs: got {}, wanted -1 .. {}", count, kMaxLogprobs);
    }
  }
  for (const auto& [token, bias] : logit_bias) {
    if (!std::isfinite(bias)) return invalid_argument("logit_bias: got {}, wanted a finite number", bias);
  }
  return Status();
}

bool SamplingParams::wants_likeliest_only() const {
  return temperature == 0.0 && !penalties.any() && logit_bias.empty() && logprobs < 0;
}

}  // namespace engram
