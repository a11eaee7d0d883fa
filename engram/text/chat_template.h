// The one chat template that our checkpoints carry (config.json, chat_template), in the syntax that other programs
// read.
#pragma once
#include <string_view>

namespace engram {

// One line a message, "role: content"; then "assistant:" where a reply is wanted.
inline constexpr std::string_view kPlainChatTemplate =
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

}  // namespace engram
