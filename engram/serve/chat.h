// Chat: renders messages with the one plain template that our checkpoints carry (config.json, chat_template).
//
// There is no template engine here: exactly that text is understood, every other is refused by name.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"
#include "engram/text/chat_template.h"

namespace engram {

struct ChatMessage {
  std::string role, content;
};

// The prompt for the assistant's next message.
//   kFailedPrecondition  the checkpoint has no template, or another than the plain one
Result<std::string> render_chat(std::string_view chat_template, const std::vector<ChatMessage>& messages);

// The texts that begin another speaker's line: a reply ends before them.
const std::vector<std::string>& chat_stops();

}  // namespace engram
