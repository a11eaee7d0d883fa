#include "engram/lab/probes/alignment.h"

#include "tests/lab/probe_test.h"
#include "tests/model/parity.h"

namespace engram {
namespace {

torch::Tensor gram(const torch::Tensor& states) { return states.matmul(states.t()).fill_diagonal_(0).unsqueeze(0); }

std::vector<torch::Tensor> blocks_of(const parity::Tensors& vectors, const std::string& prefix, int count) {
  std::vector<torch::Tensor> out;
  for (int i = 0; i < count; ++i) out.push_back(vectors.at(prefix + std::to_string(i)));
  return out;
}

TEST(Alignment, HsicEqualsTheSumOverDistinctIndices) {
  const auto vectors = parity::load("cka");
  const auto found = unbiased_hsic(gram(vectors.at("small.x")), gram(vectors.at("small.y")));
  EXPECT_NEAR(found.item<double>(), vectors.at("small.hsic").item<double>(), 1e-10);
}

TEST(Alignment, EqualsNumpyOverMiniBatches) {
  const auto vectors = parity::load("cka");
  const AlignmentBatches batches = align_batches(blocks_of(vectors, "a.", 7), blocks_of(vectors, "b.", 3), 48);
  ASSERT_EQ(batches.cross.size(), 4u);  // 200 samples: the last 8 are left out
  const auto found = similarity(batches, std::vector<int64_t>{0, 1, 2, 3});
  const auto wanted = vectors.at("similarity").accessor<double, 2>();
  for (size_t i = 0; i < 7; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      EXPECT_NEAR(found[i][j], wanted[static_cast<int64_t>(i)][static_cast<int64_t>(j)], 1e-9);
    }
  }
  const auto index = soft_index(found);  // the oracle counts layers from 1, as the paper does
  for (size_t j = 0; j < 3; ++j) {
    EXPECT_NEAR(index[j] + 1, vectors.at("soft_index")[static_cast<int64_t>(j)].item<double>(), 1e-9);
  }
}

TEST(Alignment, ItselfIsOneAndIndependentIsNearZero) {
  torch::manual_seed(5);
  const std::vector<torch::Tensor> a = {torch::randn({512, 6}, torch::kDouble) + 3.0};
  const std::vector<torch::Tensor> b = {torch::randn({512, 6}, torch::kDouble)};
  const std::vector<int64_t> all = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_NEAR(similarity(align_batches(a, a, 64), all)[0][0], 1.0, 1e-12);
  EXPECT_LT(std::abs(similarity(align_batches(a, b, 64), all)[0][0]), 0.1);  // the biased estimator gives about 0.1
}

using AlignmentProbe = ProbeTest;

TEST_F(AlignmentProbe, StatesAreThoseOfTheWindowsTheyStandIn) {
  const LoadedModel model = load("engram", MemoryKind::kEngram);
  const ProbeText text = value_or_throw(read_probe_text(Env::posix(), options_.text, *model.tokenizer));
  const auto states = states_at(model, text, {37, 5}, 16);  // out of order, in windows 2 and 0
  ASSERT_EQ(states.size(), 3u);
  const std::vector<int32_t> window(text.tokens.begin() + 32, text.tokens.begin() + 48);
  ForwardTrace trace;
  trace.want_block_outputs = true;
  torch::InferenceMode inference;
  const Transformer& transformer = model.model;
  transformer->forward(model.prepare_input(window, 1, 16), &trace);
  for (size_t block = 0; block < 3; ++block) {
    EXPECT_TRUE(torch::allclose(states[block][0], trace.block_outputs[block][0][5].to(torch::kDouble), 1e-5, 1e-6));
  }
}

TEST_F(AlignmentProbe, AModelAgainstItsCopyHasOnesOnTheDiagonal) {
  const auto data = value_or_throw(run("cka", {save("a", MemoryKind::kEngram), save("b", MemoryKind::kEngram)}));
  const auto& map = data.at("alignments").at(0).at("similarity");
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(map.at(i).at(i).get<double>(), 1.0, 1e-9);
  EXPECT_LT(map.at(0).at(2).get<double>(), 0.999);
}

TEST_F(AlignmentProbe, TooFewNamesIsOneLine) {
  options_.max_tokens = 200;
  const auto found = run("cka", {save("a", MemoryKind::kEngram)});
  ASSERT_FALSE(found.ok());
  EXPECT_NE(found.status().message().find("wanted at least 128"), std::string::npos) << found.status().message();
}

}  // namespace
}  // namespace engram
