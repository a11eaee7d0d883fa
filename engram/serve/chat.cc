#include "engram/serve/chat.h"

#include "engram/core/json.h"

namespace engram {

Result<std::string> render_chat(std::string_view chat_template, const std::vector<ChatMessage>& messages) {
  if (chat_template.empty()) {
    return Status(StatusCode::kFailedPrecondition,
                  "this checkpoint has no chat_template in its config.json: use /v1/completions");
  }
  if (chat_template != kPlainChatTemplate) {
    return make_status(StatusCode::kFailedPrecondition,
                       "chat_template in the checkpoint's config.json is {}, wanted {} (the one template this server "
                       "renders); use /v1/completions",
                       quote_text(chat_template, 80), quote_text(kPlainChatTemplate, 200));
  }
  std::string prompt;
  for (const ChatMessage& message : messages) prompt += fmt::format("{}: {}\n", message.role, message.content);
  return prompt + "assistant:";
}

const std::vector<std::string>& chat_stops() {
  static const std::vector<std::string> stops = {"\nuser:", "\nassistant:", "\nsystem:"};
  return stops;
}

}  // namespace engram
