// generate_text(), which reads each token once, against generate(), which reads the whole context for each.
#include "engram/serve/generate_text.h"

#include "tests/model/rules.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

struct Written {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<std::string> pieces;
  bool operator==(const Written&) const = default;
};

using Generate = Result<std::vector<int32_t>> (*)(const LoadedModel&, const std::string&, const GenerateOptions&,
                                                  const OnText&);

Result<std::vector<int32_t>> by_engine(const LoadedModel& model, const std::string& prompt,
                                       const GenerateOptions& options, const OnText& on_text) {
  return generate_text(Env::posix(), model, prompt, options, on_text);
}

Written write(Generate how, const LoadedModel& model, const std::string& prompt, const GenerateOptions& options,
              size_t most_pieces = 1000) {
  Written out;
  out.tokens = value_or_throw(how(model, prompt, options, [&](std::string_view piece) {
    out.text += piece;
    out.pieces.emplace_back(piece);
    return out.pieces.size() < most_pieces;
  }));
  return out;
}

class GenerateText : public ::testing::TestWithParam<ModelConfig> {
 protected:
  GenerateText() {
    const Tokenizer tokenizer = tiny_tokenizer();
    ModelConfig config = GetParam();
    config.max_position_embeddings = 40;
    save_tiny(tiny_model(config), tokenizer, folder_ / "step");
    model_ = value_or_throw(load_model(Env::posix(), folder_ / "step"));
  }
  TemporaryFolder folder_;
  LoadedModel model_;
};

// bf16 weights in memory are what the file holds, and a token alone goes through the same sums as with fp32 weights.
TEST_P(GenerateText, WeightsInBf16GiveTheSameTokens) {
  const std::string folder = folder_ / "half";
  save_tiny(tiny_model(model_.config), *model_.tokenizer, folder, torch::kBFloat16);
  const LoadedModel wide = value_or_throw(load_model(Env::posix(), folder));
  const LoadedModel half = value_or_throw(load_model(Env::posix(), folder, {.dtype = std::nullopt}));
  int halves = 0;
  for (const torch::Tensor& weight : half.model->parameters()) halves += weight.scalar_type() == torch::kBFloat16;
  EXPECT_GE(halves, 5);
  GenerateOptions options;
  options.max_tokens = 30;
  options.sampler.temperature = 0.8;
  EXPECT_EQ(write(by_engine, wide, "h", options), write(by_engine, half, "h", options));
  // A whole sequence at once goes through the library's product, which rounds activations to bf16 too.
  const std::vector<int32_t> tokens(32, 65);
  torch::NoGradGuard no_grad;
  const auto logits = [&](const LoadedModel& model) {
    return model.model->logits(model.model->forward(model.prepare_input(tokens, 1, 32)));
  };
  const torch::Tensor wanted = logits(wide);
  EXPECT_LT((logits(half) - wanted).abs().max().item<double>(), 0.1 * wanted.abs().max().item<double>());
}

TEST_P(GenerateText, EqualsRecomputation) {
  const std::string longest = "A prompt that is longer than the whole context of forty.";
  struct Case {
    std::string prompt;
    double temperature, top_p;
    bool memory_off;
  };
  for (const Case& c :
       {Case{"hello", 0, 1, false}, Case{"hello", 0.8, 0.9, true}, Case{"", 0.8, 1, false}, Case{longest, 0, 1, false},
        Case{longest.substr(0, 39), 0.8, 0.9, false}, Case{"odd", 3, 1, false}}) {  // servers refuse a temperature of 3
    GenerateOptions options;
    options.max_tokens = 45;  // the context slides before they are all there
    options.sampler.temperature = c.temperature;
    options.sampler.top_p = c.top_p;
    options.sampler.seed = 5;
    options.memory_off = c.memory_off;
    model_.special.eos = -1;
    const Written wanted = write(generate, model_, c.prompt, options);
    EXPECT_EQ(write(by_engine, model_, c.prompt, options), wanted) << c.prompt << ", " << c.temperature;
    EXPECT_EQ(wanted.tokens.size(), 45u);
    model_.special.eos = wanted.tokens[20];
    const Written ended = write(generate, model_, c.prompt, options);
    EXPECT_EQ(write(by_engine, model_, c.prompt, options), ended) << c.prompt << ", " << c.temperature;
    EXPECT_LE(ended.tokens.size(), 21u);
    options.ignore_eos = true;
    EXPECT_EQ(write(generate, model_, c.prompt, options), wanted) << c.prompt << ", " << c.temperature;
    EXPECT_EQ(write(by_engine, model_, c.prompt, options), wanted) << c.prompt << ", " << c.temperature;
  }
}

TEST_P(GenerateText, StopsWhereItIsTold) {
  GenerateOptions options;
  options.max_tokens = 50;
  model_.special.eos = -1;
  for (size_t pieces : {1u, 2u, 10u, 30u}) {
    const Written wanted = write(generate, model_, "stop", options, pieces);
    EXPECT_EQ(write(by_engine, model_, "stop", options, pieces), wanted);
    EXPECT_EQ(wanted.pieces.size(), pieces);
  }
  options.max_tokens = 0;
  EXPECT_EQ(write(by_engine, model_, "none", options), Written());
}

TEST_P(GenerateText, RefusesWhatGenerateRefuses) {
  const auto ignore = [](std::string_view) { return true; };
  GenerateOptions options;
  const auto expect_same = [&](const std::string& prompt) {
    const Status got = by_engine(model_, prompt, options, ignore).status();
    EXPECT_EQ(got.message(), generate(model_, prompt, options, ignore).status().message());
    EXPECT_EQ(got.code(), StatusCode::kInvalidArgument);
  };
  expect_same("\xFF");
  model_.special.bos = -1;
  expect_same("");
  options.max_tokens = -1;
  expect_same("a");
  options.max_tokens = 1;
  options.sampler.top_p = 0;
  expect_same("a");
}

ModelConfig config_of(MemoryKind memory) { return tiny_config(tiny_tokenizer(), memory); }

INSTANTIATE_TEST_SUITE_P(Memory, GenerateText,
                         ::testing::Values(config_of(MemoryKind::kNone), config_of(MemoryKind::kEngram),
                                           config_of(MemoryKind::kOverEncoding),
                                           with_rule(config_of(MemoryKind::kEngram), HashRule::kQwen4Exp),
                                           with_rule(config_of(MemoryKind::kEngram), HashRule::kLongcat)));

}  // namespace
}  // namespace engram
