#include "engram/lab/suite/suite.h"

#include "engram/core/json.h"
#include "engram/lab/suite/contamination.h"
#include "tests/lab/probe_test.h"

namespace engram {
namespace {

class Suite : public ProbeTest {
 protected:
  void SetUp() override {
    ProbeTest::SetUp();
    window_ = 64;
    std::string text;
    for (int i = 0; i < 150; ++i) {
      text += fmt::format(R"({{"task":"choice","id":"{}","prompt":"Item {} is","choices":[" a{}"," b"],"answer":{}}})",
                          i, i * 7919, i, i % 2) +
              "\n";
      text += fmt::format(R"({{"task":"cloze","id":"{}","split":"held-out","prompt":"And {} is","targets":[" {}"]}})",
                          i, i * 104729, i) +
              "\n";
    }
    throw_if_error(write_file_atomic(Env::posix(), folder_ / "suite.jsonl", text));
    suite_.suite = folder_ / "suite.jsonl";
    suite_.output = folder_ / "out";
    suite_.train_text = options_.text;
    suite_.checkpoint = save("model", MemoryKind::kEngram);
  }
  std::string file(const std::string& name) { return value_or_throw(Env::posix().read_file(folder_ / name)); }
  std::string message() {
    const auto found = run_suite(Env::posix(), suite_, nullptr);
    return found.ok() ? "no error" : found.status().message();
  }
  SuiteOptions suite_;
};

TEST_F(Suite, AnInterruptedRunContinuesToTheSameAnswers) {
  throw_if_error(run_suite(Env::posix(), suite_, nullptr).status());
  const std::string whole = file("out/items.jsonl");
  suite_.output = folder_ / "again";
  int calls = 0;
  suite_.keep_going = [&] { return ++calls < 2; };
  EXPECT_NE(message().find("again to continue"), std::string::npos);
  const std::string half = file("again/items.jsonl");
  ASSERT_LT(half.size(), whole.size());
  ASSERT_GT(half.size(), whole.size() / 4);
  // The machine stopped inside a line.
  throw_if_error(Env::posix().truncate_file(folder_ / "again/items.jsonl", static_cast<int64_t>(half.size()) - 9));
  suite_.keep_going = nullptr;
  const auto data = value_or_throw(run_suite(Env::posix(), suite_, nullptr));
  EXPECT_EQ(file("again/items.jsonl"), whole);
  EXPECT_EQ(data.at("tasks").size(), 2u);
  EXPECT_EQ(data.at("tasks").at(0).at("items"), 150);
  EXPECT_EQ(data.at("tasks").at(1).at("task"), "cloze (held-out)");
}

TEST_F(Suite, AnotherRunIsNotMixedIn) {
  throw_if_error(run_suite(Env::posix(), suite_, nullptr).status());
  const std::string before = file("out/data.json");
  suite_.shots = 1;
  EXPECT_NE(message().find("run.json: shots: got '0' there, '1' now"), std::string::npos);
  EXPECT_EQ(file("out/data.json"), before);
}

TEST_F(Suite, AModelOfRandomWeightsIsNearChance) {
  const auto data = value_or_throw(run_suite(Env::posix(), suite_, nullptr));
  const auto& choice = data.at("tasks").at(0);
  EXPECT_EQ(choice.at("verdict"), "near chance");
  EXPECT_EQ(choice.at("chance"), 0.5);
  EXPECT_EQ(choice.at("best_constant"), 0.5);  // " b" is right for every second item
  EXPECT_EQ(data.at("tasks").at(1).at("chance"), 0.0);
}

TEST_F(Suite, ScoresFollowTheModelsOwnAnswers) {
  // The right answers are made from what the model says: then all are right, and none after a shift.
  const LoadedModel model = load("model", MemoryKind::kEngram);
  std::vector<EvalItem> items;
  std::vector<std::string> prompts;
  for (const char* prompt : {"abc", "the way", "New York", "Peter"}) {
    const auto tokens = value_or_throw(model.tokenizer->encode(prompt));
    torch::InferenceMode inference;
    const Transformer& transformer = model.model;
    const auto logits = transformer->logits(
        transformer->forward(model.prepare_input(tokens, 1, static_cast<int64_t>(tokens.size()))))[0];
    const auto order = logits[static_cast<int64_t>(tokens.size()) - 1].argsort(0, /*descending=*/true);
    std::vector<std::string> printable;
    for (int64_t i = 0; printable.size() < 3; ++i) {
      const std::string bytes = model.tokenizer->token_bytes(order[i].item<int32_t>());
      if (bytes.size() == 1 && bytes[0] > ' ' && bytes[0] < 0x7F) printable.push_back(bytes);
    }
    items.push_back({"t", prompt, "", prompt, {printable[1], printable[0], printable[2]}, 1, {}});
    prompts.push_back(prompt);
  }
  for (const ItemResult& result : value_or_throw(answer_items(model, items, prompts, suite_)))
    EXPECT_TRUE(result.right);
  for (EvalItem& item : items) item.answer = 0;
  for (const ItemResult& result : value_or_throw(answer_items(model, items, prompts, suite_))) {
    EXPECT_FALSE(result.right);
  }
}

TEST_F(Suite, ExamplesAreOtherItemsWithTheirAnswers) {
  const auto items = value_or_throw(read_suite(Env::posix(), suite_.suite));
  std::vector<const EvalItem*> pool;
  for (const EvalItem& item : items) {
    if (item.task == "choice" && pool.size() < 4) pool.push_back(&item);
  }
  const std::string prompt = few_shot_prompt(*pool[2], pool, 3, 0);
  EXPECT_EQ(prompt.substr(prompt.size() - pool[2]->prompt.size()), pool[2]->prompt);
  EXPECT_EQ(prompt.find(pool[2]->prompt), prompt.size() - pool[2]->prompt.size());
  EXPECT_NE(prompt.find("Item 7919 is b\n\n"), std::string::npos);
  EXPECT_EQ(few_shot_prompt(*pool[2], pool, 3, 0), prompt);
  EXPECT_EQ(few_shot_prompt(*pool[2], pool, 0, 0), pool[2]->prompt);
}

TEST_F(Suite, BadInputIsOneLineAndLeavesNothing) {
  suite_.suite = "no-such-suite";
  EXPECT_NE(message().find("scripts/evaluation_data.sh makes them"), std::string::npos);
  suite_.suite = folder_ / "suite.jsonl";
  suite_.checkpoint = folder_ / "none";
  EXPECT_NE(message().find("no such folder"), std::string::npos);
  EXPECT_FALSE(Env::posix().file_exists(folder_ / "out"));
}

TEST(Contamination, WordsInARowWhateverStandsBetween) {
  WordIndex index("The quick, brown fox\njumps over the lazy dog again and again. Paris is the capital.");
  EXPECT_TRUE(index.overlaps("A quick brown fox jumps over the lazy DOG sleeps"));   // eight in a row
  EXPECT_FALSE(index.overlaps("A quick brown fox jumps over the lazy cat sleeps"));  // seven
  EXPECT_TRUE(index.overlaps("Paris is the"));
  EXPECT_FALSE(index.overlaps("Paris is a"));
  EXPECT_FALSE(index.overlaps("..."));
}

}  // namespace
}  // namespace engram
