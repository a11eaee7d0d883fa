#include "engram/serve/answer.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "engram/serve/memory_trace.h"
#include "engram/text/unicode.h"
#include "engram/text/utf8_stream.h"

namespace engram {
namespace {

using nlohmann::ordered_json;

constexpr double kLowestLogprob = -9999.0;  // JSON has no infinity

std::string server_event(const ordered_json& value) { return fmt::format("data: {}\n\n", json_line(value)); }

std::string random_id(const char* prefix) {
  std::random_device device;
  return fmt::format("{}{:08x}{:08x}{:08x}", prefix, device(), device(), device());
}

int64_t unix_time() {
  using namespace std::chrono;
  return duration_cast<seconds>(system_clock::now().time_since_epoch()).count();
}

const char* reason_name(FinishReason reason) { return reason == FinishReason::kLength ? "length" : "stop"; }

ordered_json logprob_number(float logprob) {
  const auto value = static_cast<double>(logprob);
  return value >= kLowestLogprob ? value : kLowestLogprob;  // NaN too
}

size_t characters_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// Puts a member, whose value is JSON text already, at the end of an object's text.
void add_member(std::string& object, const char* name, const std::string& value) {
  object.pop_back();
  object += fmt::format(",\"{}\":{}}}", name, value);
}

// Arrays that grow, kept as text: as values they would take ten times the memory.
class TextArrays {
 public:
  // `more`: an object of arrays; null is nothing.
  void append(const ordered_json& more) {
    for (const auto& [name, elements] : more.items()) {
      auto found =
          std::find_if(arrays_.begin(), arrays_.end(), [&key = name](const auto& one) { return one.first == key; });
      if (found == arrays_.end()) found = arrays_.emplace(arrays_.end(), name, "");
      const std::string text = json_line(elements);
      if (elements.empty()) continue;
      if (!found->second.empty()) found->second += ',';
      found->second.append(text, 1, text.size() - 2);
    }
  }
  std::string json() const {
    if (arrays_.empty()) return "null";
    std::string out = "{}";
    for (const auto& [name, elements] : arrays_) {
      out.pop_back();
      out += fmt::format("{}\"{}\":[{}]}}", out.size() > 1 ? "," : "", name, elements);
    }
    return out;
  }
  // The one array of this name.
  std::string array(const char* name) const {
    for (const auto& [key, elements] : arrays_) {
      if (key == name) return fmt::format("[{}]", elements);
    }
    return "[]";
  }

 private:
  std::vector<std::pair<std::string, std::string>> arrays_;
};

struct Choice {
  explicit Choice(MemoryTracer memory_tracer) : tracer(std::move(memory_tracer)) {}
  MemoryTracer tracer;
  std::vector<int32_t> prompt;  // until it is echoed
  std::string text;
  Utf8Stream tokens;      // the bytes of its tokens
  size_t characters = 0;  // of these, also of those that a stop string may still take back
  FinishReason finish = FinishReason::kNone;
  TextArrays logprobs, memory;  // kept for one body
  ordered_json token_ids = ordered_json::array();
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
};

}  // namespace

struct Answer::Impl {
  Impl(const EngineInfo& engine_info, const Tokenizer& model_tokenizer, const GenerationCall& call)
      : info(engine_info),
        tokenizer(model_tokenizer),
        form(call.form),
        n(static_cast<size_t>(call.n)),
        stream(call.stream),
        include_usage(call.include_usage),
        logprobs(call.logprobs),
        memory_trace(call.memory_trace),
        memory_off(call.requests.front().memory_off),
        open(call.requests.size()) {
    for (const GenerationRequest& request : call.requests) {
      choices.emplace_back(MemoryTracer(tokenizer, info.max_ngram_size));
      if (call.echo) choices.back().prompt = request.prompt;
    }
  }

  bool chat() const { return form == AnswerForm::kChat; }
  std::string token_text(int32_t token) const;
  ordered_json chat_logprob(const TokenLogprob& item) const;
  void add_logprob(ordered_json& to, const Choice& choice, int32_t token, const TokenScore* score) const;
  std::string echo(ordered_json& event_logprobs, Choice& choice, const GenerationEvent& event) const;
  void count_characters(Choice& choice, int32_t token) const;
  ordered_json envelope(const char* object) const;
  ordered_json usage() const;
  std::string chunk(size_t index, const std::string& text, const GenerationEvent& event,
                    const ordered_json& event_logprobs, const ordered_json& memory) const;
  std::string choice_text(size_t index) const;
  // What the memory did at the event's tokens.
  ordered_json event_memory(Choice& choice, const GenerationEvent& event) const;
  HttpReply trace_reply() const;

  const EngineInfo& info;
  const Tokenizer& tokenizer;
  AnswerForm form;
  size_t n;
  bool stream, include_usage, logprobs, memory_trace, memory_off;
  size_t open;
  std::vector<Choice> choices;
  std::optional<ApiError> error;
  std::string id = random_id("cmpl-");
  int64_t created = unix_time();
};

// As OpenAI writes tokens that are not whole characters.
std::string Answer::Impl::token_text(int32_t token) const {
  if (token < 0 || token >= tokenizer.vocab_size()) return "";
  const std::string bytes = tokenizer.token_bytes(token);
  if (find_invalid_utf8(bytes) == std::string_view::npos) return bytes;
  std::string text = "bytes:";
  for (const char byte : bytes) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
  return text;
}

ordered_json Answer::Impl::chat_logprob(const TokenLogprob& item) const {
  ordered_json bytes = ordered_json::array();
  if (item.token >= 0 && item.token < tokenizer.vocab_size()) {
    for (const char byte : tokenizer.token_bytes(item.token)) bytes.push_back(static_cast<unsigned char>(byte));
  }
  return {{"token", token_text(item.token)}, {"logprob", logprob_number(item.logprob)}, {"bytes", std::move(bytes)}};
}

// Arrays grow by one token; a prompt's first has no score.
void Answer::Impl::add_logprob(ordered_json& to, const Choice& choice, int32_t token, const TokenScore* score) const {
  if (!logprobs) return;
  if (chat()) {
    ordered_json item = chat_logprob(*score);
    item["top_logprobs"] = ordered_json::array();
    for (const TokenLogprob& top : score->top) item["top_logprobs"].push_back(chat_logprob(top));
    return to["content"].push_back(std::move(item));
  }
  ordered_json top = score != nullptr ? ordered_json::object() : ordered_json();
  if (score != nullptr)
    for (const TokenLogprob& item : score->top) top[token_text(item.token)] = logprob_number(item.logprob);
  to["text_offset"].push_back(choice.characters);
  to["token_logprobs"].push_back(score != nullptr ? logprob_number(score->logprob) : ordered_json());
  to["tokens"].push_back(token_text(token));
  to["top_logprobs"].push_back(std::move(top));
}

// The text of the prompt's tokens, special ones too, which the first event of a choice that echoes begins with.
std::string Answer::Impl::echo(ordered_json& event_logprobs, Choice& choice, const GenerationEvent& event) const {
  std::string text;
  Utf8Stream bytes;
  const auto add = [&](const std::string& more) {
    choice.characters += characters_of(more);
    text += more;
  };
  const std::vector<int32_t> prompt = std::exchange(choice.prompt, {});
  for (size_t i = 0; i < prompt.size(); ++i) {
    const bool scored = i > 0 && i <= event.prompt_logprobs.size();
    add_logprob(event_logprobs, choice, prompt[i], scored ? &event.prompt_logprobs[i - 1] : nullptr);
    add(bytes.push(tokenizer.token_bytes(prompt[i])));
  }
  add(bytes.finish());
  return text;
}

// A token's place in the text does not wait for the text: what an event shows may be held back for a stop string.
void Answer::Impl::count_characters(Choice& choice, int32_t token) const {
  if (!logprobs || token < 0 || token >= tokenizer.vocab_size() || tokenizer.is_special(token)) return;
  choice.characters += characters_of(choice.tokens.push(tokenizer.token_bytes(token)));
}

ordered_json Answer::Impl::event_memory(Choice& choice, const GenerationEvent& event) const {
  ordered_json memory = ordered_json::array();
  for (const TokenTrace& trace : event.trace) memory.push_back(choice.tracer.add(trace));
  return memory;
}

ordered_json Answer::Impl::envelope(const char* object) const {
  return {{"id", id}, {"object", object}, {"created", created}, {"model", info.model}};
}

// A prompt counts once, however many choices continue it.
ordered_json Answer::Impl::usage() const {
  int64_t prompt = 0, cached = 0, completion = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (i % n == 0) prompt += choices[i].prompt_tokens;
    if (i % n == 0) cached += choices[i].cached_tokens;
    completion += choices[i].completion_tokens;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

std::string Answer::Impl::chunk(size_t index, const std::string& text, const GenerationEvent& event,
                                const ordered_json& event_logprobs, const ordered_json& memory) const {
  const bool ended = event.finish != FinishReason::kNone;
  const bool carries = !text.empty() || !event_logprobs.is_null() || ended;
  if (!carries && !memory_trace) return "";
  ordered_json choice = {{"index", index}};
  if (chat()) {
    choice["delta"] = ordered_json::object();
    if (!text.empty()) choice["delta"]["content"] = text;
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = event_logprobs;
  choice["finish_reason"] = ended ? ordered_json(reason_name(event.finish)) : ordered_json();
  if (memory_trace) {
    if (event.token >= 0) choice["token_id"] = event.token;
    choice["memory"] = memory;
  }
  ordered_json out = envelope(chat() ? "chat.completion.chunk" : "text_completion");
  out["choices"] = ordered_json::array({std::move(choice)});
  if (include_usage) out["usage"] = nullptr;
  return server_event(out);
}

std::string Answer::Impl::choice_text(size_t index) const {
  const Choice& choice = choices[index];
  ordered_json out = {{"index", index}};
  if (chat()) {
    out["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
  } else {
    out["text"] = choice.text;
  }
  out["finish_reason"] = reason_name(choice.finish);
  if (memory_trace) out["token_ids"] = choice.token_ids;
  std::string text = json_line(out);
  add_member(text, "logprobs", choice.logprobs.json());
  if (memory_trace) add_member(text, "memory", choice.memory.array("memory"));
  return text;
}

HttpReply Answer::Impl::trace_reply() const {
  const Choice& choice = choices.front();
  ordered_json out = envelope("memory.trace");
  out["memory"] = memory_off ? "off" : "on";
  out["placement"] = info.placement;
  out["layer_ids"] = info.layer_ids;
  out["streams"] = info.streams;
  out["max_ngram_size"] = info.max_ngram_size;
  out["n_heads"] = info.n_heads;
  out["prompt_tokens"] = choice.prompt_tokens;
  out["completion_tokens"] = choice.completion_tokens;
  out["text"] = choice.text;
  std::string text = json_line(out);
  add_member(text, "tokens", choice.memory.array("memory"));
  return {200, "application/json", std::move(text), {}};
}

Answer::Answer(const EngineInfo& info, const Tokenizer& tokenizer, const GenerationCall& call)
    : impl_(std::make_unique<Impl>(info, tokenizer, call)) {
  if (call.form == AnswerForm::kChat) impl_->id = random_id("chatcmpl-");
  if (call.form == AnswerForm::kTrace) impl_->id = random_id("trace-");
}
Answer::~Answer() = default;
Answer::Answer(Answer&&) noexcept = default;

const std::string& Answer::id() const { return impl_->id; }
bool Answer::done() const { return impl_->open == 0; }
const std::optional<ApiError>& Answer::error() const { return impl_->error; }

// A chat's first chunk names the speaker.
std::string Answer::begin() const {
  if (!impl_->chat()) return "";
  std::string out;
  for (size_t i = 0; i < impl_->choices.size(); ++i) {
    ordered_json chunk = impl_->envelope("chat.completion.chunk");
    chunk["choices"] = ordered_json::array({{{"index", i},
                                             {"delta", {{"role", "assistant"}, {"content", ""}}},
                                             {"logprobs", nullptr},
                                             {"finish_reason", nullptr}}});
    if (impl_->include_usage) chunk["usage"] = nullptr;
    out += server_event(chunk);
  }
  return out;
}

std::string Answer::on_event(size_t index, const GenerationEvent& event) {
  Choice& choice = impl_->choices[index];
  if (choice.finish != FinishReason::kNone || impl_->error) return "";
  choice.finish = event.finish;
  if (event.finish != FinishReason::kNone) --impl_->open;
  if (event.finish == FinishReason::kError) impl_->error = engine_error(event.error);
  if (event.finish == FinishReason::kCancelled) {
    impl_->error = engine_error(Status(StatusCode::kCancelled, "the request was cancelled: the server is stopping"));
  }
  if (impl_->error) return "";
  choice.prompt_tokens = event.prompt_tokens;
  choice.cached_tokens = event.cached_tokens;
  choice.completion_tokens = event.completion_tokens;
  ordered_json logprobs;
  const std::string text = impl_->echo(logprobs, choice, event) + event.text;
  if (event.logprob) impl_->add_logprob(logprobs, choice, event.logprob->token, &*event.logprob);
  impl_->count_characters(choice, event.token);
  const ordered_json memory = impl_->event_memory(choice, event);
  if (impl_->stream) return impl_->chunk(index, text, event, logprobs, memory);
  choice.text += text;
  choice.logprobs.append(logprobs);
  choice.memory.append({{"memory", memory}});
  if (event.token >= 0) choice.token_ids.push_back(event.token);
  return "";
}

std::string Answer::end() const {
  std::string out;
  if (impl_->include_usage) {
    ordered_json chunk = impl_->envelope(impl_->chat() ? "chat.completion.chunk" : "text_completion");
    chunk["choices"] = ordered_json::array();
    chunk["usage"] = impl_->usage();
    out = server_event(chunk);
  }
  return out + "data: [DONE]\n\n";
}

HttpReply Answer::reply() const {
  if (impl_->form == AnswerForm::kTrace) return impl_->trace_reply();
  ordered_json out = impl_->envelope(impl_->chat() ? "chat.completion" : "text_completion");
  out["usage"] = impl_->usage();
  std::string choices;
  for (size_t i = 0; i < impl_->choices.size(); ++i) {
    choices += fmt::format("{}{}", i > 0 ? "," : "", impl_->choice_text(i));
  }
  std::string text = json_line(out);
  add_member(text, "choices", fmt::format("[{}]", choices));
  return {200, "application/json", std::move(text), {}};
}

std::string Answer::stream_error(const ApiError& error) { return fmt::format("data: {}\n\n", error.json()); }

}  // namespace engram
