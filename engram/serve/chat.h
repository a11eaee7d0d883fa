// Chat: how a conversation becomes a model's prompt: with the Jinja template of its config.json, read once.
//
// A model without a template, or with one that cannot be read, serves completions and no chat. Immutable; threads may
// share one.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/serve/api_fields.h"
#include "engram/text/chat_template.h"

namespace engram {

class Chat {
 public:
  explicit Chat(std::string source);

  const std::string& source() const { return source_; }
  // Ok, or why there is no chat.
  const Status& status() const { return template_.status(); }
  // Where a reply ends besides the model's own tokens: in the plain template, at the next speaker's line.
  const std::vector<std::string>& stops() const;
  // variables: as ChatTemplate::render() has them. REQUIRES: status() is ok.
  Result<std::string> render(const nlohmann::ordered_json& variables) const;

 private:
  std::string source_;
  Result<ChatTemplate> template_;
};

// What a request gives to the template: "messages", "add_generation_prompt" (default true) and what
// "chat_template_kwargs" holds. Templates expect of a message that its content is a string and that the arguments of
// its tool calls are objects: text parts are joined, and arguments are read.
void read_chat(ApiFields& fields, nlohmann::ordered_json& variables);

}  // namespace engram
