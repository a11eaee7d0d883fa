#include "engram/serve/request.h"

namespace engram {
namespace {

// low <= value <= high; NaN is outside of everything.
Status check_range(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return Status();
  return invalid_argument("{}: got {}, wanted {} .. {}", name, value, low, high);
}

}  // namespace

Status SamplingParams::validate() const {
  if (max_tokens < 1) return invalid_argument("max_tokens: got {}, wanted 1 or more", max_tokens);
  ENGRAM_RETURN_IF_ERROR(check_range("temperature", temperature, 0, 2));
  if (top_k < 0) return invalid_argument("top_k: got {}, wanted 0 (off) or more", top_k);
  if (!(top_p > 0)) return invalid_argument("top_p: got {}, wanted more than 0 and at most 1", top_p);
  ENGRAM_RETURN_IF_ERROR(check_range("top_p", top_p, 0, 1));
  ENGRAM_RETURN_IF_ERROR(check_range("min_p", min_p, 0, 1));
  if (!(repetition_penalty > 0)) {
    return invalid_argument("repetition_penalty: got {}, wanted more than 0 and at most 10", repetition_penalty);
  }
  ENGRAM_RETURN_IF_ERROR(check_range("repetition_penalty", repetition_penalty, 0, 10));
  ENGRAM_RETURN_IF_ERROR(check_range("presence_penalty", presence_penalty, -2, 2));
  ENGRAM_RETURN_IF_ERROR(check_range("frequency_penalty", frequency_penalty, -2, 2));
  if (seed < 0) return invalid_argument("seed: got {}, wanted 0 or more", seed);
  for (const std::string& text : stop) {
    if (text.empty()) return invalid_argument("stop: got an empty string, wanted one character or more");
  }
  ENGRAM_RETURN_IF_ERROR(check_range("logprobs", logprobs, -1, kMaxLogprobs));
  return Status();
}

bool SamplingParams::wants_likeliest_only() const {
  const bool plain = repetition_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0;
  return temperature == 0.0 && plain && logprobs < 0;
}

}  // namespace engram
