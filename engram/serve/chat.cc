#include "engram/serve/chat.h"

#include <algorithm>
#include <ctime>
#include <optional>

#include "engram/core/json.h"

namespace engram {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

Result<ChatTemplate> read_template(const std::string& source) {
  if (!source.empty()) {
    Result<ChatTemplate> read = ChatTemplate::parse(source);
    if (read.ok()) return read;
    return make_status(StatusCode::kFailedPrecondition, "{} (in this checkpoint's config.json): use /v1/completions",
                       read.status().message());
  }
  return Status(StatusCode::kFailedPrecondition,
                "this checkpoint has no chat_template in its config.json: use /v1/completions");
}

// A field of an ordered object is searched for from the first on.
bool has_wide_object(const json& value) {
  constexpr size_t kMostFields = 1000;
  if (value.is_object() && value.size() > kMostFields) return true;
  return value.is_structured() && std::any_of(value.begin(), value.end(), has_wide_object);
}

Result<ordered_json> parse_in_order(const json& value, std::string_view text, const char* name) {
  if (has_wide_object(value)) return invalid_argument("{}: got an object of more than 1,000 fields", name);
  return parse_ordered_json(text, name);
}

// A string, or parts of which only text ones are served.
std::optional<std::string> content_of(const json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return std::nullopt;
  std::string text;
  for (const json& part : content) {
    const json *kind = json_find(part, "type"), *words = json_find(part, "text");
    if (kind == nullptr || *kind != "text" || words == nullptr || !words->is_string()) return std::nullopt;
    text += words->get_ref<const std::string&>();
  }
  return text;
}

void read_tool_calls(const json& calls, const std::string& where, ordered_json& out, ApiFields& fields) {
  if (!calls.is_array())
    return fields.fail("messages", fmt::format("{}: got {}, wanted an array", where, shown(calls)));
  for (size_t i = 0; i < calls.size(); ++i) {
    const json* function = json_find(calls[i], "function");
    const json* arguments = function == nullptr ? nullptr : json_find(*function, "arguments");
    if (arguments == nullptr || !arguments->is_string()) {
      return fields.fail("messages", fmt::format("{}[{}].function.arguments: wanted a string of JSON", where, i));
    }
    const auto& text = arguments->get_ref<const std::string&>();
    const Result<json> value = text.empty() ? Result<json>(json::object()) : parse_json(text, "arguments", 64);
    const Result<ordered_json> ordered = value.ok() && !text.empty() ? parse_in_order(*value, text, "arguments")
                                         : value.ok()                ? ordered_json::object()
                                                                     : Result<ordered_json>(value.status());
    if (!ordered.ok())
      return fields.fail("messages", fmt::format("{}[{}].function: {}", where, i, ordered.status().message()));
    out[i]["function"]["arguments"] = *ordered;
  }
}

// `out` is the same message, with its fields in the sender's order.
void read_message(const json& message, const std::string& where, ordered_json& out, ApiFields& fields) {
  const json* role = json_find(message, "role");
  std::string name = role != nullptr && role->is_string() ? role->get<std::string>() : "";
  if (name == "developer") name = "system";  // OpenAI's newer word
  if (name != "system" && name != "user" && name != "assistant" && name != "tool") {
    return fields.fail("messages",
                       fmt::format("{}.role: got {}, wanted \"system\", \"user\", \"assistant\" or \"tool\"", where,
                                   role == nullptr ? std::string("nothing") : shown(*role)));
  }
  out["role"] = name;
  const json *content = json_find(message, "content"), *calls = json_find(message, "tool_calls");
  if (calls != nullptr) read_tool_calls(*calls, where + ".tool_calls", out["tool_calls"], fields);
  const std::optional<std::string> text = content != nullptr ? content_of(*content)
                                          : calls != nullptr ? std::optional<std::string>("")
                                                             : std::nullopt;
  if (!text) {
    return fields.fail(
        "messages", fmt::format("{}.content: wanted a string or parts {{\"type\": \"text\", \"text\": ...}}", where));
  }
  out["content"] = *text;
}

}  // namespace

Chat::Chat(std::string source) : source_(std::move(source)), template_(read_template(source_)) {}

const std::vector<std::string>& Chat::stops() const {
  static const std::vector<std::string> none, lines = {"\nuser:", "\nassistant:", "\nsystem:", "\ntool:"};
  return source_ == kPlainChatTemplate ? lines : none;
}

Result<std::string> Chat::render(const ordered_json& variables) const {
  return template_->render(variables, std::time(nullptr));
}

void read_chat(ApiFields& fields, ordered_json& variables) {
  const json *list = fields.find("messages"), *more = fields.find("chat_template_kwargs");
  bool reply = true;
  fields("add_generation_prompt", reply);
  if (list == nullptr || !list->is_array() || list->empty())
    return fields.wrong("messages", list == nullptr ? json() : *list, "an array of one message or more");
  if (more != nullptr && (!more->is_object() || more->contains("messages")))
    return fields.wrong("chat_template_kwargs", *more, "an object without \"messages\"");
  Result<ordered_json> ordered = parse_in_order(fields.object(), fields.text(), "request body");
  if (!ordered.ok()) return fields.fail("messages", ordered.status().message());
  ordered_json& messages = (*ordered)["messages"];
  for (size_t i = 0; i < list->size(); ++i) {
    read_message((*list)[i], fmt::format("messages[{}]", i), messages[i], fields);
    if (fields.error()) return;
  }
  variables["add_generation_prompt"] = reply;
  if (more != nullptr) variables.update((*ordered)["chat_template_kwargs"]);
  variables["messages"] = std::move(messages);
}

}  // namespace engram
