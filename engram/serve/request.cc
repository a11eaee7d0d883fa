#include "engram/serve/request.h"

namespace engram {
namespace {

// NaN is outside of every range.
Status check_range(const char* name, double value, const SamplingRange& range) {
  if (value >= range.low && value <= range.high) return Status();
  return invalid_argument("{}: got {}, wanted {} .. {}", name, value, range.low, range.high);
}

}  // namespace

Status SamplingParams::validate() const {
  if (max_tokens < 1) return invalid_argument("max_tokens: got {}, wanted 1 or more", max_tokens);
  if (top_k < 0) return invalid_argument("top_k: got {}, wanted 0 (off) or more", top_k);
  ENGRAM_RETURN_IF_ERROR(check_range("temperature", temperature, kTemperatureRange));
  ENGRAM_RETURN_IF_ERROR(check_range("top_p", top_p, kTopPRange));
  ENGRAM_RETURN_IF_ERROR(check_range("min_p", min_p, kMinPRange));
  ENGRAM_RETURN_IF_ERROR(check_range("repetition_penalty", repetition_penalty, kRepetitionPenaltyRange));
  ENGRAM_RETURN_IF_ERROR(check_range("presence_penalty", presence_penalty, kPenaltyRange));
  ENGRAM_RETURN_IF_ERROR(check_range("frequency_penalty", frequency_penalty, kPenaltyRange));
  if (seed < 0) return invalid_argument("seed: got {}, wanted 0 or more", seed);
  for (const std::string& text : stop) {
    if (text.empty()) return invalid_argument("stop: got an empty string, wanted one character or more");
  }
  ENGRAM_RETURN_IF_ERROR(check_range("logprobs", logprobs, {-1, kMaxLogprobs}));
  return Status();
}

bool SamplingParams::wants_likeliest_only() const {
  const bool plain = repetition_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0;
  return temperature == 0.0 && plain && logprobs < 0;
}

}  // namespace engram
