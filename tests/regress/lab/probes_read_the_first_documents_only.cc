// Seen: logit-lens, cka and gates read the first 65,536 tokens of the validation text, 12 of its 85 documents and no
// dictionary among them; what differed between two models had no null beside it, and the gate at names was compared
// with word ends that are more frequent. Right: windows are spread over the whole text, a third checkpoint says how
// much two models differ that should not, and names stand beside word ends that are as frequent.
#include <bit>
#include <map>

#include "engram/lab/probes/gate_probe.h"
#include "engram/lab/probes/logit_lens.h"
#include "tests/lab/probe_test.h"

namespace engram {
namespace {

using FirstDocumentsOnly = ProbeTest;

ProbeText counting_text(int64_t tokens) {
  ProbeText text{"", {}, {}, tokens};
  for (int64_t t = 0; t < tokens; ++t) text.tokens.push_back(static_cast<int32_t>(t));
  return text;
}

TEST_F(FirstDocumentsOnly, WindowsComeFromEveryPartOfTheText) {
  ProbeText text = counting_text(101);
  text.document_starts = {0, 7, 33, 34, 79, 85};
  spread(text, 32, 8);  // 4 of 12 windows
  std::vector<int32_t> wanted;
  for (int32_t begin : {0, 24, 48, 72}) {
    for (int32_t t = begin; t < begin + 8; ++t) wanted.push_back(t);
  }
  wanted.push_back(80);
  EXPECT_EQ(text.tokens, wanted);
  EXPECT_EQ(text.document_starts, (std::vector<int64_t>{0, 7, 8, 16, 24, 31}));  // 33 and 34 are in no window
  EXPECT_EQ(text.piece, 8);

  for (const int64_t all : {0, 1000}) {
    ProbeText whole = counting_text(101);
    whole.document_starts = {0, 50};
    spread(whole, all, 8);
    EXPECT_EQ(whole.tokens.size(), 97u);
    EXPECT_EQ(whole.tokens.back(), 96);
  }
  ProbeText small = counting_text(16);
  spread(small, 5, 8);  // one window and a half
  EXPECT_EQ(small.tokens.size(), 5u);
  EXPECT_EQ(small.piece, 0);
}

TEST_F(FirstDocumentsOnly, NamesAtTheEndOfTheTextAreFound) {
  window_ = 64;
  std::string text;
  for (int i = 0; i < 300; ++i) text += "nothing to see here. ";
  throw_if_error(write_file_atomic(Env::posix(), options_.text, text + tiny_text(60)));
  options_.max_tokens = static_cast<int64_t>(text.size());
  const std::string engram = save("engram", MemoryKind::kEngram);
  EXPECT_TRUE(run("cka", {engram}).ok());
  options_.output = folder_ / "gates";
  const auto data = value_or_throw(run("gates", {engram}));
  EXPECT_GT(data.at("ends"), 50);
  EXPECT_EQ(data.at("window"), 64);
}

TEST_F(FirstDocumentsOnly, NoLossIsTakenOfATokenThatDidNotFollow) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  ProbeText text = value_or_throw(read_probe_text(Env::posix(), options_.text, *model.tokenizer));
  const std::vector<float> whole = token_losses(model, text, false);
  const int64_t all = (static_cast<int64_t>(text.tokens.size()) - 1) / 16;
  spread(text, 16 * 20, 16);
  const LensTrace trace = trace_lens(model, text, 16);
  ASSERT_EQ(trace.loss[2].size(), 20u);
  for (int64_t i = 0; i < 20; ++i) {
    double sum = 0;
    for (int64_t t = 0; t < 15; ++t) sum += whole[static_cast<size_t>(i * all / 20 * 16 + t)];
    EXPECT_NEAR(trace.loss[2][static_cast<size_t>(i)], sum / 15, 1e-5) << "window " << i;
  }
}

TEST_F(FirstDocumentsOnly, ANullStandsBesideTheDifference) {
  const std::string a = save("a", MemoryKind::kNone), b = save("b", MemoryKind::kEngram, 2);
  options_.null = save("c", MemoryKind::kNone);  // a copy: nothing differs
  const auto lens = value_or_throw(run("logit-lens", {a, b}));
  ASSERT_EQ(lens.at("null_difference").size(), 3u);
  for (const auto& one : lens.at("null_difference")) EXPECT_EQ(one.at("mean"), 0.0);
  EXPECT_EQ(lens.at("checkpoints").size(), 3u);
  options_.output = folder_ / "cka";
  const auto cka = value_or_throw(run("cka", {a, b}));
  ASSERT_EQ(cka.at("alignments").size(), 3u);
  EXPECT_EQ(cka.at("alignments").at(1).at("second"), "null");
  for (size_t block = 0; block < 3; ++block) {
    EXPECT_EQ(cka.at("alignments").at(1).at("nearest").at(block), block);
    EXPECT_EQ(cka.at("alignments").at(1).at("lead").at(block), 0.0);
  }
  EXPECT_NE(run("cka", {a}).status().message().find("null: got one without a pair"), std::string::npos);
}

TEST_F(FirstDocumentsOnly, NamesStandBesideWordEndsAsFrequent) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const auto tokens = value_or_throw(tokenizer.encode(tiny_text()));
  std::map<std::pair<int32_t, int32_t>, int64_t> seen;
  for (size_t t = 1; t < tokens.size(); ++t) ++seen[{tokens[t - 1], tokens[t]}];
  std::vector<int64_t> counts = {0};
  for (size_t t = 1; t < tokens.size(); ++t) counts.push_back(seen.at({tokens[t - 1], tokens[t]}));
  const GateGroups groups =
      gate_groups(token_bytes_of(tokenizer, tokens), {"New York", "France", "Milky Way"}, counts, 0);
  EXPECT_EQ(groups.ends.size(), 90u);
  const auto classes = [&](const std::vector<int64_t>& positions) {
    std::map<int, int> out;
    for (const int64_t t : positions) ++out[std::bit_width(static_cast<uint64_t>(counts[static_cast<size_t>(t)]))];
    return out;
  };
  EXPECT_GE(groups.matched_ends.size(), 30u);
  EXPECT_EQ(classes(groups.matched_ends), classes(groups.matched_word_ends));
}

}  // namespace
}  // namespace engram
