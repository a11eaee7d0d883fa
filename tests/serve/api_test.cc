// The API without sockets: bodies that are served and bodies that are not, routes, keys, metrics.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "engram/core/json.h"
#include "engram/serve/chat.h"
#include "engram/serve/http_api.h"
#include "tests/serve/fake_engine.h"

namespace engram {
namespace {

using nlohmann::json;

struct ServeApi : testing::Test {
  FakeEngine engine{{.max_context = 100}};
  HttpApi api{engine, engine.tokenizer(), std::string(kPlainChatTemplate), 8, {}};
  HttpApi locked{engine, engine.tokenizer(), "", 8, {"secret-key-1", "secret-key-2"}};

  static HttpRequest post(const std::string& path, const std::string& body) {
    HttpRequest request;
    request.method = "POST";
    request.path = path;
    request.host = "localhost:8000";
    request.content_type = "application/json; charset=utf-8";
    request.body = body;
    request.has_body = true;
    return request;
  }
  static HttpRequest get(const std::string& path) {
    HttpRequest request;
    request.method = "GET";
    request.path = path;
    request.host = "127.0.0.1:8000";
    return request;
  }
  // As a session asks: what the head alone refuses, and then the body.
  static std::variant<HttpReply, GenerationCall> ask(const HttpApi& with, const HttpRequest& request,
                                                     bool draining = false) {
    if (std::optional<HttpReply> refusal = with.refuse(request)) return *std::move(refusal);
    return with.answer(request, draining);
  }
  GenerationCall call(const std::string& path, const std::string& body) const {
    auto answer = ask(api, post(path, body));
    if (const auto* reply = std::get_if<HttpReply>(&answer)) {
      ADD_FAILURE() << body << " -> " << reply->status << " " << reply->body;
      return {};
    }
    return std::get<GenerationCall>(std::move(answer));
  }
  // Refused with this status; the error names the field and says this.
  void refused(const std::string& path, const std::string& body, int status, const std::string& param,
               const std::string& says) const {
    SCOPED_TRACE(body.substr(0, 200));
    auto answer = ask(api, post(path, body));
    ASSERT_TRUE(std::holds_alternative<HttpReply>(answer)) << "was served";
    const HttpReply& reply = std::get<HttpReply>(answer);
    EXPECT_EQ(reply.status, status) << reply.body;
    const json error = json::parse(reply.body)["error"];
    EXPECT_EQ(error["param"].is_null() ? "" : error["param"], param) << reply.body;
    EXPECT_NE(error["message"].get<std::string>().find(says), std::string::npos) << reply.body;
    EXPECT_EQ(error["type"], "invalid_request_error");
  }
};
constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kTrace = "/v1/memory/trace";

TEST_F(ServeApi, CompletionDefaults) {
  const GenerationCall made = call(kCompletions, R"({"prompt": "ab", "unheard_of": {"x": 1}, "user": 7, "n": null})");
  ASSERT_EQ(made.requests.size(), 1U);
  EXPECT_EQ(made.requests[0].prompt, *engine.tokenizer().encode("ab"));
  const SamplingParams& sampling = made.requests[0].sampling;
  EXPECT_EQ(sampling.max_tokens, 16);
  EXPECT_EQ(sampling.temperature, 1.0);
  EXPECT_EQ(sampling.logprobs, -1);
  EXPECT_TRUE(sampling.stop.empty());
  EXPECT_FALSE(made.stream || made.logprobs || made.memory_trace || made.requests[0].trace ||
               made.requests[0].memory_off);
}

TEST_F(ServeApi, OverlaysByName) {
  const auto overlays = [&](const std::string& text) {
    return call(kCompletions, R"({"prompt": "ab", "overlay": )" + text + "}").requests[0].overlays;
  };
  EXPECT_EQ(overlays("null"), std::vector<std::string>());
  EXPECT_EQ(overlays(R"("rome")"), std::vector<std::string>({"rome"}));
  EXPECT_EQ(overlays(R"(["rome", "paris"])"), (std::vector<std::string>{"rome", "paris"}));
  EXPECT_EQ(call(kTrace, R"({"prompt": "ab", "overlay": "paris"})").requests[0].overlays,
            std::vector<std::string>({"paris"}));
}

TEST_F(ServeApi, CompletionFields) {
  const GenerationCall made = call(kCompletions, R"({"model": "fake-model", "prompt": "ab", "max_tokens": 5.0,
      "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.2, "presence_penalty": -1,
      "frequency_penalty": 2, "seed": 42, "stop": ["x", "yy"], "n": 3, "logprobs": 0, "stream": true, "echo": false,
      "stream_options": {"include_usage": true}, "memory": "off", "memory_trace": true, "ignore_eos": true,
      "best_of": 3, "suffix": null, "logit_bias": {"5": -100, "256": 0.5}})");
  ASSERT_EQ(made.requests.size(), 3U);
  EXPECT_TRUE(made.stream && made.include_usage && made.logprobs && made.memory_trace);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(made.requests[static_cast<size_t>(i)].sampling.seed, 42 + i);
  const GenerationRequest& one = made.requests[0];
  EXPECT_TRUE(one.memory_off && one.trace && one.sampling.ignore_eos);
  EXPECT_EQ(one.sampling.max_tokens, 5);
  EXPECT_EQ(one.sampling.top_k, 0);
  EXPECT_EQ(one.sampling.logprobs, 0);
  EXPECT_EQ(one.sampling.stop, (std::vector<std::string>{"x", "yy"}));
  EXPECT_EQ(one.sampling.penalties.frequency, 2.0);
  EXPECT_EQ(std::map(one.sampling.logit_bias.begin(), one.sampling.logit_bias.end()),
            (std::map<int32_t, float>{{5, -100.0F}, {256, 0.5F}}));
  EXPECT_EQ(one.sampling.prompt_logprobs, -1);
}

TEST_F(ServeApi, EchoAsksForThePromptsLogprobs) {
  const GenerationCall scored = call(kCompletions, R"({"prompt": [[5, 6], [7]], "echo": true, "logprobs": 3,
      "max_tokens": 0})");
  EXPECT_TRUE(scored.echo);
  EXPECT_EQ(scored.requests[1].sampling.prompt_logprobs, 3);
  EXPECT_EQ(scored.requests[1].sampling.max_tokens, 0);
  EXPECT_EQ(call(kCompletions, R"({"prompt": "a", "echo": true})").requests[0].sampling.prompt_logprobs, -1);
  EXPECT_FALSE(call(kCompletions, R"({"prompt": "a", "echo": null})").echo);
  const std::string whole_context(100, 'a');
  call(kCompletions, R"({"echo": true, "max_tokens": 0, "prompt": ")" + whole_context + "\"}");
}

TEST_F(ServeApi, PromptForms) {
  EXPECT_EQ(call(kCompletions, R"({"prompt": ["a", "b"], "n": 2})").requests.size(), 4U);
  EXPECT_EQ(call(kCompletions, R"({"prompt": [5, 6]})").requests[0].prompt, (std::vector<int32_t>{5, 6}));
  const GenerationCall lists = call(kCompletions, R"({"prompt": [[5, 6], [7]]})");
  ASSERT_EQ(lists.requests.size(), 2U);
  EXPECT_EQ(lists.requests[1].prompt, (std::vector<int32_t>{7}));
  EXPECT_EQ(call(kCompletions, R"({"prompt": ""})").requests[0].prompt, (std::vector<int32_t>{0})) << "bos alone";
  EXPECT_NE(call(kCompletions, R"({"prompt": "a"})").requests[0].sampling.seed,
            call(kCompletions, R"({"prompt": "a"})").requests[0].sampling.seed);
}

TEST_F(ServeApi, CompletionsThatCannotBeServed) {
  const std::string long_prompt(100, 'a');
  const struct {
    std::string body;
    int status;
    std::string param, says;
  } cases[] = {
      {"", 400, "", "not JSON"},
      {"{", 400, "", "not JSON"},
      {"[]", 400, "", "wanted an object"},
      {"{} {}", 400, "", "not JSON"},
      {R"({"prompt": "a", "prompt": "b"})", 400, "", "twice"},
      {"{\"prompt\": \"\xff\"}", 400, "", "not JSON"},
      {R"({"prompt": "\ud800"})", 400, "", "not JSON"},
      {R"({"prompt": "a", "temperature": NaN})", 400, "", "not JSON"},
      {R"({"prompt": "a", "temperature": 1e999})", 400, "", "not JSON"},
      {R"({"prompt": "a", "x": )" + std::string(5000, '[') + std::string(5000, ']') + "}", 400, "", "deeper"},
      {R"({"prompt": "a", "model": "gpt-5"})", 404, "model", "'gpt-5'"},
      {R"({"prompt": "a", "model": 3})", 400, "model", "got 3, wanted a string"},
      {"{}", 400, "prompt", "missing"},
      {R"({"prompt": null})", 400, "prompt", "missing"},
      {R"({"prompt": 5})", 400, "prompt", "got 5"},
      {R"({"prompt": []})", 400, "prompt", "got 0 prompts"},
      {R"({"prompt": ["a", 5]})", 400, "prompt", "got 5"},
      {R"({"prompt": [5, "a"]})", 400, "prompt", "got 'a', wanted token ids 0 .. 256"},
      {R"({"prompt": [5, 257]})", 400, "prompt", "got 257"},
      {R"({"prompt": [-1]})", 400, "prompt", "got -1"},
      {R"({"prompt": [1.5]})", 400, "prompt", "got 1.5"},
      {R"({"prompt": [[]]})", 400, "prompt", "no token"},
      {R"({"prompt": ["1","2","3","4","5","6","7","8","9"]})", 400, "prompt", "got 9 prompts, wanted 1 .. 8"},
      {R"({"prompt": ")" + long_prompt + "\"}", 400, "prompt", "got 100 tokens, wanted at most 99"},
      {R"({"prompt": "abcde", "max_tokens": 96})", 400, "max_tokens",
       "got 96 with a prompt of 5 tokens, wanted at most 95"},
      {R"({"prompt": "a", "max_tokens": 0})", 400, "max_tokens", "got 0"},
      {R"({"prompt": "a", "max_tokens": -3})", 400, "max_tokens", "got -3"},
      {R"({"prompt": "a", "max_tokens": 1e30})", 400, "max_tokens", "got 1e+30"},
      {R"({"prompt": "a", "max_tokens": 99999999999999999999})", 400, "max_tokens", "wanted an integer"},
      {R"({"prompt": "a", "max_tokens": 2147483648})", 400, "max_tokens", "got 2147483648"},
      {R"({"prompt": "a", "max_tokens": 2147483647})", 400, "max_tokens", "got 2147483647 with"},
      {R"({"prompt": "a", "max_tokens": "5"})", 400, "max_tokens", "got '5'"},
      {R"({"prompt": "a", "max_tokens": true})", 400, "max_tokens", "got true"},
      {R"({"prompt": "a", "temperature": 2.1})", 400, "temperature", "got 2.1, wanted a number in [0, 2]"},
      {R"({"prompt": "a", "temperature": -0.1})", 400, "temperature", "got -0.1"},
      {R"({"prompt": "a", "temperature": "hot"})", 400, "temperature", "got 'hot'"},
      {R"({"prompt": "a", "top_p": 1.5})", 400, "top_p", "got 1.5"},
      {R"({"prompt": "a", "top_k": -2})", 400, "top_k", "got -2"},
      {R"({"prompt": "a", "min_p": -1})", 400, "min_p", "got -1"},
      {R"({"prompt": "a", "repetition_penalty": 0})", 400, "repetition_penalty", "got 0"},
      {R"({"prompt": "a", "presence_penalty": 3})", 400, "presence_penalty", "got 3"},
      {R"({"prompt": "a", "seed": 1.5})", 400, "seed", "got 1.5, wanted an integer of 64 bits"},
      {R"({"prompt": "a", "stop": ""})", 400, "stop", "got a string of 0 bytes"},
      {R"({"prompt": "a", "stop": [1]})", 400, "stop", "got 1"},
      {R"({"prompt": "a", "stop": {"a": 1}})", 400, "stop", "got an object"},
      {R"({"prompt": "a", "stop": ["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"]})", 400, "stop",
       "up to 16"},
      {R"({"prompt": "a", "stop": ")" + std::string(1025, 's') + "\"}", 400, "stop", "1025 bytes"},
      {R"({"prompt": "a", "n": 9})", 400, "n", "got 9, wanted an integer in [1, 8]"},
      {R"({"prompt": ["a", "b"], "n": 5})", 400, "n", "got 5 for 2 prompts"},
      {R"({"prompt": "a", "n": 5, "memory_trace": true})", 400, "n", "at most 4 choices in all with memory_trace"},
      {R"({"prompt": "a", "logprobs": 21})", 400, "logprobs", "got 21"},
      {R"({"prompt": "a", "logprobs": true})", 400, "logprobs", "got true"},
      {R"({"prompt": "a", "stream": "yes"})", 400, "stream", "got 'yes'"},
      {R"({"prompt": "a", "stream_options": {}})", 400, "stream_options", "only a call with"},
      {R"({"prompt": "a", "stream": true, "stream_options": 1})", 400, "stream_options", "got 1"},
      {R"({"prompt": "a", "stream": true, "stream_options": {"include_usage": 1}})", 400, "stream_options", "got 1"},
      {R"({"prompt": "a", "echo": 1})", 400, "echo", "got 1"},
      {R"({"prompt": "a", "echo": true, "max_tokens": -1})", 400, "max_tokens", "got -1"},
      {R"({"prompt": ")" + long_prompt + R"(a", "echo": true, "max_tokens": 0})", 400, "prompt",
       "got 101 tokens, wanted at most 100"},
      {R"({"prompt": "a", "suffix": "x"})", 400, "suffix", "does not serve"},
      {R"({"prompt": "a", "logit_bias": [1]})", 400, "logit_bias", "got an array, wanted an object of up to 1024"},
      {R"({"prompt": "a", "logit_bias": {"257": 1}})", 400, "logit_bias", "got token '257', wanted token ids 0 .. 256"},
      {R"({"prompt": "a", "logit_bias": {"-1": 1}})", 400, "logit_bias", "got token '-1'"},
      {R"({"prompt": "a", "logit_bias": {"5x": 1}})", 400, "logit_bias", "got token '5x'"},
      {R"({"prompt": "a", "logit_bias": {"": 1}})", 400, "logit_bias", "got token ''"},
      {R"({"prompt": "a", "overlay": "x"})", 400, "overlay", "got 'x', wanted one of: paris, rome"},
      {R"({"prompt": "a", "overlay": ["rome", "rome"]})", 400, "overlay", "got 'rome' twice"},
      {R"({"prompt": "a", "overlay": [1]})", 400, "overlay", "got 1"},
      {R"({"prompt": "a", "logit_bias": {"5": 101}})", 400, "logit_bias", "got 101, wanted biases in [-100, 100]"},
      {R"({"prompt": "a", "logit_bias": {"5": "x"}})", 400, "logit_bias", "got 'x'"},
      {R"({"prompt": "a", "best_of": 2})", 400, "best_of", "only the value of n"},
      {R"({"prompt": "a", "memory": "maybe"})", 400, "memory", "got 'maybe', wanted \"on\" or \"off\""},
      {R"({"prompt": "a", "memory_trace": 1})", 400, "memory_trace", "got 1"},
      {R"({"prompt": "a", "ignore_eos": "x"})", 400, "ignore_eos", "got 'x'"},
  };
  for (const auto& bad : cases) refused(kCompletions, bad.body, bad.status, bad.param, bad.says);
}

TEST_F(ServeApi, Chat) {
  const GenerationCall made = call(kChat, R"({"messages": [{"role": "developer", "content": "Be short."},
      {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]}],
      "logprobs": true, "top_logprobs": 2, "stop": "x", "response_format": {"type": "text"}, "tools": []})");
  ASSERT_EQ(made.requests.size(), 1U);
  EXPECT_EQ(*engine.tokenizer().decode(made.requests[0].prompt), "system: Be short.\nuser: Hi!\nassistant:");
  const SamplingParams& sampling = made.requests[0].sampling;
  EXPECT_EQ(sampling.logprobs, 2);
  EXPECT_EQ(sampling.max_tokens, 100 - static_cast<int>(made.requests[0].prompt.size()))
      << "what the context has room for";
  EXPECT_EQ(sampling.stop.front(), "x");
  EXPECT_EQ(sampling.stop.size(), 5U) << "and the beginnings of the next speaker's line";
  EXPECT_EQ(
      call(kChat, R"({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "max_completion_tokens": 7})")
          .requests[0]
          .sampling.max_tokens,
      7);
}

TEST_F(ServeApi, ChatsThatCannotBeServed) {
  const struct {
    std::string body, param, says;
  } cases[] = {
      {"{}", "messages", "got null"},
      {R"({"messages": []})", "messages", "one message or more"},
      {R"({"messages": "hi"})", "messages", "got 'hi'"},
      {R"({"messages": ["hi"]})", "messages", "messages[0].role: got nothing"},
      {R"({"messages": [{"role": "user", "content": "a"}, {"role": "critic", "content": "a"}]})", "messages",
       "messages[1].role: got 'critic'"},
      {R"({"messages": [{"role": "user"}]})", "messages", "messages[0].content"},
      {R"({"messages": [{"role": "user", "content": 5}]})", "messages", "messages[0].content"},
      {R"({"messages": [{"role": "assistant", "tool_calls": {}}]})", "messages",
       "messages[0].tool_calls: got an object"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": 5}}]}]})", "messages",
       "messages[0].tool_calls[0].function.arguments: wanted a string"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]})", "messages",
       "messages[0].tool_calls[0].function: arguments: not JSON"},
      {R"({"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": 5})", "chat_template_kwargs",
       "got 5, wanted an object"},
      {R"({"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"messages": []}})",
       "chat_template_kwargs", "without \"messages\""},
      {R"({"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": 2})", "add_generation_prompt",
       "got 2"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]})", "messages",
       "content"},
      {R"({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 3})", "top_logprobs", "logprobs"},
      {R"({"messages": [{"role": "user", "content": "a"}], "logprobs": 3})", "logprobs", "got 3"},
      {R"({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]})", "tools",
       "does not serve"},
      {R"({"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}})",
       "response_format", "wanted {\"type\": \"text\"}"},
      {R"({"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 99})", "max_completion_tokens",
       "wanted at most"},
      {R"({"messages": [{"role": "user", "content": "a"}], "max_tokens": "b", "max_completion_tokens": 9})",
       "max_tokens", "got 'b'"},
  };
  for (const auto& bad : cases) refused(kChat, bad.body, 400, bad.param, bad.says);
}

// The same template as transformers would be given, and what it is given.
TEST_F(ServeApi, ChatWithAModelsOwnTemplate) {
  const HttpApi other(
      engine, engine.tokenizer(),
      "{{ bos_token }}{% if tools %}{{ tools[0] | tojson }};{% endif %}{% for m in messages %}"
      "{% if m.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}"
      "<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
      "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{{ mood }}{% endif %}",
      8, {});
  const auto asked = [&](const std::string& body) { return ask(other, post(kChat, body)); };
  const auto prompt = [&](const std::string& body) {
    const auto answer = asked(body);
    if (const auto* reply = std::get_if<HttpReply>(&answer)) return reply->body;
    return *engine.tokenizer().decode(std::get<GenerationCall>(answer).requests[0].prompt);
  };
  EXPECT_EQ(prompt(R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]})"),
            "<|endoftext|><user>a<assistant>");
  EXPECT_EQ(prompt(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null,
                       "tool_calls": [{"function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}]},
                       {"role": "tool", "tool_call_id": "1", "content": "b"}], "add_generation_prompt": false,
                       "chat_template_kwargs": {"tools": [{"type": 1, "function": 2}]}})"),
            "<|endoftext|>{\"type\": 1, \"function\": 2};<user>a<assistant>f{\"z\": 1, \"a\": 2}<tool>b")
      << "fields keep their order";
  EXPECT_EQ(prompt(R"({"messages": [{"role": "user", "content": "a"}],
                       "chat_template_kwargs": {"mood": "glad", "bos_token": "!"}})"),
            "!<user>a<assistant>glad");
  const auto call = std::get<GenerationCall>(asked(R"({"messages": [{"role": "user", "content": "<|endoftext|>"}]})"));
  EXPECT_EQ(std::count(call.requests[0].prompt.begin(), call.requests[0].prompt.end(), 0), 2)
      << "the text is encoded as a whole, as transformers and vLLM do";
  EXPECT_TRUE(call.requests[0].sampling.stop.empty()) << "a reply ends with the model's own token";

  const auto bad = std::get<HttpReply>(
      asked(R"({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]})"));
  EXPECT_EQ(bad.status, 400);
  const json error = json::parse(bad.body)["error"];
  EXPECT_EQ(error["message"], "messages: chat template: line 1: system comes first");
  EXPECT_EQ(error["param"], "messages");
  std::string wide = "{";
  for (int i = 0; i < 1001; ++i) wide += fmt::format("\"{}\": 0,", i);
  EXPECT_NE(prompt(wide + R"("messages": [{"role": "user", "content": "a"}]})").find("more than 1,000 fields"),
            std::string::npos);
}

// Chat is refused and says why; completions go on.
TEST_F(ServeApi, ModelsWithoutATemplateThatCanBeRead) {
  const std::string body = R"({"messages": [{"role": "user", "content": "a"}]})";
  const struct {
    const char *source, *says;
  } cases[] = {
      {"", "no chat_template"},
      {"a\n{% import 'x' as y %}", "chat template: line 2: the tag 'import'"},
      {"{% for m in messages %}{% for a in range(1000000) %}{% for b in range(1000000) %}{% endfor %}{% endfor %}"
       "{% endfor %}",
       "it takes too many steps"}};
  for (const auto& one : cases) {
    const HttpApi with(engine, engine.tokenizer(), one.source, 8, {});
    const HttpReply reply = std::get<HttpReply>(ask(with, post(kChat, body)));
    EXPECT_EQ(reply.status, 400);
    EXPECT_NE(reply.body.find(one.says), std::string::npos) << reply.body;
    EXPECT_TRUE(std::holds_alternative<GenerationCall>(ask(with, post(kCompletions, R"({"prompt": "a"})"))));
  }
}

TEST_F(ServeApi, Traces) {
  GenerationCall made = call(kTrace, R"({"prompt": "abc"})");
  EXPECT_TRUE(made.requests[0].trace);
  EXPECT_EQ(made.requests[0].sampling.max_tokens, 0);
  EXPECT_EQ(made.requests[0].sampling.temperature, 0.0);
  made = call(kTrace, R"({"prompt": [1, 2], "max_tokens": 4, "memory": "off"})");
  EXPECT_TRUE(made.requests[0].memory_off);
  EXPECT_EQ(made.requests[0].sampling.max_tokens, 4);
  refused(kTrace, R"({"prompt": ["a", "b"]})", 400, "prompt", "wanted one");
  refused(kTrace, R"({"prompt": "a", "max_tokens": -1})", 400, "max_tokens", "got -1");
  refused(kTrace, R"({"prompt": "a", "max_tokens": 100})", 400, "max_tokens", "wanted at most 99");
  FakeEngine plain({.memory = false});
  const HttpApi without(plain, plain.tokenizer(), "", 8, {});
  EXPECT_EQ(std::get<HttpReply>(ask(without, post(kTrace, R"({"prompt": "a"})"))).status, 400);
}

// As vLLM answers.
TEST_F(ServeApi, Tokenizer) {
  const auto reply = [&](const HttpRequest& request) {
    const HttpReply made = std::get<HttpReply>(ask(api, request));
    EXPECT_EQ(made.status, 200) << made.body;
    return json::parse(made.body);
  };
  const std::vector<int32_t> ids = *engine.tokenizer().encode("a\u00e9");
  EXPECT_EQ(reply(post("/tokenize", R"({"model": "fake-model", "prompt": "a\u00e9", "add_special_tokens": false})")),
            json({{"tokens", ids}, {"count", 3}, {"max_model_len", 100}}));
  EXPECT_EQ(reply(post("/tokenize", R"({"prompt": ""})"))["count"], 0);
  EXPECT_EQ(reply(post("/tokenize", R"({"messages": [{"role": "user", "content": "a"}]})"))["count"],
            std::string("user: a\nassistant:").size());
  EXPECT_EQ(reply(post("/tokenize", R"({"prompt": ")" + std::string(5000, 'a') + "\"}"))["count"], 5000)
      << "longer than the context, which a client may want to know";
  EXPECT_EQ(reply(post("/detokenize", json({{"tokens", ids}}).dump())), json({{"prompt", "a\u00e9"}}));
  EXPECT_EQ(reply(post("/detokenize", R"({"tokens": []})")), json({{"prompt", ""}}));
  EXPECT_EQ(reply(get("/tokenizer_info")), json({{"bos_token", "<|endoftext|>"},
                                                 {"eos_token", "<|endoftext|>"},
                                                 {"chat_template", kPlainChatTemplate},
                                                 {"model_max_length", 100}}));
  refused("/tokenize", "{}", 400, "prompt", "missing");
  refused("/tokenize", R"({"prompt": 5})", 400, "prompt", "got 5");
  refused("/tokenize", R"({"prompt": "a", "add_special_tokens": 1})", 400, "add_special_tokens", "got 1");
  refused("/tokenize", R"({"messages": []})", 400, "messages", "one message or more");
  refused("/tokenize", R"({"messages": [{"role": "user", "content": "a"}], "prompt": 5})", 400, "prompt", "got 5");
  refused("/tokenize", R"({"prompt": "a", "model": "x"})", 404, "model", "'x'");
  refused("/detokenize", "{}", 400, "tokens", "got null, wanted an array of token ids");
  refused("/detokenize", R"({"tokens": [257]})", 400, "tokens", "got 257, wanted token ids 0 .. 256");
  refused("/detokenize", R"({"tokens": ["a"]})", 400, "tokens", "got 'a'");
  refused("/detokenize", "[]", 400, "", "wanted an object");
}

// What an answer would hold is bounded, whatever the number of prompts.
TEST_F(ServeApi, TooManyPromptLogprobs) {
  FakeEngine large({.max_context = 40'000});
  const HttpApi wide(large, large.tokenizer(), "", 128, {});
  const std::string prompt = "\"" + std::string(30'000, 'a') + "\"";
  const std::string body = R"({"echo": true, "max_tokens": 0, "logprobs": 20, "prompt": [)" + prompt;
  EXPECT_TRUE(std::holds_alternative<GenerationCall>(ask(wide, post(kCompletions, body + "]}"))));
  const auto answer = ask(wide, post(kCompletions, body + "," + prompt + "," + prompt + "," + prompt + "]}"));
  ASSERT_TRUE(std::holds_alternative<HttpReply>(answer));
  EXPECT_NE(std::get<HttpReply>(answer).body.find("got 20 for 120000 tokens of prompts"), std::string::npos);
}

TEST_F(ServeApi, Routes) {
  const auto status = [&](HttpRequest request, bool draining = false) {
    return std::get<HttpReply>(ask(api, request, draining)).status;
  };
  for (const char* path :
       {"/", "/health", "/openapi.json", "/v1/models", "/tokenizer_info", "/metrics", "/metrics.json"}) {
    EXPECT_EQ(status(get(path)), 200) << path;
    HttpRequest head = get(path);
    head.method = "HEAD";
    EXPECT_EQ(status(head), 200) << path;
    head.method = "DELETE";
    const HttpReply reply = std::get<HttpReply>(ask(api, head));
    EXPECT_EQ(reply.status, 405);
    EXPECT_EQ(reply.headers.at(0), std::pair(std::string("Allow"), std::string("GET, HEAD, OPTIONS")));
    head.method = "OPTIONS";
    EXPECT_EQ(status(head), 204);
  }
  EXPECT_EQ(status(get("/v1/completions")), 405);
  EXPECT_EQ(status(get("/v1/models/fake-model")), 200);
  EXPECT_EQ(status(get("/v1/models/fake%2Dmodel")), 200);
  EXPECT_EQ(status(get("/v1/models/other%zz%")), 404);
  EXPECT_EQ(status(get("/v1/nothing")), 404);
  EXPECT_EQ(status(get("")), 404);
  HttpRequest options = get("*");
  options.method = "OPTIONS";
  EXPECT_EQ(status(options), 204);
  HttpRequest form = post(kCompletions, "{}");
  form.content_type = "text/plain";
  EXPECT_EQ(status(form), 415);
  EXPECT_EQ(status(get("/health"), true), 503);
  EXPECT_EQ(status(post(kCompletions, R"({"prompt": "a"})"), true), 503);
  EXPECT_STREQ(HttpApi::route_name("/v1/models/x"), "/v1/models");
  EXPECT_STREQ(HttpApi::route_name("/etc/passwd"), "other");
}

TEST_F(ServeApi, KeysAndHosts) {
  const auto status = [](const HttpApi& with, HttpRequest request, const std::string& key) {
    request.authorization = key;
    return std::get<HttpReply>(ask(with, request)).status;
  };
  EXPECT_EQ(status(locked, get("/v1/models"), ""), 401);
  EXPECT_EQ(status(locked, get("/metrics"), "Bearer secret-key"), 401);
  EXPECT_EQ(status(locked, get("/tokenizer_info"), ""), 401);
  EXPECT_EQ(status(locked, post("/tokenize", "{}"), ""), 401);
  EXPECT_EQ(status(locked, get("/metrics.json"), "Bearer secret-key-11"), 401);
  EXPECT_EQ(status(locked, get("/v1/models"), "secret-key-1"), 401);
  EXPECT_EQ(status(locked, get("/v1/models"), "Basic secret-key-1"), 401);
  EXPECT_EQ(status(locked, get("/v1/models"), "Bearer secret-key-1"), 200);
  EXPECT_EQ(status(locked, get("/v1/models"), "bearer  secret-key-2"), 200);
  for (const char* path : {"/", "/health", "/openapi.json"}) EXPECT_EQ(status(locked, get(path), ""), 200) << path;
  // Without keys only this machine's own names are taken, so that no web page can reach the server by another name.
  HttpRequest request = get("/health");
  request.host = "evil.example:8000";
  EXPECT_EQ(status(api, request, ""), 403);
  EXPECT_EQ(status(locked, request, ""), 200);
  for (const char* host : {"localhost", "127.0.0.1:1", "[::1]:8000", "10.0.0.7"}) {
    request.host = host;
    EXPECT_EQ(status(api, request, ""), 200) << host;
  }
}

TEST(ServeApiKeys, File) {
  const std::string path = testing::TempDir() + "engram_api_keys";
  const auto keys_of = [&path](const std::string& text) {
    EXPECT_TRUE(write_file_atomic(Env::posix(), path, text).ok());
    return read_api_keys(Env::posix(), path);
  };
  EXPECT_EQ(*keys_of("# ours\nsecret-key-1\r\n\nsecret-key-2"),
            (std::vector<std::string>{"secret-key-1", "secret-key-2"}));
  for (const char* bad : {"", "# none\n", "short\n", "with a space\n", "control\x01key\n"}) {
    const auto keys = keys_of(bad);
    ASSERT_FALSE(keys.ok()) << bad;
    EXPECT_EQ(keys.status().message().find("short"), std::string::npos) << "keys stay out of messages";
  }
  std::remove(path.c_str());
  EXPECT_EQ(read_api_keys(Env::posix(), path).status().code(), StatusCode::kNotFound);
}

// Every metric once: one TYPE line, and its samples behind it.
TEST_F(ServeApi, MetricsText) {
  api.counters().count_reply("/health", 200);
  const std::string text = std::get<HttpReply>(ask(api, get("/metrics"))).body;
  std::map<std::string, int> types;
  std::string current;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    ASSERT_NE(end, std::string::npos) << "every line ends";
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.starts_with("# HELP ")) continue;
    if (line.starts_with("# TYPE ")) {
      current = line.substr(7, line.find(' ', 7) - 7);
      EXPECT_EQ(++types[current], 1) << line;
    } else {
      EXPECT_TRUE(line.starts_with(current)) << line;
    }
  }
  for (const char* wanted :
       {"engram_requests_running 0\n", "engram_time_to_first_token_seconds_bucket{le=\"+Inf\"} 0\n",
        "engram_store_tier_hits_total{layer=\"1\",tier=\"cache\"} "
        "0\nengram_store_tier_hits_total{layer=\"1\",tier=\"drive\"} 0\n"
        "engram_store_tier_hits_total{layer=\"4\"",
        "engram_http_replies_total{route=\"/health\",status=\"200\"} 1\n", "engram_stall_seconds_total 0\n"}) {
    EXPECT_NE(text.find(wanted), std::string::npos) << wanted << "\n" << text;
  }
}

TEST(ServeHistogram, CountsUnderBounds) {
  DurationHistogram times;
  for (const double seconds : {0.0005, 0.001, 0.0011, 59.0, 1000.0}) times.record(seconds);
  EXPECT_EQ(times.counts[0], 2U);
  EXPECT_EQ(times.counts[1], 1U);
  EXPECT_EQ(times.counts[13], 1U);
  EXPECT_EQ(times.counts[14], 1U);
  EXPECT_EQ(times.total(), 5U);
}

TEST_F(ServeApi, PublishedFilesAreWhole) {
  const HttpReply document = std::get<HttpReply>(ask(api, get("/openapi.json")));
  const json parsed = json::parse(document.body);
  for (const auto& [path, methods] : parsed["paths"].items()) {
    EXPECT_STRNE(HttpApi::route_name(path), "other") << path;
  }
  const HttpReply page = std::get<HttpReply>(ask(api, get("/")));
  EXPECT_EQ(page.body.find("src=\"http"), std::string::npos) << "the page works offline";
}

}  // namespace
}  // namespace engram
