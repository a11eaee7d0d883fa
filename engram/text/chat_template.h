// ChatTemplate: the Jinja template that makes a prompt of a conversation, as models bring it (chat_template.jinja,
// tokenizer_config.json).
//
// Loops, conditions, set, macros, namespaces, filters, tests and the methods of texts that published templates use;
// what else a template holds is refused by name when it is read. The text is that of Hugging Face's
// apply_chat_template. Immutable; threads may share one.
#pragma once
#include <cstdint>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engram/core/status.h"
#include "engram/text/template_node.h"

namespace engram {

// The template of our own checkpoints: one line a message, "role: content"; then "assistant:" where a reply is wanted.
inline constexpr std::string_view kPlainChatTemplate =
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

class ChatTemplate {
 public:
  // kInvalidArgument: malformed, or with what is not supported, which is named with its line.
  static Result<ChatTemplate> parse(std::string_view source);

  // `variables` is an object: messages, add_generation_prompt, bos_token, eos_token, tools, ... `now` is the time that
  // strftime_now() shows. kInvalidArgument: the template raises an exception, or does what Python would refuse.
  // kResourceExhausted: a text of over 64 MiB, or a loop that does not end.
  Result<std::string> render(const nlohmann::ordered_json& variables, std::time_t now) const;

 private:
  explicit ChatTemplate(TemplateNode body) : body_(std::move(body)) {}
  TemplateNode body_;
};

}  // namespace engram
