#include "engram/lab/probes/long_ppl.h"

#include "tests/lab/probe_test.h"

namespace engram {
namespace {

using LongPpl = ProbeTest;

TEST(WindowsInsideDocuments, FillTheirDocumentsAndNeverCrossAnEnd) {
  ProbeText text;
  text.tokens.resize(40);
  text.document_starts = {0, 9, 18, 30};  // 9, 9, 12 and 10 tokens
  EXPECT_EQ(windows_inside_documents(text, 4), (std::vector<int64_t>{0, 4, 9, 13, 18, 22, 30, 34}));
  EXPECT_EQ(windows_inside_documents(text, 9), (std::vector<int64_t>{18, 30}));  // a window has one target more
  EXPECT_TRUE(windows_inside_documents(text, 12).empty());
}

// Every short loss anew: one sequence a token, cut where the definition cuts it.
TEST_F(LongPpl, ShortLossesHaveTheContextOfTheDefinition) {
  const int64_t length = 16, short_context = 8, step = 2;
  for (const MemoryKind memory : {MemoryKind::kNone, MemoryKind::kEngram}) {
    const LoadedModel model = load("model", memory);
    const ProbeText text = value_or_throw(read_probe_text(Env::posix(), options_.text, *model.tokenizer));
    const std::vector<int64_t> starts = {0, 32};
    const LongShortLosses got = long_short_losses(model, text, starts, length, short_context);
    const auto loss_with = [&](int64_t from, int64_t position) {
      torch::InferenceMode inference;
      const Transformer& transformer = model.model;
      const std::vector<int32_t> tokens(text.tokens.begin() + from, text.tokens.begin() + position + 1);
      const auto count = static_cast<int64_t>(tokens.size());
      const torch::Tensor last =
          transformer->logits(transformer->forward(model.prepare_input(tokens, 1, count)))[0][count - 1].log_softmax(0);
      return -last[text.tokens[static_cast<size_t>(position + 1)]].item<float>();
    };
    for (size_t w = 0; w < starts.size(); ++w) {
      ASSERT_EQ(got.with_long[w].size(), 8u);
      ASSERT_EQ(got.with_short[w].size(), 8u);
      for (int64_t i = 0; i < 8; ++i) {
        const int64_t position = starts[w] + short_context + i;
        const int64_t begin = starts[w] + i / step * step;  // 9 or 10 tokens
        EXPECT_NEAR(got.with_long[w][static_cast<size_t>(i)], loss_with(starts[w], position), 1e-4);
        EXPECT_NEAR(got.with_short[w][static_cast<size_t>(i)], loss_with(begin, position), 1e-4);
      }
    }
  }
}

TEST(KeyTokens, AreSureWithTheWholeContextAndNotWithoutIt) {
  LongShortLosses judge;
  judge.with_long = {{1.9F, 2.1F, 0.5F, 0.5F}};
  judge.with_short = {{4.0F, 9.0F, 2.4F, 2.6F}};
  EXPECT_EQ(key_tokens(judge)[0], (std::vector<bool>{true, false, false, true}));
}

TEST_F(LongPpl, EveryModelJudgesAndTheDifferenceIsOnTheSameTokens) {
  options_.short_context = 4;
  const auto data = run("long-ppl", {save("moe", MemoryKind::kNone), save("engram", MemoryKind::kEngram)});
  ASSERT_TRUE(data.ok()) << data.status().message();
  ASSERT_EQ(data->at("models").size(), 2u);
  EXPECT_EQ(data->at("models")[0].at("loss_keys").size(), 2u);
  const double change = data->at("models")[1].at("loss_long").at("mean").get<double>() -
                        data->at("models")[0].at("loss_long").at("mean").get<double>();
  EXPECT_NEAR(data->at("difference")[0].at("nats").at("mean").get<double>(), change, 1e-9);
}

TEST_F(LongPpl, BadInputIsOneLine) {
  const std::string model = save("model", MemoryKind::kNone);
  options_.short_context = 15;
  EXPECT_NE(run("long-ppl", {model}).status().message().find("short_context: got 15 tokens, wanted 4 to four fifths"),
            std::string::npos);
  options_.short_context = 0;  // an eighth of 16
  EXPECT_NE(run("long-ppl", {model}).status().message().find("got 2 tokens"), std::string::npos);
  options_.short_context = 4;
  throw_if_error(write_file_atomic(Env::posix(), options_.text, "too short"));
  EXPECT_NE(run("long-ppl", {model}).status().message().find("no document has more than 16 tokens"), std::string::npos);
}

}  // namespace
}  // namespace engram
