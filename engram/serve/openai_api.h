// The bodies of OpenAI's completion endpoints, and of our own trace: JSON in, generation requests out.
//
// Strict: a wrong type or range, a feature that is not served, or a prompt that does not fit is an error that says
// what, where, got and wanted. Unknown fields are ignored, as OpenAI's servers do. Extensions:
// top_k, min_p, repetition_penalty, ignore_eos, "memory": "on"|"off", "memory_trace". The answers: answer.h.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engram/serve/engine.h"
#include "engram/serve/http_types.h"
#include "engram/text/tokenizer.h"

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
  bool memory_trace = false;
  bool prompt_only = false;  // a trace of the prompt: the one token that the engine has to generate is left out
};

// What parsing needs to know of the model. Views: info and tokenizer outlive it.
struct ApiModel {
  const EngineInfo& info;
  const Tokenizer& tokenizer;
  std::string chat_template;
  int max_choices = 16;                         // prompts * n of one call
  std::optional<size_t> max_prompt_bytes = {};  // text of more bytes is too long, whatever its tokens (prompt_limit.h)
};

std::variant<GenerationCall, ApiError> parse_completion(const ApiModel& model, std::string_view body);
std::variant<GenerationCall, ApiError> parse_chat_completion(const ApiModel& model, std::string_view body);
// {"prompt", "max_tokens": 0 by default, "memory"}: greedy, never streamed.
std::variant<GenerationCall, ApiError> parse_memory_trace(const ApiModel& model, std::string_view body);

// 404 in OpenAI's words.
ApiError unknown_model(std::string_view name, const EngineInfo& info);

}  // namespace engram
