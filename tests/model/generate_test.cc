// Sampling, generation and evaluation: determinism, UTF-8 streaming, the knock-out, and a loss computed by hand.
#include "engram/model/decode/generate.h"

#include <cmath>
#include <numbers>

#include "engram/model/decode/evaluate.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

// ---- sampler ----

SamplerOptions sampler_options(double temperature, int top_k, double top_p, int64_t seed = 0) {
  SamplerOptions options;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.seed = seed;
  return options;
}

TEST(Sampler, GreedyTakesTheLowestOfTheBest) {
  Sampler sampler(sampler_options(0, 0, 1));
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 5, 5, 2}), 1);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  const double temperature = 0.7;
  double total = 0;
  std::vector<double> expected(4);
  for (size_t i = 0; i < 4; ++i) total += expected[i] = std::exp(logits[i] / temperature);
  Sampler sampler(sampler_options(temperature, 0, 1, 5));
  std::vector<int> counts(4);
  const int draws = 40000;
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(sampler.sample(logits))];
  for (size_t i = 0; i < 4; ++i) {
    const double p = expected[i] / total;
    EXPECT_NEAR(counts[i], p * draws, 5 * std::sqrt(draws * p * (1 - p)));
  }
}

TEST(Sampler, TopKAndTopPCut) {
  const std::vector<float> logits = {0.0f, 3.0f, 3.0f, 1.0f};  // ties go to the lower id
  Sampler one(sampler_options(1, 1, 1));
  Sampler nucleus(sampler_options(1, 0, 0.5));  // 0.455 each for ids 1 and 2: both are needed
  Sampler narrow(sampler_options(1, 0, 0.4));   // id 1 alone reaches 0.4
  std::vector<int> seen(4);
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(one.sample(logits), 1);
    EXPECT_EQ(narrow.sample(logits), 1);
    ++seen[static_cast<size_t>(nucleus.sample(logits))];
  }
  EXPECT_EQ(seen[0] + seen[3], 0);
  EXPECT_GT(seen[1], 0);
  EXPECT_GT(seen[2], 0);
}

TEST(Sampler, HugeLogitsStayFinite) {
  Sampler sampler(sampler_options(1e-3, 0, 0.9));
  EXPECT_EQ(sampler.sample(std::vector<float>{-3e38f, 3e38f, 0.0f}), 1);
}

TEST(Sampler, RefusesBadOptions) {
  EXPECT_FALSE(sampler_options(-1, 0, 1).validate().ok());
  EXPECT_FALSE(sampler_options(std::nan(""), 0, 1).validate().ok());
  EXPECT_FALSE(sampler_options(1, -1, 1).validate().ok());
  EXPECT_FALSE(sampler_options(1, 0, 0).validate().ok());
  EXPECT_FALSE(sampler_options(1, 0, 1.5).validate().ok());
  EXPECT_FALSE(sampler_options(1, 0, 1, -3).validate().ok());
}

// ---- generation and evaluation on a real checkpoint ----

class OnCheckpoint : public ::testing::Test {
 protected:
  OnCheckpoint() {
    const Tokenizer tokenizer = tiny_tokenizer();
    save_tiny(tiny_model(tiny_config(tokenizer)), tokenizer, folder_ / "step");
    model_ = value_or_throw(load_model(Env::posix(), folder_ / "step"));
  }
  std::vector<int32_t> run(const std::string& prompt, const GenerateOptions& options, std::string* text = nullptr) {
    return value_or_throw(generate(model_, prompt, options, [text](std::string_view piece) {
      if (text != nullptr) *text += piece;
      return true;
    }));
  }
  TemporaryFolder folder_;
  LoadedModel model_;
};

TEST_F(OnCheckpoint, TheSameSeedGivesTheSameText) {
  GenerateOptions options;
  options.max_tokens = 24;
  std::string first_text, second_text;
  const auto first = run("hello", options, &first_text), second = run("hello", options, &second_text);
  EXPECT_EQ(first, second);
  EXPECT_EQ(first_text, second_text);
  options.sampler.seed = 1;
  EXPECT_NE(first, run("hello", options));
}

TEST_F(OnCheckpoint, GreedyIsTheArgmaxOfAWholeForward) {
  GenerateOptions options;
  options.max_tokens = 1;
  options.sampler.temperature = 0;
  const std::vector<int32_t> prompt = value_or_throw(model_.tokenizer->encode("abc d"));
  torch::NoGradGuard no_grad;
  const ForwardInput input = model_.prepare_input(prompt, 1, static_cast<int64_t>(prompt.size()));
  const torch::Tensor logits = model_.model->logits(model_.model->forward(input));
  EXPECT_EQ(run("abc d", options)[0], logits[0][-1].argmax().item<int64_t>());
}

TEST_F(OnCheckpoint, MemoryOffChangesTheText) {
  GenerateOptions options;
  options.max_tokens = 24;
  options.sampler.temperature = 0;
  const auto with_memory = run("hello", options);
  options.memory_off = true;
  EXPECT_NE(with_memory, run("hello", options));
}

TEST_F(OnCheckpoint, LongPromptsKeepTheirEnd) {
  GenerateOptions options;
  options.max_tokens = 4;
  const std::string tail = "0123456789abcdef";  // max_position_embeddings bytes
  EXPECT_EQ(run("dropped" + tail, options), run(tail, options));
}

TEST_F(OnCheckpoint, StopsWhenAskedAndAtEos) {
  GenerateOptions options;
  options.max_tokens = 50;
  int pieces = 0;
  const auto tokens = value_or_throw(generate(model_, "x", options, [&](std::string_view) { return ++pieces < 3; }));
  EXPECT_EQ(pieces, 3);
  EXPECT_LT(tokens.size(), 50u);

  options.sampler.temperature = 0;
  model_.special.eos = run("x", options)[1];
  const auto ended = run("x", options);
  EXPECT_EQ(ended.back(), model_.special.eos);
  EXPECT_LE(ended.size(), 2u);
}

TEST_F(OnCheckpoint, BadPrompts) {
  const auto ignore = [](std::string_view) { return true; };
  GenerateOptions options;
  options.max_tokens = 2;
  EXPECT_FALSE(generate(model_, "\xFF", options, ignore).ok());
  EXPECT_TRUE(generate(model_, "", options, ignore).ok());  // stands for <|endoftext|>
  model_.special.bos = -1;
  EXPECT_EQ(generate(model_, "", options, ignore).status().code(), StatusCode::kInvalidArgument);
  options.max_tokens = -1;
  EXPECT_FALSE(generate(model_, "a", options, ignore).ok());
}

// Log-softmax in double from the logits of each window; windows of 16 that overlap by one token.
TEST_F(OnCheckpoint, EvaluationEqualsAHandComputation) {
  const std::string text = "The quick brown fox jumps over the lazy dog; \xE5\x9B\x9B\xE5\xA4\xA7.";
  const std::vector<int32_t> ids = value_or_throw(model_.tokenizer->encode(text));
  const std::vector<int64_t> documents = {0, 5, 20};
  const int64_t count = static_cast<int64_t>(ids.size());
  for (bool memory_off : {false, true}) {
    torch::NoGradGuard no_grad;
    double nats = 0;
    for (int64_t begin = 0; begin < count - 1; begin += 16) {
      const int64_t length = std::min<int64_t>(16, count - 1 - begin);
      const std::vector<int32_t> window(ids.begin() + begin, ids.begin() + begin + length);
      std::vector<int32_t> starts;
      for (int64_t d : documents)
        if (d > begin && d < begin + length) starts.push_back(static_cast<int32_t>(d - begin));
      const ForwardInput input = model_.prepare_input(window, 1, length, {starts}, memory_off);
      const torch::Tensor logits = model_.model->logits(model_.model->forward(input)).to(torch::kDouble);
      const torch::Tensor log_p = torch::log_softmax(logits, -1);
      for (int64_t t = 0; t < length; ++t) nats -= log_p[0][t][ids[static_cast<size_t>(begin + t + 1)]].item<double>();
    }
    for (int64_t batch_size : {1, 8}) {
      EvaluateOptions options;
      options.batch_size = batch_size;
      options.memory_off = memory_off;
      const EvaluateResult got =
          value_or_throw(evaluate(model_, ids, documents, static_cast<int64_t>(text.size()), options));
      EXPECT_EQ(got.tokens, count - 1);
      EXPECT_NEAR(got.loss, nats / static_cast<double>(count - 1), 1e-5);
      EXPECT_NEAR(got.bits_per_byte, nats / std::numbers::ln2 / static_cast<double>(text.size()), 1e-5);
      std::vector<uint32_t> cells(ids.size());
      for (size_t i = 0; i < cells.size(); ++i) cells[i] = i % 3 == 1 ? 2 : 0;
      options.cell_of = cells;
      options.cells = 3;
      const EvaluateResult divided =
          value_or_throw(evaluate(model_, ids, documents, static_cast<int64_t>(text.size()), options));
      EXPECT_EQ(divided.loss, got.loss) << "to the last bit";
      EXPECT_EQ(divided.cell_tokens[0] + divided.cell_tokens[2], count - 1);
      EXPECT_EQ(divided.cell_tokens[2], (count + 1) / 3);
      EXPECT_NEAR(divided.cell_nats[0] + divided.cell_nats[2], nats, 1e-4 * nats);
      EXPECT_EQ(divided.cell_nats[1], 0);
    }
  }
}

// Short documents share a batch, filled up; a long one has windows, and its answer may lie in the last.
TEST_F(OnCheckpoint, ASetOfDocumentsIsTheMeanOfEachAlone) {
  std::vector<int32_t> ids, targets;
  std::vector<int64_t> starts;
  double nats = 0;
  int64_t counted = 0, documents = 0;
  int64_t seed = 0;
  for (const size_t length : {5, 1, 2, 10, 16, 17, 18, 40, 3, 5}) {
    std::vector<int32_t> document(length), own;
    for (int32_t& id : document) id = static_cast<int32_t>(1 + ++seed * 7919 % 200);
    own = document;
    std::fill_n(own.begin(), length / 2, -1);
    if (length == 3) std::ranges::fill(own, -1);
    starts.push_back(static_cast<int64_t>(ids.size()));
    ids.insert(ids.end(), document.begin(), document.end());
    targets.insert(targets.end(), own.begin(), own.end());
    if (length == 1 || length == 3) continue;
    EvaluateOptions options;
    options.targets = own;
    const EvaluateResult alone = value_or_throw(evaluate(model_, document, {}, 1, options));
    nats += alone.loss * static_cast<double>(alone.tokens);
    counted += alone.tokens;
    ++documents;
  }
  EvaluateOptions options;
  options.targets = targets;
  for (const int64_t batch_size : {1, 3, 20}) {
    options.batch_size = batch_size;
    const DocumentsResult got = value_or_throw(evaluate_documents(model_, ids, starts, 50, options));
    EXPECT_EQ(got.tokens, counted);
    EXPECT_EQ(got.documents, documents);
    EXPECT_NEAR(got.loss, nats / static_cast<double>(counted), 1e-5);
    EXPECT_NEAR(got.bits_per_byte, nats / std::numbers::ln2 / 50, 1e-4);
    EXPECT_EQ(got.exact, 0);
    // Two ranks share the batches, and add up what they have.
    std::vector<double> first;
    EvaluateOptions half = options;
    half.parts = 2;
    half.sum_over_parts = [&](std::vector<double>& numbers) { first = numbers; };
    (void)value_or_throw(evaluate_documents(model_, ids, starts, 50, half));
    half.part = 1;
    half.sum_over_parts = [&](std::vector<double>& numbers) {
      for (size_t i = 0; i < numbers.size(); ++i) numbers[i] += first[i];
    };
    EXPECT_EQ(value_or_throw(evaluate_documents(model_, ids, starts, 50, half)).loss, got.loss);
  }
  std::ranges::fill(targets, -1);
  EXPECT_NE(evaluate_documents(model_, ids, starts, 50, options).status().message().find("no token that counts"),
            std::string::npos);
  EXPECT_FALSE(evaluate(model_, ids, starts, 50, options).ok());
  targets[1] = 201;
  EXPECT_NE(evaluate(model_, ids, starts, 50, options).status().message().find("targets"), std::string::npos);
}

TEST_F(OnCheckpoint, EvaluationRefusesBadInput) {
  const std::vector<int32_t> one = {1}, wrong = {1, 2, 400}, good = {1, 2, 3};
  EXPECT_FALSE(evaluate(model_, one, {}, 1).ok());
  EXPECT_FALSE(evaluate(model_, wrong, {}, 3).ok());
  EXPECT_FALSE(evaluate(model_, good, std::vector<int64_t>{2, 1}, 3).ok());
  EXPECT_FALSE(evaluate(model_, good, {}, 0).ok());
  EvaluateOptions options;
  options.on_progress = [](int64_t, int64_t) { return false; };
  EXPECT_EQ(evaluate(model_, good, {}, 3, options).status().code(), StatusCode::kCancelled);
}

// Whole model, hashing included: with the attention mask on, nothing of document 1 reaches document 2.
TEST(Documents, AreIsolatedThroughTheWholeModel) {
  const Tokenizer tokenizer = tiny_tokenizer();
  ModelConfig config = tiny_config(tokenizer);
  config.attention_document_mask = true;
  const TemporaryFolder folder;
  save_tiny(tiny_model(config), tokenizer, folder / "step");
  LoadedModel model = value_or_throw(load_model(Env::posix(), folder / "step"));
  torch::NoGradGuard no_grad;
  const std::vector<int32_t> a = {1, 2, 3, 4, 5, 60, 61, 62, 63, 64}, b = {9, 8, 7, 6, 11, 60, 61, 62, 63, 64};
  auto hidden = [&](const std::vector<int32_t>& tokens, std::vector<int32_t> starts) {
    return model.model->forward(model.prepare_input(tokens, 1, 10, {std::move(starts)}));
  };
  EXPECT_TRUE(torch::allclose(hidden(a, {5}).narrow(1, 5, 5), hidden(b, {5}).narrow(1, 5, 5), 0, 1e-6));
  EXPECT_FALSE(torch::allclose(hidden(a, {}).narrow(1, 5, 5), hidden(b, {}).narrow(1, 5, 5), 0, 1e-3));
}

// A masked position: no gate there, and the tokens after it do not hash across it.
TEST_F(OnCheckpoint, MaskedPositionsHaveNoMemory) {
  torch::NoGradGuard no_grad;
  const std::vector<int32_t> tokens = {1, 2, -1, 4, 5};
  const ForwardInput input = model_.prepare_input(tokens, 1, 5);
  ForwardTrace trace;
  model_.model->forward(input, &trace);
  ASSERT_EQ(trace.gates.size(), 2u);
  for (const torch::Tensor& gates : trace.gates) {
    EXPECT_EQ(gates[0][2].abs().max().item<float>(), 0.0f);
    EXPECT_GT(gates[0][3].abs().min().item<float>(), 0.0f);
  }
  const ForwardInput cut = model_.prepare_input({4, 5}, 1, 2);  // the same rows as behind the mask
  for (size_t layer = 0; layer < 2; ++layer) {
    const MemoryRows &whole = input.memory[layer], &part = cut.memory[layer];
    EXPECT_TRUE(torch::equal(whole.unique_rows.index_select(0, whole.index[0].narrow(0, 3, 2).flatten()),
                             part.unique_rows.index_select(0, part.index[0].flatten())));
  }
  EXPECT_THROW(model_.prepare_input({1, 1000}, 1, 2), c10::Error);
  EXPECT_THROW(model_.prepare_input({1, -2}, 1, 2), c10::Error);
}

}  // namespace
}  // namespace engram
