// What a model is to read, from a request's body: a prompt or messages. What is wrong is told to `fields`.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/serve/api_fields.h"
#include "engram/serve/chat.h"
#include "engram/serve/engine.h"
#include "engram/text/tokenizer.h"

namespace engram {

// What reading needs to know of the model. Views: info and tokenizer outlive it.
struct ApiModel {
  const EngineInfo& info;
  const Tokenizer& tokenizer;
  Chat chat;
  int max_choices = 128;                        // prompts * n of one call
  std::optional<size_t> max_prompt_bytes = {};  // text of more bytes is too long, whatever its tokens (prompt_limit.h)
};

using Prompt = std::vector<int32_t>;

// An empty text is the bos token alone, as in `engram generate`. The body's "add_special_tokens", which is
// `add_special` where it is absent: what the tokenizer's file puts around a text is there too.
std::optional<Prompt> encode_prompt(const ApiModel& model, const char* key, const std::string& text, bool add_special,
                                    ApiFields& fields);
// "prompt": a string, an array of strings, an array of token ids, or an array of those.
std::vector<Prompt> read_prompts(const ApiModel& model, ApiFields& fields);
// "messages" as the model's chat template has them.
std::string chat_text(const ApiModel& model, ApiFields& fields);

// vLLM's endpoints. {"prompt" or "messages"}, read as a completion and a chat read them, of any length
// -> {"tokens", "count", "max_model_len"}; {"tokens"} -> {"prompt"}.
HttpReply tokenize(const ApiModel& model, std::string_view body);
HttpReply detokenize(const ApiModel& model, std::string_view body);
// {"bos_token", "eos_token", "chat_template", "model_max_length"}: with these and the two above, clients need no
// tokenizer of their own.
HttpReply tokenizer_info(const ApiModel& model);

}  // namespace engram
