// Answer and MemoryTracer: from events to bodies and server-sent events.
#include "engram/serve/answer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engram/serve/memory_trace.h"
#include "tests/serve/fake_engine.h"

namespace engram {
namespace {

using nlohmann::json;

struct ServeAnswer : testing::Test {
  FakeEngine engine;
  GenerationCall call;

  ServeAnswer() {
    call.requests.resize(1);
    call.requests[0].prompt = {1, 2};
  }
  Answer answer() const { return Answer(engine.info(), engine.tokenizer(), call); }
  GenerationEvent event(const std::string& text, FinishReason finish = FinishReason::kNone) const {
    GenerationEvent out;
    out.token = engine.tokenizer().encode(text.empty() ? "x" : text)->front();
    out.text = text;
    out.finish = finish;
    out.prompt_tokens = 2;
    out.completion_tokens = 3;
    return out;
  }
  // The objects of a text of server-sent events; [DONE] as a string.
  static std::vector<json> events_of(std::string text) {
    std::vector<json> out;
    while (!text.empty()) {
      const size_t end = text.find("\n\n");
      EXPECT_NE(end, std::string::npos) << text;
      EXPECT_TRUE(text.starts_with("data: ")) << text;
      const std::string data = text.substr(6, end - 6);
      EXPECT_EQ(data.find('\n'), std::string::npos);
      out.push_back(data == "[DONE]" ? json(data) : json::parse(data));
      text.erase(0, end + 2);
    }
    return out;
  }
};

TEST_F(ServeAnswer, OneBody) {
  call.n = 2;
  call.requests.resize(2, call.requests[0]);
  Answer made = answer();
  EXPECT_EQ(made.begin(), "");
  EXPECT_EQ(made.on_event(1, event("w\n")), "");
  EXPECT_EQ(made.on_event(0, event("a")), "");
  EXPECT_EQ(made.on_event(0, event("", FinishReason::kStop)), "");
  EXPECT_FALSE(made.done());
  EXPECT_EQ(made.on_event(1, event("z", FinishReason::kLength)), "");
  ASSERT_TRUE(made.done());
  const json body = json::parse(made.reply().body);
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "fake-model");
  EXPECT_EQ(body["choices"][0]["text"], "a");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["choices"][1]["text"], "w\nz");
  EXPECT_EQ(body["choices"][1]["finish_reason"], "length");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 2) << "once, whatever n";
  EXPECT_EQ(body["usage"]["completion_tokens"], 6);
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
}

TEST_F(ServeAnswer, StreamOfCompletion) {
  call.stream = call.include_usage = true;
  Answer made = answer();
  std::string text = made.begin();
  text += made.on_event(0, event("a\n\n"));
  EXPECT_EQ(made.on_event(0, event("")), "") << "nothing to say";
  text += made.on_event(0, event("", FinishReason::kLength));
  EXPECT_EQ(made.on_event(0, event("late")), "");
  text += made.end();
  const std::vector<json> events = events_of(text);
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[0]["choices"][0]["text"], "a\n\n");
  EXPECT_TRUE(events[0]["choices"][0]["finish_reason"].is_null());
  EXPECT_TRUE(events[0]["usage"].is_null());
  EXPECT_EQ(events[1]["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(events[2]["usage"]["total_tokens"], 5);
  EXPECT_TRUE(events[2]["choices"].empty());
  EXPECT_EQ(events[3], "[DONE]");
}

TEST_F(ServeAnswer, StreamOfChat) {
  call.form = AnswerForm::kChat;
  call.stream = true;
  Answer made = answer();
  std::string text = made.begin();
  text += made.on_event(0, event("Hi"));
  text += made.on_event(0, event("", FinishReason::kStop));
  const std::vector<json> events = events_of(text + made.end());
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"], json({{"role", "assistant"}, {"content", ""}}));
  EXPECT_EQ(events[1]["choices"][0]["delta"], json({{"content", "Hi"}}));
  EXPECT_EQ(events[2]["choices"][0]["delta"], json::object());
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], "stop");
}

TEST_F(ServeAnswer, FailureEndsIt) {
  call.stream = true;
  for (const auto& [code, status] : {std::pair{StatusCode::kUnavailable, 503}, std::pair{StatusCode::kDataLoss, 500}}) {
    Answer made = answer();
    GenerationEvent failed = event("", FinishReason::kError);
    failed.token = -1;
    failed.error = Status(code, "drive \"x\"");
    EXPECT_EQ(made.on_event(0, failed), "");
    ASSERT_TRUE(made.error().has_value());
    EXPECT_EQ(made.error()->status, status);
    const std::vector<json> events = events_of(Answer::stream_error(*made.error()));
    EXPECT_EQ(events[0]["error"]["message"], "drive \"x\"");
  }
  Answer made = answer();
  made.on_event(0, event("", FinishReason::kCancelled));
  EXPECT_EQ(made.error()->status, 503);
}

TEST_F(ServeAnswer, Logprobs) {
  call.logprobs = true;
  Answer made = answer();
  GenerationEvent first = event("a"), second = event("c", FinishReason::kStop);
  const int32_t part = engine.tokenizer().encode("\u00e9")->front();  // the first of two bytes
  first.logprob = TokenScore{{first.token, -0.5F}, {{first.token, -0.5F}, {part, -INFINITY}}};
  second.logprob = TokenScore{{second.token, -1.5F}, {}};
  made.on_event(0, first);
  made.on_event(0, second);
  const json logprobs = json::parse(made.reply().body)["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json({"a", "c"}));
  EXPECT_EQ(logprobs["token_logprobs"], json({-0.5, -1.5}));
  EXPECT_EQ(logprobs["text_offset"], json({0, 1}));
  EXPECT_EQ(logprobs["top_logprobs"][0], json({{"a", -0.5}, {"bytes:\\xc3", -9999.0}}));

  call.form = AnswerForm::kChat;
  Answer chat = answer();
  chat.on_event(0, first);
  chat.on_event(0, second);
  const json content = json::parse(chat.reply().body)["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2U);
  EXPECT_EQ(content[0]["top_logprobs"][1]["bytes"], json({0xC3}));
  EXPECT_EQ(content[1]["logprob"], -1.5);
}

// The prompt comes with the first event: its first token without a log probability, offsets in the whole text.
TEST_F(ServeAnswer, EchoOfThePrompt) {
  call.echo = call.logprobs = true;
  call.requests[0].prompt = *engine.tokenizer().encode("a\u00e9<|endoftext|>");
  const std::vector<int32_t> prompt = call.requests[0].prompt;
  ASSERT_EQ(prompt.size(), 4U);
  GenerationEvent first = event("b"), last = event("c", FinishReason::kLength);
  for (size_t i = 1; i < prompt.size(); ++i) {
    first.prompt_logprobs.push_back({{prompt[i], -0.5F}, {{prompt[i], -0.5F}, {prompt[0], -2.0F}}});
  }
  first.logprob = TokenScore{{first.token, -1.0F}, {}};
  last.logprob = TokenScore{{last.token, -3.0F}, {}};
  for (const bool stream : {false, true}) {
    call.stream = stream;
    Answer made = answer();
    std::string events = made.on_event(0, first);
    events += made.on_event(0, last);
    std::string text;
    json logprobs = json::object();
    const auto add = [&](const json& choice) {
      text += choice["text"];
      for (const auto& [name, list] : choice["logprobs"].items()) {
        for (const json& one : list) logprobs[name].push_back(one);
      }
    };
    if (stream) {
      for (const json& one : events_of(events)) add(one["choices"][0]);
    } else {
      add(json::parse(made.reply().body)["choices"][0]);
    }
    EXPECT_EQ(text, "a\u00e9<|endoftext|>bc");
    EXPECT_EQ(logprobs["tokens"], json({"a", "bytes:\\xc3", "bytes:\\xa9", "<|endoftext|>", "b", "c"}));
    EXPECT_EQ(logprobs["token_logprobs"], json({nullptr, -0.5, -0.5, -0.5, -1.0, -3.0}));
    EXPECT_EQ(logprobs["text_offset"], json({0, 1, 1, 2, 15, 16}));
    EXPECT_EQ(logprobs["top_logprobs"][0], nullptr);
    EXPECT_EQ(logprobs["top_logprobs"][3], json({{"<|endoftext|>", -0.5}, {"a", -2.0}}));
    EXPECT_EQ(logprobs["top_logprobs"][4], json::object());
  }
}

// Nothing is generated: one event without a token.
TEST_F(ServeAnswer, EchoAlone) {
  call.echo = true;
  call.requests[0].prompt = *engine.tokenizer().encode("ab");
  Answer made = answer();
  GenerationEvent only;
  only.finish = FinishReason::kLength;
  made.on_event(0, only);
  const json choice = json::parse(made.reply().body)["choices"][0];
  EXPECT_EQ(choice["text"], "ab");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["logprobs"], nullptr);
}

TEST_F(ServeAnswer, MemoryOfEveryToken) {
  call.stream = call.memory_trace = true;
  Answer made = answer();
  GenerationEvent first = event("");
  for (const int32_t token : {5, 6})
    first.trace.push_back({token, {LayerTrace{1, {0.25F, NAN}, {7, 8}, {"cache", "drive"}}}});
  const std::vector<json> events = events_of(made.on_event(0, first));
  ASSERT_EQ(events.size(), 1U) << "a chunk per token, also without text";
  const json choice = events[0]["choices"][0];
  EXPECT_EQ(choice["token_id"], first.token);
  ASSERT_EQ(choice["memory"].size(), 2U);
  const json layer = choice["memory"][1]["layers"][0];
  EXPECT_EQ(choice["memory"][1]["position"], 1);
  EXPECT_EQ(layer["gates"], json({0.25, nullptr}));
  EXPECT_EQ(layer["rows"][0], json({{"id", 7}, {"tier", "cache"}, {"hit", true}}));
  EXPECT_EQ(layer["rows"][1], json({{"id", 8}, {"tier", "drive"}, {"hit", false}}));
}

TEST_F(ServeAnswer, TraceOfThePromptAlone) {
  call.form = AnswerForm::kTrace;
  call.memory_trace = true;
  Answer made = answer();
  GenerationEvent last;
  last.finish = FinishReason::kLength;
  for (const int32_t token : {5, 6}) last.trace.push_back({token, {}});
  made.on_event(0, last);
  const json body = json::parse(made.reply().body);
  EXPECT_EQ(body["tokens"].size(), 2U);
  EXPECT_EQ(body["completion_tokens"], 0);
  EXPECT_EQ(body["text"], "");
  EXPECT_EQ(body["layer_ids"], json({1, 4}));
}

TEST_F(ServeAnswer, TextsOfTraces) {
  MemoryTracer tracer(engine.tokenizer(), 3);
  std::string text;
  std::vector<json> traces;
  const std::string words = "a\u6f22b";  // one, three and one byte
  const std::vector<int32_t> ids = *engine.tokenizer().encode(words);
  for (const int32_t token : ids) {
    traces.push_back(tracer.add({token, {}}));
    text += traces.back()["text"];
  }
  EXPECT_EQ(text, words);
  EXPECT_EQ(traces[0]["ngrams"], json({"a", "a"})) << "what is there";
  EXPECT_EQ(traces[1]["text"], "");
  EXPECT_EQ(traces[3]["ngrams"], json({"\uFFFD\uFFFD", "\u6f22"}));
  EXPECT_EQ(traces[4]["ngrams"][0], "\uFFFDb");
  EXPECT_EQ(tracer.add({-1, {}})["text"], "");
}

TEST(ServeUtf8, TakesWhatIsComplete) {
  Utf8Stream stream;
  const auto push = [&stream](const std::string& bytes) { return stream.push(bytes); };
  EXPECT_EQ(push("a\xe6\xbc"), "a");
  EXPECT_EQ(push("\xa2z"), "\u6f22z");
  EXPECT_EQ(push("\xf0\x9f"), "");
  EXPECT_EQ(push("x"), "\uFFFDx");
  EXPECT_EQ(push("\xff\x80\x80\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

}  // namespace
}  // namespace engram
