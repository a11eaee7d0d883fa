#include "engram/serve/openai_api.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/serve/chat.h"

namespace engram {
namespace {

using nlohmann::json;
using Parsed = std::variant<GenerationCall, ApiError>;
using Prompt = std::vector<int32_t>;

constexpr int kMaxDepth = 64;
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr int kMaxTracedChoices = 4;          // a trace is some KB a token
constexpr int kDefaultCompletionTokens = 16;  // OpenAI's
const EnumNames<bool> kMemoryOff = {{false, "on"}, {true, "off"}};

// Fields of a request: its first error is an ApiError, whose param is the field of the body.
class ApiFields : public Fields {
 public:
  explicit ApiFields(const json& body) : Fields(body, "") {}

  std::optional<ApiError> error() const {
    if (status().ok()) return std::nullopt;
    return bad_request(status().message(), failed().substr(0, failed().find_first_of(".[")), code_);
  }
  void fail(const char* key, const std::string& problem, const char* code = "") {
    if (status().ok()) code_ = code;
    Fields::fail(key, problem);
  }
  // A field that is known and not served: anything but null, false or an empty value is an error.
  void unserved(const char* key) {
    const json* value = find(key);
    if (value == nullptr || *value == false || *value == "") return;
    if (value->is_structured() && value->empty()) return;
    fail(key, fmt::format("got {}, and this server does not serve it: leave it out", shown(*value)));
  }

 private:
  std::string code_;
};

std::variant<json, ApiError> parse_body(std::string_view body) {
  Result<json> value = parse_json(body, "request body", kMaxDepth);
  if (!value.ok()) return bad_request(value.status().message());
  if (!value->is_object()) return bad_request(fmt::format("request body: got {}, wanted an object", shown(*value)));
  return std::move(value).value();
}

int64_t random_seed() {
  std::random_device device;
  return static_cast<int64_t>((uint64_t{device()} << 31) ^ device());
}

// What every endpoint with sampling shares, within the API's bounds. max_tokens comes later: its default depends on the
// prompt.
void read_sampling(ApiFields& fields, SamplingParams& sampling) {
  fields("temperature", sampling.temperature = 1.0, 0.0, 2.0);
  fields("top_p", sampling.top_p, 0.0, 1.0);
  sampling.top_p = std::max(sampling.top_p, 1e-9);  // OpenAI takes 0: the likeliest token alone
  fields("top_k", sampling.top_k, -1, INT32_MAX);
  sampling.top_k = std::max(sampling.top_k, 0);  // vLLM writes "off" as -1
  fields("min_p", sampling.min_p, 0.0, 1.0);
  fields("repetition_penalty", sampling.penalties.repetition, 0.01, 10.0);
  fields("presence_penalty", sampling.penalties.presence, -2.0, 2.0);
  fields("frequency_penalty", sampling.penalties.frequency, -2.0, 2.0);
  fields("ignore_eos", sampling.ignore_eos);
  fields("stop", sampling.stop);
  if (sampling.stop.size() > kMaxStops)
    fields.fail("stop", fmt::format("got {} strings, wanted up to {}", sampling.stop.size(), kMaxStops));
  for (const std::string& stop : sampling.stop) {
    if (stop.empty() || stop.size() > kMaxStopBytes)
      fields.fail("stop", fmt::format("got a string of {} bytes, wanted 1 .. {}", stop.size(), kMaxStopBytes));
  }
  sampling.seed = random_seed();
  fields("seed", sampling.seed);
  sampling.seed &= INT64_MAX;
}

void read_memory(ApiFields& fields, const EngineInfo& info, GenerationCall& call, GenerationRequest& request) {
  fields("memory", request.memory_off, kMemoryOff);
  fields("memory_trace", call.memory_trace);
  request.trace = call.memory_trace;
  if (call.memory_trace && info.layer_ids.empty()) fields.fail("memory_trace", "this model has no memory to trace");
}

void read_stream(ApiFields& fields, GenerationCall& call) {
  fields("stream", call.stream);
  if (!fields.find("stream_options")) return;
  if (!call.stream) fields.fail("stream_options", "only a call with \"stream\": true has them");
  Fields inner = fields.section("stream_options");
  inner("include_usage", call.include_usage);
  if (!inner.status().ok()) fields.fail("stream_options", inner.status().message());
}

std::optional<ApiError> check_model(ApiFields& fields, const EngineInfo& info) {
  std::string name = info.model;
  fields("model", name);
  if (fields.error() || name == info.model) return fields.error();
  return unknown_model(name, info);
}

// An empty prompt is the bos token alone, as in `engram generate`.
std::optional<Prompt> encode(const ApiModel& model, const char* key, const std::string& text, ApiFields& fields) {
  if (model.max_prompt_bytes && text.size() > *model.max_prompt_bytes) {
    fields.fail(key,
                fmt::format("got {} bytes of text, wanted at most {}: the model's context is {} tokens, and no token "
                            "has more than {} bytes",
                            text.size(), *model.max_prompt_bytes, model.info.max_context,
                            *model.max_prompt_bytes / static_cast<size_t>(std::max(model.info.max_context, 1))),
                "context_length_exceeded");
    return std::nullopt;
  }
  Result<Prompt> ids = model.tokenizer.encode(text);
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

std::optional<Prompt> token_prompt(const ApiModel& model, const json& list, ApiFields& fields) {
  Prompt ids;
  for (const json& item : list) {
    const std::optional<int64_t> id = as_integer(item);
    if (!id || *id < 0 || *id >= model.info.vocab_size) {
      fields.wrong("prompt", item, fmt::format("token ids 0 .. {}", model.info.vocab_size - 1));
      return std::nullopt;
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  if (!ids.empty()) return ids;
  fields.fail("prompt", "got no token, wanted one or more");
  return std::nullopt;
}

// A string, an array of strings, an array of token ids, or an array of those.
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
      prompt = encode(model, "prompt", item.get_ref<const std::string&>(), fields);
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

// The error says which field to change: the prompt where it alone is too long, else max_tokens.
std::optional<ApiError> check_context(const EngineInfo& info, size_t prompt, int64_t max_tokens, const char* prompt_key,
                                      const char* max_key) {
  const auto length = static_cast<int64_t>(prompt);
  if (length + std::max<int64_t>(max_tokens, 1) <= info.max_context) return std::nullopt;
  if (length >= info.max_context) {
    return bad_request(fmt::format("{}: got {} tokens, wanted at most {} (the model's context is {} tokens, prompt and "
                                   "generated ones together)",
                                   prompt_key, length, info.max_context - 1, info.max_context),
                       prompt_key, "context_length_exceeded");
  }
  return bad_request(fmt::format("{}: got {} with a prompt of {} tokens, wanted at most {} (the model's context is {} "
                                 "tokens, prompt and generated ones together)",
                                 max_key, max_tokens, length, info.max_context - length, info.max_context),
                     max_key, "context_length_exceeded");
}

// n requests for every prompt, each choice with its own seed.
void add_requests(GenerationCall& call, const GenerationRequest& request, std::vector<Prompt> prompts) {
  for (Prompt& prompt : prompts) {
    for (int choice = 0; choice < call.n; ++choice) {
      GenerationRequest one = request;
      one.prompt = prompt;
      one.sampling.seed = static_cast<int64_t>((static_cast<uint64_t>(request.sampling.seed) + choice) & INT64_MAX);
      call.requests.push_back(std::move(one));
    }
  }
}

Parsed finish(const ApiModel& model, ApiFields& fields, GenerationCall call, GenerationRequest request,
              std::vector<Prompt> prompts, const char* prompt_key, const char* max_key, int64_t max_tokens) {
  fields(max_key, max_tokens, 1, INT32_MAX);
  fields("n", call.n, 1, model.max_choices);
  if (fields.error()) return *fields.error();
  const int most = call.memory_trace ? std::min(kMaxTracedChoices, model.max_choices) : model.max_choices;
  if (prompts.size() * static_cast<size_t>(call.n) > static_cast<size_t>(most)) {
    fields.fail("n", fmt::format("got {} for {} prompts, wanted at most {} choices in all{}", call.n, prompts.size(),
                                 most, call.memory_trace ? " with memory_trace" : ""));
    return *fields.error();
  }
  for (const Prompt& prompt : prompts) {
    if (auto error = check_context(model.info, prompt.size(), max_tokens, prompt_key, max_key)) return *error;
  }
  request.sampling.max_tokens = static_cast<int>(max_tokens);
  add_requests(call, request, std::move(prompts));
  return call;
}

Parsed completion_of(const ApiModel& model, const json& body) {
  ApiFields fields(body);
  if (auto error = check_model(fields, model.info)) return *error;
  GenerationCall call;
  GenerationRequest request;
  fields.unserved("echo");
  fields.unserved("suffix");
  fields.unserved("logit_bias");
  fields("n", call.n, 1, INT32_MAX);
  int best_of = call.n;
  fields("best_of", best_of, 1, INT32_MAX);
  if (best_of != call.n) fields.fail("best_of", "only the value of n is served: leave it out");
  read_sampling(fields, request.sampling);
  fields("logprobs", request.sampling.logprobs, 0, kMaxLogprobs);
  call.logprobs = request.sampling.logprobs >= 0;
  read_memory(fields, model.info, call, request);
  read_stream(fields, call);
  if (fields.error()) return *fields.error();
  std::vector<Prompt> prompts = read_prompts(model, fields);
  return finish(model, fields, std::move(call), std::move(request), std::move(prompts), "prompt", "max_tokens",
                kDefaultCompletionTokens);
}

// A string, or parts of which only text ones are served.
std::optional<std::string> message_content(const json& message, const std::string& where, ApiFields& fields) {
  const json* content = json_find(message, "content");
  if (content != nullptr && content->is_string()) return content->get<std::string>();
  std::string text;
  const json parts = content != nullptr && content->is_array() ? *content : json::array({json()});
  for (const json& part : parts) {
    const json* kind = json_find(part, "type");
    const json* words = json_find(part, "text");
    if (kind == nullptr || *kind != "text" || words == nullptr || !words->is_string()) {
      fields.fail("messages",
                  fmt::format("{}.content: wanted a string or parts {{\"type\": \"text\", \"text\": ...}}", where));
      return std::nullopt;
    }
    text += words->get_ref<const std::string&>();
  }
  return text;
}

std::vector<ChatMessage> read_messages(ApiFields& fields) {
  const json* list = fields.find("messages");
  if (list == nullptr || !list->is_array() || list->empty()) {
    fields.wrong("messages", list == nullptr ? json() : *list, "an array of one message or more");
    return {};
  }
  std::vector<ChatMessage> messages;
  for (const json& message : *list) {
    const std::string where = fmt::format("messages[{}]", messages.size());
    const json* role = json_find(message, "role");
    std::string name = role != nullptr && role->is_string() ? role->get<std::string>() : "";
    if (name == "developer") name = "system";  // OpenAI's newer word
    if (name != "system" && name != "user" && name != "assistant") {
      fields.fail("messages", fmt::format("{}.role: got {}, wanted \"system\", \"user\" or \"assistant\"", where,
                                          role == nullptr ? std::string("nothing") : shown(*role)));
      return {};
    }
    std::optional<std::string> content = message_content(message, where, fields);
    if (!content) return {};
    messages.push_back({std::move(name), std::move(*content)});
  }
  return messages;
}

void read_chat_logprobs(ApiFields& fields, GenerationCall& call, SamplingParams& sampling) {
  int top = 0;
  fields("logprobs", call.logprobs);
  fields("top_logprobs", top, 0, kMaxLogprobs);
  if (!call.logprobs && top > 0) fields.fail("top_logprobs", "only a call with \"logprobs\": true has them");
  if (call.logprobs) sampling.logprobs = top;
}

Parsed chat_of(const ApiModel& model, const json& body) {
  ApiFields fields(body);
  if (auto error = check_model(fields, model.info)) return *error;
  GenerationCall call;
  call.form = AnswerForm::kChat;
  GenerationRequest request;
  for (const char* key : {"tools", "functions", "logit_bias", "audio"}) fields.unserved(key);
  if (const json* format = fields.find("response_format")) {
    const json* kind = json_find(*format, "type");
    if (kind == nullptr || *kind != "text") fields.wrong("response_format", *format, "{\"type\": \"text\"}");
  }
  read_sampling(fields, request.sampling);
  read_chat_logprobs(fields, call, request.sampling);
  read_memory(fields, model.info, call, request);
  read_stream(fields, call);
  const std::vector<ChatMessage> messages = read_messages(fields);
  if (fields.error()) return *fields.error();
  Result<std::string> text = render_chat(model.chat_template, messages);
  if (!text.ok()) return bad_request(text.status().message(), "", "no_chat_template");
  for (const std::string& stop : chat_stops()) request.sampling.stop.push_back(stop);
  std::optional<Prompt> prompt = encode(model, "messages", *text, fields);
  if (!prompt) return *fields.error();
  const int64_t room = std::max<int64_t>(model.info.max_context - static_cast<int64_t>(prompt->size()), 1);
  int checked = 1;  // also where max_completion_tokens goes before it
  fields("max_tokens", checked, 1, INT32_MAX);
  const char* max_key = fields.find("max_completion_tokens") != nullptr ? "max_completion_tokens" : "max_tokens";
  return finish(model, fields, std::move(call), std::move(request), {std::move(*prompt)}, "messages", max_key, room);
}

Parsed trace_of(const ApiModel& model, const json& body) {
  ApiFields fields(body);
  if (auto error = check_model(fields, model.info)) return *error;
  GenerationCall call;
  call.form = AnswerForm::kTrace;
  call.memory_trace = true;
  GenerationRequest request;
  request.sampling.temperature = 0;
  request.trace = true;
  fields("memory", request.memory_off, kMemoryOff);
  if (model.info.layer_ids.empty()) fields.fail("model", "this model has no memory to trace");
  int64_t max_tokens = 0;
  fields("max_tokens", max_tokens, 0, INT32_MAX);
  if (fields.error()) return *fields.error();
  std::vector<Prompt> prompts = read_prompts(model, fields);
  if (fields.error()) return *fields.error();
  if (prompts.size() != 1) {
    fields.fail("prompt", fmt::format("got {} prompts, wanted one", prompts.size()));
    return *fields.error();
  }
  if (auto error = check_context(model.info, prompts[0].size(), max_tokens, "prompt", "max_tokens")) return *error;
  call.prompt_only = max_tokens == 0;
  request.sampling.max_tokens = static_cast<int>(std::max<int64_t>(max_tokens, 1));
  add_requests(call, request, std::move(prompts));
  return call;
}

Parsed parse(const ApiModel& model, std::string_view body, Parsed (*read)(const ApiModel&, const json&)) {
  const std::variant<json, ApiError> parsed = parse_body(body);
  if (const ApiError* error = std::get_if<ApiError>(&parsed)) return *error;
  return read(model, std::get<json>(parsed));
}

}  // namespace

Parsed parse_completion(const ApiModel& model, std::string_view body) { return parse(model, body, completion_of); }
Parsed parse_chat_completion(const ApiModel& model, std::string_view body) { return parse(model, body, chat_of); }
Parsed parse_memory_trace(const ApiModel& model, std::string_view body) { return parse(model, body, trace_of); }

ApiError unknown_model(std::string_view name, const EngineInfo& info) {
  return {404, fmt::format("model: got {}, and this server has {}", quote_text(name), quote_text(info.model)),
          "invalid_request_error", "model", "model_not_found"};
}

}  // namespace engram
