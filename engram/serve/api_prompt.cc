#include "engram/serve/api_prompt.h"

#include <algorithm>

#include "engram/core/json.h"

namespace engram {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

Prompt read_ids(const ApiModel& model, const char* key, const json& list, ApiFields& fields) {
  Prompt ids;
  for (const json& item : list) {
    const std::optional<int64_t> id = as_integer(item);
    if (!id || *id < 0 || *id >= model.info.vocab_size) {
      fields.wrong(key, item, fmt::format("token ids 0 .. {}", model.info.vocab_size - 1));
      return {};
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

std::optional<Prompt> token_prompt(const ApiModel& model, const json& list, ApiFields& fields) {
  Prompt ids = read_ids(model, "prompt", list, fields);
  if (!ids.empty()) return ids;
  fields.fail("prompt", "got no token, wanted one or more");
  return std::nullopt;
}

// What an endpoint that asks nothing of the engine answers.
HttpReply reply_at_once(const ApiModel& model, std::string_view body,
                        ordered_json (*answer)(const ApiModel&, ApiFields&)) {
  const std::variant<json, ApiError> parsed = parse_body(body);
  if (const ApiError* error = std::get_if<ApiError>(&parsed)) return error->reply();
  ApiFields fields(std::get<json>(parsed), body);
  if (auto error = check_model(fields, model.info.model)) return error->reply();
  const ordered_json value = answer(model, fields);
  if (fields.error()) return fields.error()->reply();
  return {200, "application/json", json_line(value), {}};
}

ordered_json tokens_of(const ApiModel& model, ApiFields& fields) {
  std::string text;
  const bool chat = fields.find("messages") != nullptr;
  bool add_special = !chat;
  fields("add_special_tokens", add_special);
  fields("prompt", text);
  if (chat) {
    text = chat_text(model, fields);
  } else {
    fields.need("prompt", text);
  }
  const Result<Prompt> ids = model.tokenizer.encode(text, add_special);
  if (!ids.ok()) fields.fail("prompt", ids.status().message());
  if (fields.error()) return {};
  return {{"count", ids->size()}, {"max_model_len", model.info.max_context}, {"tokens", *ids}};
}

ordered_json text_of(const ApiModel& model, ApiFields& fields) {
  const json* list = fields.find("tokens");
  if (list == nullptr || !list->is_array()) {
    fields.wrong("tokens", list == nullptr ? json() : *list, "an array of token ids");
    return {};
  }
  const Result<std::string> text = model.tokenizer.decode(read_ids(model, "tokens", *list, fields));
  if (!text.ok()) fields.fail("tokens", text.status().message());
  return {{"prompt", text.ok() ? *text : ""}};
}

// The text that stands for a token, for clients; null: there is no such token.
ordered_json special_text(const ApiModel& model, int32_t id) {
  return id >= 0 ? ordered_json(model.tokenizer.token_string(id)) : ordered_json();
}

}  // namespace

std::optional<Prompt> encode_prompt(const ApiModel& model, const char* key, const std::string& text, bool add_special,
                                    ApiFields& fields) {
  fields("add_special_tokens", add_special);
  if (fields.error()) return std::nullopt;
  if (model.max_prompt_bytes && text.size() > *model.max_prompt_bytes) {
    fields.fail(key,
                fmt::format("got {} bytes of text, wanted at most {}: the model's context is {} tokens, and no token "
                            "has more than {} bytes",
                            text.size(), *model.max_prompt_bytes, model.info.max_context,
                            *model.max_prompt_bytes / static_cast<size_t>(std::max(model.info.max_context, 1))),
                "context_length_exceeded");
    return std::nullopt;
  }
  Result<Prompt> ids = model.tokenizer.encode(text, add_special);
  if (!ids.ok()) {
    fields.fail(key, ids.status().message());
    return std::nullopt;
  }
  if (ids->empty() && model.info.bos >= 0) return Prompt{model.info.bos};
  if (ids->empty()) {
    fields.fail(key, "got no text, wanted some (the vocabulary has no bos token)");
    return std::nullopt;
  }
  return std::move(ids).value();
}

std::vector<Prompt> read_prompts(const ApiModel& model, ApiFields& fields) {
  constexpr const char* kWanted = "a string, an array of strings, or an array of token ids";
  const json* value = fields.find("prompt");
  if (value == nullptr) fields.fail("prompt", fmt::format("missing, wanted {}", kWanted));
  if (value == nullptr) return {};
  const bool tokens = value->is_array() && !value->empty() && value->front().is_number();
  const json list = value->is_array() && !tokens ? *value : json::array({*value});
  if (list.empty() || list.size() > static_cast<size_t>(model.max_choices)) {
    fields.fail("prompt", fmt::format("got {} prompts, wanted 1 .. {}", list.size(), model.max_choices));
    return {};
  }
  std::vector<Prompt> prompts;
  for (const json& item : list) {
    std::optional<Prompt> prompt;
    if (item.is_string()) {
      prompt = encode_prompt(model, "prompt", item.get_ref<const std::string&>(), true, fields);
    } else if (item.is_array()) {
      prompt = token_prompt(model, item, fields);
    } else {
      fields.wrong("prompt", item, kWanted);
    }
    if (!prompt) return {};
    prompts.push_back(std::move(*prompt));
  }
  return prompts;
}

std::string chat_text(const ApiModel& model, ApiFields& fields) {
  if (!model.chat.status().ok()) fields.fail("messages", model.chat.status().message(), "no_chat_template");
  ordered_json variables = ordered_json::object();
  if (model.info.bos >= 0) variables["bos_token"] = model.tokenizer.token_string(model.info.bos);
  if (model.info.eos >= 0) variables["eos_token"] = model.tokenizer.token_string(model.info.eos);
  read_chat(fields, variables);
  if (fields.error()) return "";
  Result<std::string> text = model.chat.render(variables);
  if (!text.ok()) fields.fail("messages", text.status().message());
  return text.ok() ? *std::move(text) : "";
}

HttpReply tokenize(const ApiModel& model, std::string_view body) { return reply_at_once(model, body, tokens_of); }
HttpReply detokenize(const ApiModel& model, std::string_view body) { return reply_at_once(model, body, text_of); }

HttpReply tokenizer_info(const ApiModel& model) {
  const ordered_json chat = model.chat.source().empty() ? ordered_json() : ordered_json(model.chat.source());
  const ordered_json info = {{"bos_token", special_text(model, model.info.bos)},
                             {"eos_token", special_text(model, model.info.eos)},
                             {"chat_template", chat},
                             {"model_max_length", model.info.max_context}};
  return {200, "application/json", json_line(info), {}};
}

}  // namespace engram
