// The bodies of OpenAI's completion endpoints, and of our own trace: JSON in, generation requests out.
//
// Strict: a wrong type or range, a feature that is not served, or a prompt that does not fit is an error that says
// what, where, got and wanted. Unknown fields are ignored, as OpenAI's servers do. Extensions:
// top_k, min_p, repetition_penalty, ignore_eos, "memory": "on"|"off", "overlay": a name or several, "memory_trace". The
// answers: answer.h.
#pragma once
#include <string_view>
#include <variant>
#include <vector>

#include "engram/serve/api_prompt.h"
#include "engram/serve/engine.h"

namespace engram {

enum class AnswerForm { kCompletion, kChat, kTrace };

// One call: what the engine is asked, and how the answer is to look.
struct GenerationCall {
  AnswerForm form = AnswerForm::kCompletion;
  std::vector<GenerationRequest> requests;  // n for each prompt, the first prompt's first
  int n = 1;
  bool stream = false;
  bool include_usage = false;  // a last chunk with the usage
  bool logprobs = false;
  bool echo = false;  // the text begins with the prompt, and so do the log probabilities
  bool memory_trace = false;
};

std::variant<GenerationCall, ApiError> parse_completion(const ApiModel& model, std::string_view body);
std::variant<GenerationCall, ApiError> parse_chat_completion(const ApiModel& model, std::string_view body);
// {"prompt", "max_tokens": 0 by default, "memory", "overlay"}: greedy, never streamed.
std::variant<GenerationCall, ApiError> parse_memory_trace(const ApiModel& model, std::string_view body);

}  // namespace engram
