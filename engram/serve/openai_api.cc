#include "engram/serve/openai_api.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "engram/core/fields.h"
#include "engram/core/json.h"

namespace engram {
namespace {

using nlohmann::json;
using Parsed = std::variant<GenerationCall, ApiError>;

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxBiases = 1024;
constexpr int kMaxTracedChoices = 4;              // a trace is some KB a token
constexpr size_t kMaxPromptLogprobs = 2'000'000;  // numbers, of some 30 bytes each, in the answer to one call
constexpr int kDefaultCompletionTokens = 16;      // OpenAI's
const EnumNames<bool> kMemoryOff = {{false, "on"}, {true, "off"}};

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

// {"token id": what is added to its logit}
void read_logit_bias(ApiFields& fields, const EngineInfo& info, SamplingParams& sampling) {
  const json* biases = fields.find("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object() || biases->size() > kMaxBiases) {
    return fields.wrong("logit_bias", *biases,
                        fmt::format("an object of up to {} token ids with their biases", kMaxBiases));
  }
  for (const auto& [name, bias] : biases->items()) {
    int32_t id = -1;
    const auto [end, code] = std::from_chars(name.data(), name.data() + name.size(), id);
    if (code != std::errc() || end != name.data() + name.size() || id < 0 || id >= info.vocab_size) {
      return fields.fail("logit_bias",
                         fmt::format("got token {}, wanted token ids 0 .. {}", quote_text(name), info.vocab_size - 1));
    }
    if (!bias.is_number() || std::abs(bias.get<double>()) > 100) {
      return fields.wrong("logit_bias", bias, "biases in [-100, 100]");
    }
    sampling.logit_bias.emplace_back(id, bias.get<float>());
  }
}

// A name or a list of names, each once.
void read_overlays(ApiFields& fields, const EngineInfo& info, std::vector<std::string>& overlays) {
  fields("overlay", overlays);
  for (auto name = overlays.begin(); name != overlays.end() && !fields.error(); ++name) {
    if (std::find(overlays.begin(), name, *name) != name) {
      fields.fail("overlay", fmt::format("got {} twice", quote_text(*name)));
    } else if (info.overlays.empty()) {
      fields.fail("overlay", fmt::format("got {}, and this server has no overlays", quote_text(*name)));
    } else if (std::ranges::find(info.overlays, *name, &OverlayInfo::name) == info.overlays.end()) {
      std::vector<std::string> known;
      for (const OverlayInfo& one : info.overlays) known.push_back(one.name);
      fields.fail("overlay", fmt::format("got {}, wanted one of: {}", quote_text(*name), fmt::join(known, ", ")));
    }
  }
}

void read_memory(ApiFields& fields, const EngineInfo& info, GenerationCall& call, GenerationRequest& request) {
  fields("memory", request.memory_off, kMemoryOff);
  read_overlays(fields, info, request.overlays);
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

// The error says which field to change: the prompt where it alone is too long, else max_tokens.
std::optional<ApiError> check_context(const EngineInfo& info, size_t prompt, int64_t max_tokens, const char* prompt_key,
                                      const char* max_key) {
  const auto length = static_cast<int64_t>(prompt);
  if (length + max_tokens <= info.max_context) return std::nullopt;
  if (const int64_t most = info.max_context - std::min<int64_t>(max_tokens, 1); length > most) {
    return bad_request(fmt::format("{}: got {} tokens, wanted at most {} (the model's context is {} tokens, prompt and "
                                   "generated ones together)",
                                   prompt_key, length, most, info.max_context),
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
  fields(max_key, max_tokens, call.echo ? 0 : 1, INT32_MAX);
  fields("n", call.n, 1, model.max_choices);
  if (fields.error()) return *fields.error();
  const int most = call.memory_trace ? std::min(kMaxTracedChoices, model.max_choices) : model.max_choices;
  if (prompts.size() * static_cast<size_t>(call.n) > static_cast<size_t>(most)) {
    fields.fail("n", fmt::format("got {} for {} prompts, wanted at most {} choices in all{}", call.n, prompts.size(),
                                 most, call.memory_trace ? " with memory_trace" : ""));
    return *fields.error();
  }
  size_t length = 0;
  for (const Prompt& prompt : prompts) {
    if (auto error = check_context(model.info, prompt.size(), max_tokens, prompt_key, max_key)) return *error;
    length += prompt.size() * static_cast<size_t>(call.n);
  }
  const auto numbers = static_cast<size_t>(request.sampling.prompt_logprobs + 1);
  if (length * numbers > kMaxPromptLogprobs) {
    fields.fail("logprobs", fmt::format("got {} for {} tokens of prompts, wanted at most {} numbers in all",
                                        numbers - 1, length, kMaxPromptLogprobs));
    return *fields.error();
  }
  request.sampling.max_tokens = static_cast<int>(max_tokens);
  add_requests(call, request, std::move(prompts));
  return call;
}

Parsed completion_of(const ApiModel& model, ApiFields& fields) {
  GenerationCall call;
  GenerationRequest request;
  fields("echo", call.echo);
  fields.unserved("suffix");
  read_logit_bias(fields, model.info, request.sampling);
  fields("n", call.n, 1, INT32_MAX);
  int best_of = call.n;
  fields("best_of", best_of, 1, INT32_MAX);
  if (best_of != call.n) fields.fail("best_of", "only the value of n is served: leave it out");
  read_sampling(fields, request.sampling);
  fields("logprobs", request.sampling.logprobs, 0, kMaxLogprobs);
  call.logprobs = request.sampling.logprobs >= 0;
  if (call.echo) request.sampling.prompt_logprobs = request.sampling.logprobs;
  read_memory(fields, model.info, call, request);
  read_stream(fields, call);
  if (fields.error()) return *fields.error();
  std::vector<Prompt> prompts = read_prompts(model, fields);
  return finish(model, fields, std::move(call), std::move(request), std::move(prompts), "prompt", "max_tokens",
                kDefaultCompletionTokens);
}

void read_chat_logprobs(ApiFields& fields, GenerationCall& call, SamplingParams& sampling) {
  int top = 0;
  fields("logprobs", call.logprobs);
  fields("top_logprobs", top, 0, kMaxLogprobs);
  if (!call.logprobs && top > 0) fields.fail("top_logprobs", "only a call with \"logprobs\": true has them");
  if (call.logprobs) sampling.logprobs = top;
}

Parsed chat_of(const ApiModel& model, ApiFields& fields) {
  GenerationCall call;
  call.form = AnswerForm::kChat;
  GenerationRequest request;
  for (const char* key : {"tools", "functions", "audio"}) fields.unserved(key);
  read_logit_bias(fields, model.info, request.sampling);
  if (const json* format = fields.find("response_format")) {
    const json* kind = json_find(*format, "type");
    if (kind == nullptr || *kind != "text") fields.wrong("response_format", *format, "{\"type\": \"text\"}");
  }
  read_sampling(fields, request.sampling);
  read_chat_logprobs(fields, call, request.sampling);
  read_memory(fields, model.info, call, request);
  read_stream(fields, call);
  const std::string text = chat_text(model, fields);
  if (fields.error()) return *fields.error();
  const std::vector<std::string>& stops = model.chat.stops();
  request.sampling.stop.insert(request.sampling.stop.end(), stops.begin(), stops.end());
  std::optional<Prompt> prompt = encode_prompt(model, "messages", text, false, fields);
  if (!prompt) return *fields.error();
  const int64_t room = std::max<int64_t>(model.info.max_context - static_cast<int64_t>(prompt->size()), 1);
  int checked = 1;  // also where max_completion_tokens goes before it
  fields("max_tokens", checked, 1, INT32_MAX);
  const char* max_key = fields.find("max_completion_tokens") != nullptr ? "max_completion_tokens" : "max_tokens";
  return finish(model, fields, std::move(call), std::move(request), {std::move(*prompt)}, "messages", max_key, room);
}

Parsed trace_of(const ApiModel& model, ApiFields& fields) {
  GenerationCall call;
  call.form = AnswerForm::kTrace;
  call.memory_trace = true;
  GenerationRequest request;
  request.sampling.temperature = 0;
  request.trace = true;
  fields("memory", request.memory_off, kMemoryOff);
  read_overlays(fields, model.info, request.overlays);
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
  request.sampling.max_tokens = static_cast<int>(max_tokens);
  add_requests(call, request, std::move(prompts));
  return call;
}

Parsed parse(const ApiModel& model, std::string_view body, Parsed (*read)(const ApiModel&, ApiFields&)) {
  const std::variant<json, ApiError> parsed = parse_body(body);
  if (const ApiError* error = std::get_if<ApiError>(&parsed)) return *error;
  ApiFields fields(std::get<json>(parsed), body);
  if (auto error = check_model(fields, model.info.model)) return *error;
  return read(model, fields);
}

}  // namespace

Parsed parse_completion(const ApiModel& model, std::string_view body) { return parse(model, body, completion_of); }
Parsed parse_chat_completion(const ApiModel& model, std::string_view body) { return parse(model, body, chat_of); }
Parsed parse_memory_trace(const ApiModel& model, std::string_view body) { return parse(model, body, trace_of); }

}  // namespace engram
