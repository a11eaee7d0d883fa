#include "engram/serve/request.h"

namespace engram {
Status SamplingParams::validate() const {
  ENGRAM_RETURN_IF_ERROR(SamplerOptions::validate());
  ENGRAM_RETURN_IF_ERROR(penalties.validate());
  if (max_tokens < 1) return invalid_argument("max_tokens: got {}, wanted 1 or more", max_tokens);
  for (const std::string& text : stop) {
    if (text.empty()) return invalid_argument("stop: got an empty string, wanted one character or more");
  }
  if (logprobs < -1 || logprobs > kMaxLogprobs) {
    return invalid_argument("logprobs: got {}, wanted -1 .. {}", logprobs, kMaxLogprobs);
  }
  return Status();
}

bool SamplingParams::wants_likeliest_only() const { return temperature == 0.0 && !penalties.any() && logprobs < 0; }

}  // namespace engram
