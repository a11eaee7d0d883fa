#include "engram/lab/probes/probes.h"

#include "engram/core/json.h"
#include "engram/data/synthetic_text.h"
#include "engram/lab/probes/gate_probe.h"
#include "engram/lab/probes/knock_out.h"
#include "engram/lab/probes/logit_lens.h"
#include "engram/lab/text/entities.h"
#include "engram/lab/text/score.h"
#include "engram/model/decode/evaluate.h"
#include "engram/model/decode/generate.h"
#include "engram/text/byte_alphabet.h"
#include "tests/lab/probe_test.h"

namespace engram {
namespace {

using Probes = ProbeTest;

std::string message_of(const Result<nlohmann::ordered_json>& result) {
  return result.ok() ? "no error" : result.status().message();
}

TEST_F(Probes, EveryProbeLeavesThreeFiles) {
  window_ = 256;  // room for the built-in prompts, byte by byte
  for (const ProbeEntry& probe : probe_table()) {
    options_.output = folder_ / probe.name;
    const auto data = run(probe.name, {save("moe", MemoryKind::kNone), save("engram", MemoryKind::kEngram)});
    ASSERT_TRUE(data.ok()) << probe.name << ": " << message_of(data);
    const auto file = value_or_throw(read_json_file(Env::posix(), folder_ / (std::string(probe.name) + "/data.json")));
    EXPECT_EQ(file.at("probe"), probe.name);
    EXPECT_EQ(file.at("checkpoints").size(), 2u);
    const auto page = value_or_throw(Env::posix().read_file(folder_ / (std::string(probe.name) + "/report.html")));
    EXPECT_NE(page.find("Chart.js"), std::string::npos);
    EXPECT_TRUE(Env::posix().file_exists(folder_ / (std::string(probe.name) + "/summary.md")));
  }
}

TEST_F(Probes, TheSameInputGivesTheSameBytes) {
  window_ = 256;
  for (const ProbeEntry& probe : probe_table()) {
    const std::string model = save("engram", MemoryKind::kEngram);
    options_.output = folder_ / (std::string(probe.name) + "-1");
    const auto first = run(probe.name, {model});
    options_.output = folder_ / (std::string(probe.name) + "-2");
    const auto second = run(probe.name, {model});
    ASSERT_TRUE(first.ok()) << message_of(first);
    EXPECT_EQ(first->dump(), second->dump()) << probe.name;
  }
}

TEST_F(Probes, AResultIsNotReplacedByAnother) {
  const std::string a = save("a", MemoryKind::kEngram), b = save("b", MemoryKind::kEngram, 2);
  ASSERT_TRUE(run("logit-lens", {a}).ok());
  EXPECT_TRUE(run("logit-lens", {a}).ok());  // the same measurement again
  const std::string before = value_or_throw(Env::posix().read_file(folder_ / "out/data.json"));
  EXPECT_NE(message_of(run("logit-lens", {b})).find("name another output"), std::string::npos);
  EXPECT_NE(message_of(run("gates", {a})).find("its probe is"), std::string::npos);
  EXPECT_EQ(value_or_throw(Env::posix().read_file(folder_ / "out/data.json")), before);
}

TEST_F(Probes, BadInputIsOneLine) {
  const std::string engram = save("engram", MemoryKind::kEngram), moe = save("moe", MemoryKind::kNone);
  EXPECT_NE(message_of(run("logit-lens", {folder_ / "none"})).find("none: no such folder"), std::string::npos);
  EXPECT_NE(message_of(run("gates", {moe})).find("has no Engram layer"), std::string::npos);

  const Tokenizer other = tiny_tokenizer({"<|endoftext|>", "<|other|>"});
  save_tiny(tiny_model(tiny_config(other, MemoryKind::kNone)), other, folder_ / "other");
  EXPECT_NE(message_of(run("cka", {engram, folder_ / "other"})).find("got the vocabulary"), std::string::npos);

  throw_if_error(make_synthetic_corpus(Env::posix(), folder_ / "data", 20, 0));
  options_.text = folder_ / "data/validation.tokens";
  EXPECT_TRUE(run("logit-lens", {engram}).ok());
  options_.output = folder_ / "out2";
  EXPECT_NE(message_of(run("logit-lens", {folder_ / "other"})).find("validation.tokens: got tokens of the vocabulary"),
            std::string::npos);
  options_.text = "";
  EXPECT_NE(message_of(run("logit-lens", {engram})).find("recipe.toml: no such file: name one as text"),
            std::string::npos);
  for (const auto& entry : value_or_throw(Env::posix().list_directory(folder_.path()))) EXPECT_NE(entry, "out2");
}

TEST_F(Probes, LensOfTheLastBlockIsZero) {
  for (const MemoryKind memory : {MemoryKind::kNone, MemoryKind::kEngram}) {
    const LoadedModel model = load("model", memory);
    const ProbeText text = value_or_throw(read_probe_text(Env::posix(), options_.text, *model.tokenizer));
    const LensTrace trace = trace_lens(model, text, 16);
    ASSERT_EQ(trace.divergence.size(), 3u);
    EXPECT_GT(trace.divergence[0].size(), 100u);
    for (double value : trace.divergence[2]) EXPECT_NEAR(value, 0.0, 1e-5);
    for (double value : trace.agreement[2]) EXPECT_EQ(value, 1.0);
    for (double value : trace.divergence[0]) EXPECT_GT(value, 1e-3);
  }
}

TEST_F(Probes, LensSeesNoDifferenceInTheLastBlock) {
  ASSERT_TRUE(run("logit-lens", {save("moe", MemoryKind::kNone), save("engram", MemoryKind::kEngram, 2)}).ok());
  const std::string summary = value_or_throw(Env::posix().read_file(folder_ / "out/summary.md"));
  const size_t last = summary.rfind("\n| 2 |");
  ASSERT_NE(last, std::string::npos) << summary;
  EXPECT_NE(summary.substr(last, summary.find('\n', last + 1) - last).find("no difference seen"), std::string::npos);
}

TEST_F(Probes, LensLossOfTheLastBlockIsTheModelsLoss) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  ProbeText text = value_or_throw(read_probe_text(Env::posix(), options_.text, *model.tokenizer));
  shorten(text, 16 * 40 + 1);
  const LensTrace trace = trace_lens(model, text, 16);
  double sum = 0;
  for (float nats : token_losses(model, text, false)) sum += nats / (16 * 40.0);
  EXPECT_NEAR(estimate(trace.loss[2]).mean, sum, 1e-5);
}

TEST_F(Probes, KnockingOutZeroRowsChangesNothing) {
  const auto items = value_or_throw(
      parse_eval_items(R"({"task":"t","id":"1","prompt":"The capital","choices":[" of"," on"],"answer":0})", "items"));
  for (const bool zero : {true, false}) {
    const LoadedModel model = load("model", MemoryKind::kEngram, 1, zero);
    ScoreOptions options;
    const auto on = value_or_throw(answer_choices(model, items, options));
    options.memory_off = true;
    const auto off = value_or_throw(answer_choices(model, items, options));
    EXPECT_EQ(on[0].log_likelihood == off[0].log_likelihood, zero);
  }
}

TEST_F(Probes, AGroundedItemStatesAnotherChoice) {
  EvalItem item{"t", "1", "", "The capital of France is", {" Rome", " Paris"}, 1, {}};
  const EvalItem grounded = grounded_item(item);
  EXPECT_EQ(grounded.prompt, "The capital of France is Rome. The capital of France is");
  EXPECT_EQ(grounded.answer, 0);
}

TEST_F(Probes, ScoresDoNotDependOnTheBatch) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  std::vector<Continuation> all;
  for (const char* prompt : {"a", "the capital", "Peter the Great and then some more"}) {
    for (const char* answer : {" x", " of Spain"}) {
      all.push_back(value_or_throw(split_continuation(model, prompt, answer)));
    }
  }
  ScoreOptions one;
  one.batch_size = 1;
  const auto alone = value_or_throw(score_continuations(model, all, one));
  const auto together = value_or_throw(score_continuations(model, all));
  for (size_t i = 0; i < all.size(); ++i) EXPECT_NEAR(alone[i].log_likelihood, together[i].log_likelihood, 1e-4);
  EXPECT_TRUE(alone[4].shortened);  // 34 bytes of prompt, 16 tokens of context
  EXPECT_FALSE(alone[0].shortened);
}

// generate()'s first choices, up to a special token.
std::string text_by_whole_passes(const LoadedModel& model, const std::string& prompt, int max_tokens, bool memory_off) {
  if (max_tokens == 0) return "";
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.sampler.temperature = 0;
  options.memory_off = memory_off;
  std::string text;
  for (int32_t token : value_or_throw(generate(model, prompt, options, [](std::string_view) { return true; }))) {
    if (model.tokenizer->is_special(token)) break;
    text += model.tokenizer->token_bytes(token);
  }
  return text;
}

TEST_F(Probes, GreedyTextsAreThoseOfWholePasses) {
  window_ = 48;
  uint64_t seed = 0;
  for (MemoryKind memory : {MemoryKind::kEngram, MemoryKind::kEngram, MemoryKind::kOverEncoding, MemoryKind::kNone}) {
    ++seed;
    const LoadedModel model = load("model" + std::to_string(seed), memory, seed);
    std::vector<std::string> prompt_texts;
    std::vector<GreedyPrompt> prompts;
    for (int64_t i = 0; i < 9; ++i) {
      prompt_texts.push_back(tiny_text(1).substr(0, static_cast<size_t>(1 + 3 * i)));
      prompts.push_back({value_or_throw(model.tokenizer->encode(prompt_texts.back())), 2 * (8 - i)});  // the last: none
    }
    for (bool memory_off : {false, true}) {
      ScoreOptions options;
      options.batch_size = 4;
      options.memory_off = memory_off;
      int64_t told = 0;
      options.on_progress = [&](int64_t done, int64_t total) {
        EXPECT_GT(done, told);
        told = done;
        return total == 9;
      };
      const auto texts = value_or_throw(greedy_texts(Env::posix(), model, prompts, options));
      EXPECT_EQ(told, 9);
      for (size_t i = 0; i < prompts.size(); ++i) {
        const int max_tokens = static_cast<int>(prompts[i].max_tokens);
        EXPECT_EQ(texts[i], text_by_whole_passes(model, prompt_texts[i], max_tokens, memory_off)) << "prompt " << i;
      }
      options.on_progress = [](int64_t, int64_t) { return false; };
      EXPECT_EQ(greedy_texts(Env::posix(), model, prompts, options).status().code(), StatusCode::kCancelled);
    }
    prompts[0].max_tokens = 48;
    EXPECT_EQ(greedy_texts(Env::posix(), model, prompts).status().code(), StatusCode::kInvalidArgument);
  }
}

// A document is exact when its answer is what the model would have written.
TEST_F(Probes, AnAnswerIsExactWhereGreedyDecodingWritesIt) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  std::vector<GreedyPrompt> prompts;
  for (int i = 0; i < 8; ++i)
    prompts.push_back({value_or_throw(model.tokenizer->encode(fmt::format("{} of Fra", i))), 1 + i % 5});
  const auto texts = value_or_throw(greedy_texts(Env::posix(), model, prompts));
  std::vector<int32_t> ids, targets;
  std::vector<int64_t> starts;
  int64_t exact = 0, documents = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::vector<int32_t> answer;
    for (const char byte : texts[i]) answer.push_back(model.tokenizer->token_id(byte_level_encode({&byte, 1})));
    if (answer.empty()) continue;
    const bool changed = i % 3 == 2;
    if (changed) answer.back() = answer.back() == 5 ? 6 : 5;
    exact += changed ? 0 : 1;
    ++documents;
    starts.push_back(static_cast<int64_t>(ids.size()));
    ids.insert(ids.end(), prompts[i].tokens.begin(), prompts[i].tokens.end());
    targets.resize(ids.size(), -1);
    ids.insert(ids.end(), answer.begin(), answer.end());
    targets.insert(targets.end(), answer.begin(), answer.end());
  }
  ASSERT_GT(exact, 2);
  ASSERT_GT(documents, exact);
  EvaluateOptions options;
  options.targets = targets;
  const DocumentsResult got = value_or_throw(evaluate_documents(model, ids, starts, 1, options));
  EXPECT_EQ(got.documents, documents);
  EXPECT_EQ(got.exact, static_cast<double>(exact) / static_cast<double>(documents));
}

TEST_F(Probes, AScoreIsTheLossOfItsTokens) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  const Continuation one = value_or_throw(split_continuation(model, "abcd", "efg"));
  ASSERT_EQ(one.context.size(), 4u);
  ProbeText text{"", one.context, {0}, 7};
  text.tokens.insert(text.tokens.end(), one.tokens.begin(), one.tokens.end());
  const auto losses = token_losses(model, text, false);
  const Score score = value_or_throw(score_continuations(model, std::vector{one}))[0];
  EXPECT_NEAR(score.log_likelihood, -(losses[3] + losses[4] + losses[5]), 1e-4);
}

TEST(Entities, LongestWholeWordsWithTheirTokens) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const auto tokens = value_or_throw(tokenizer.encode("New Yorkers like New York City, not Newark (Paris)."));
  const auto found = find_entities(token_bytes_of(tokenizer, tokens), {"New York", "New York City", "Paris", "New"});
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].entity, 3u);  // "New" of "New Yorkers"
  EXPECT_EQ(found[1].entity, 1u);
  EXPECT_EQ(found[1].first_token, 17);
  EXPECT_EQ(found[1].last_token, 29);
  EXPECT_EQ(found[2].entity, 2u);
}

TEST(GateContrast, SeesAGateThatFiresAtEndsAndNoneThatIsConstant) {
  GateTrace trace{1, 2, 100, std::vector<float>(200, 0.5f)};
  std::vector<int64_t> ends, others;
  for (int64_t t = 0; t < 100; t += 10) {
    ends.push_back(t);
    others.push_back(t + 5);
    trace.values[static_cast<size_t>(t)] = 0.9f;  // branch 0 fires at ends
  }
  const GateContrast fires = contrast(trace, 0, 0, ends, others, 20, 0);
  EXPECT_EQ(fires.auc, 1.0);
  EXPECT_EQ(fires.top_ends, 10);
  const GateContrast constant = contrast(trace, 0, 1, ends, others, 20, 0);
  EXPECT_EQ(constant.auc, 0.5);
  EXPECT_EQ(constant.top_ends, 0);
}

TEST(EvalItems, RefusesWhatIsNotAnItem) {
  const auto why = [](const char* line) {
    const auto found = parse_eval_items(line, "f");
    return found.ok() ? std::string("no error") : found.status().message();
  };
  EXPECT_NE(why("{").find("f:1"), std::string::npos);
  EXPECT_NE(why(R"({"task":"t","id":"1","prompt":"p"})").find("none of"), std::string::npos);
  EXPECT_NE(why(R"({"task":"t","id":"1","prompt":"p","choices":["a","b"],"answer":2})").find("answer"),
            std::string::npos);
  EXPECT_NE(why(R"({"task":"t","id":"1","prompt":"p","targets":["a"],"x":1})").find("unknown key"), std::string::npos);
  EXPECT_NE(why("\n").find("no item"), std::string::npos);
  const char* twice =
      "{\"task\":\"t\",\"id\":\"1\",\"prompt\":\"p\",\"targets\":[\"a\"]}\n"
      "{\"task\":\"t\",\"id\":\"1\",\"prompt\":\"p\",\"targets\":[\"a\"]}\n";
  EXPECT_NE(why(twice).find("f:2: id: got"), std::string::npos);
}

}  // namespace
}  // namespace engram
