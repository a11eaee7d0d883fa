// A hostile chat template over a fixed conversation: it is refused, fails or renders, within its limits.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "engram/text/chat_template.h"
#include "engram/text/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nlohmann::ordered_json variables = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "be \u00e9"}, {"role": "user", "content": " hi\n"},
                 {"role": "assistant", "content": null,
                  "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1.5}}}]}],
    "tools": [{"function": {"name": "f"}}], "bos_token": "<s>", "add_generation_prompt": true})");
  const auto chat = engram::ChatTemplate::parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!chat.ok()) return 0;
  const auto text = chat->render(variables, 0);
  if (text.ok() && engram::find_invalid_utf8(*text) != std::string_view::npos) __builtin_trap();
  return 0;
}
