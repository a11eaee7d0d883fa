// Training on answers: what a mask, packed documents and named validation sets do to a tiny run.
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engram/data/prepare.h"
#include "engram/data/synthetic_text.h"
#include "engram/train/learner.h"
#include "engram/train/trainer.h"
#include "tests/regress/train/tiny_recipe.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

class Answers : public testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    folder_ = fs::temp_directory_path() / fmt::format("engram_answers_test_{}", ::getpid());
    fs::remove_all(folder_);
    throw_if_error(make_synthetic_corpus(Env::posix(), path("data"), 16, 0));
    std::string lines;
    for (int i = 0; i < 40; ++i)
      lines += fmt::format("{{\"prompt\": \"{} and\", \"answer\": \" {}\"}}\n", i % 7, std::string(1 + i % 9, 'a'));
    std::ofstream(folder_ / "a.jsonl") << lines;
    PrepareOptions options;
    options.files = {path("a.jsonl")};
    options.output_directory = path("answers");
    options.validation_fraction = 0.3;
    prepared_ = value_or_throw(prepare_shards(
        Env::posix(), value_or_throw(Tokenizer::load(Env::posix(), path("data/tokenizer.json"))), options));
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ / name; }

  Recipe recipe(const std::string& output, std::vector<std::string> overrides = {}) const {
    std::vector<std::string> all = {
        "train.output=" + path(output),
        "data.tokenizer=" + path("data/tokenizer.json"),
        fmt::format("data.train=[\"{}\"]", path("answers/train.tokens")),
        fmt::format("data.validation=[\"{}\"]", path("data/validation.tokens")),
        fmt::format("data.validation_set=[{{name=\"answers\", files=[\"{}\"]}}, {{name=\"text\", files=[\"{}\"]}}]",
                    path("answers/validation.tokens"), path("data/validation.tokens")),
        "data.packing=documents"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    std::string text = kTinyRecipe;
    text.erase(text.find("[data.synthetic]"), std::string("[data.synthetic]\ndocuments = 16\n").size());
    return value_or_throw(Recipe::parse(text, "tiny.toml", all));
  }
  TrainSummary run(const Recipe& recipe, bool resume = false) const {
    TrainOptions options;
    options.resume = resume;
    return value_or_throw(train(Env::posix(), recipe, options));
  }
  nlohmann::json last_line(const std::string& output) const {
    std::ifstream file(folder_ / output / "metrics.jsonl");
    std::string line, last;
    while (std::getline(file, line)) last = line;
    return nlohmann::json::parse(last);
  }

  fs::path folder_;
  PrepareSummary prepared_;
};

// The loss and every gradient are those of log-softmax over the targets that count, written with torch's operators.
TEST_F(Answers, GradientsComeFromCountedTargetsAlone) {
  const RunInputs inputs =
      value_or_throw(open_run_inputs(Env::posix(), recipe("a", {"model.memory=none"}), path("data")));
  const std::unique_ptr<Communicator> alone = Communicator::alone();
  Learner learner(inputs, *alone);
  auto loader = value_or_throw(
      DataLoader::create(RunInputs::pointers(inputs.train), inputs.hasher,
                         {.batch_size = 4, .sequence_length = 16, .packing = Packing::kDocuments, .threads = 0}));
  Batch batch = value_or_throw(loader->next());
  const auto tensor = [&](const std::vector<int32_t>& ids) {
    return torch::tensor(std::vector<int64_t>(ids.begin(), ids.end())).view({4, 16});
  };
  const torch::Tensor targets = tensor(batch.targets), counted = targets.ge(0);
  const auto count = counted.sum().item<int64_t>();
  ASSERT_GT(count, 8);
  ASSERT_LT(count, 48);
  ForwardInput input;
  input.tokens = tensor(batch.tokens);
  input.starts = batch.starts;
  const auto gradients = [&](const torch::Tensor& loss) {
    learner.model().zero_grad();
    loss.backward();
    std::vector<torch::Tensor> all;
    for (const torch::Tensor& parameter : learner.model().parameters())
      all.push_back(parameter.grad().defined() ? parameter.grad().clone().flatten()
                                               : torch::zeros({parameter.numel()}));
    return torch::cat(all);
  };
  const torch::Tensor log_p = torch::log_softmax(learner.model().logits(learner.model().forward(input)), -1)
                                  .gather(-1, targets.clamp_min(0).unsqueeze(-1))
                                  .squeeze(-1);
  const torch::Tensor plain = -(log_p * counted).sum() / count;
  const torch::Tensor wanted = gradients(plain);
  const torch::Tensor got = gradients(learner.model().loss(learner.model().forward(input), targets));
  EXPECT_LT((got - wanted).abs().max().item<double>(), 1e-5 * wanted.abs().max().item<double>());

  learner.model().zero_grad();
  const StepResult result = learner.step({&batch, 1}, 1, 1.0);
  EXPECT_NEAR(result.loss, plain.item<double>(), 1e-5);
  EXPECT_NEAR(result.grad_norm, wanted.norm().item<double>(), 1e-4 * result.grad_norm);
  EXPECT_EQ(result.tokens, count);
  EXPECT_EQ(result.positions, 64);

  std::ranges::fill(batch.targets, -1);
  const StepResult nothing = learner.step({&batch, 1}, 2, 1.0);
  EXPECT_EQ(nothing.loss, 0);
  EXPECT_EQ(nothing.grad_norm, 0);
  EXPECT_EQ(nothing.tokens, 0);
}

// Hidden from each other, the documents of a window are what each is alone: attention, n-grams and convolution.
TEST_F(Answers, PackedDocumentsDoNotSeeEachOther) {
  for (const bool hidden : {false, true}) {
    const Recipe tiny =
        recipe("a", {"model.initializer_range=0.2", fmt::format("model.attention_document_mask={}", hidden)});
    const RunInputs inputs = value_or_throw(open_run_inputs(Env::posix(), tiny, path("data")));
    const std::unique_ptr<Communicator> alone = Communicator::alone();
    Learner learner(inputs, *alone);
    EvaluateOptions options;
    options.batch_size = 4;
    const TokenText text = read_shards(inputs.train);
    const DocumentsResult wanted = value_or_throw(learner.validate_documents(text, options));
    auto loader = value_or_throw(DataLoader::create(
        RunInputs::pointers(inputs.train), inputs.hasher,
        {.batch_size = 1, .sequence_length = 16, .packing = Packing::kDocuments, .shuffle = false, .threads = 0}));
    learner.model().eval();
    torch::NoGradGuard no_grad;
    double nats = 0;
    int64_t tokens = 0, inner = 0;
    for (int64_t window = 0; window < loader->windows_per_epoch(); ++window) {
      const Batch batch = value_or_throw(loader->next());
      const ForwardInput input = learner.loaded_model().prepare_input(batch.tokens, 1, 16, batch.starts);
      const torch::Tensor targets = torch::tensor(batch.targets, torch::kLong).view({1, 16});
      const auto [sum, count] = learner.model().loss_sum(learner.model().forward(input), targets);
      nats += sum;
      tokens += count;
      inner += std::ssize(batch.starts[0]);
    }
    EXPECT_GT(inner, 1);
    EXPECT_EQ(tokens, wanted.tokens);
    const double difference = std::abs(nats / static_cast<double>(tokens) - wanted.loss);
    EXPECT_TRUE(hidden ? difference < 1e-5 : difference > 1e-4) << difference;
  }
}

TEST_F(Answers, NamedSetsAreMeasuredWhileARunLearns) {
  const Recipe learned = recipe("run", {"train.steps=60", "train.validate_every=30", "optimizer.muon_lr=0.02"});
  const TrainSummary summary = run(learned);
  ASSERT_EQ(summary.validation_sets.size(), 2u);
  const ValidationSetResult& answers = summary.validation_sets[0];
  EXPECT_EQ(answers.name, "answers");
  EXPECT_EQ(answers.tokens, prepared_.validation.counted_tokens);
  EXPECT_EQ(answers.documents, prepared_.validation.num_documents);
  EXPECT_NEAR(answers.bits_per_byte * std::log(2.0) * static_cast<double>(prepared_.validation.counted_bytes),
              answers.loss * static_cast<double>(answers.tokens), 1e-9);
  EXPECT_LT(answers.loss, summary.validation_sets[1].loss) << "it trained on such answers";
  EXPECT_EQ(summary.validation_sets[1].exact, 0);
  const auto line = last_line("run");
  EXPECT_EQ(line["validation_sets"]["answers"]["loss"], answers.loss);
  EXPECT_EQ(line["validation_sets"]["text"]["documents"], summary.validation_sets[1].documents);
  EXPECT_GT(line["validation_loss"], 0);
  EXPECT_LT(line["tokens"], 60 * 2 * 16) << "targets only";

  // The control goes through the same tables.
  const TrainSummary shuffled = run(recipe("shuffled", {"train.steps=4", "train.control=shuffled-hash"}));
  EXPECT_GT(shuffled.validation_sets[0].loss, 0);
  EXPECT_EQ(shuffled.validation_sets[0].tokens, answers.tokens);

  // No steps: the base arm of a study. It may look at other documents, or not; a set never does.
  const std::vector<std::string> still = {"train.steps=0", "train.start_from=" + path("run"),
                                          "model.attention_document_mask=true"};
  for (const bool again : {false, true}) {
    const TrainSummary base = run(recipe("base", still), again);
    EXPECT_EQ(base.step, 0);
    EXPECT_EQ(base.validation_sets[0].loss, answers.loss);
    EXPECT_EQ(base.validation_sets[0].exact, answers.exact);
    EXPECT_EQ(last_line("base")["step"], 0);
    EXPECT_TRUE(fs::exists(folder_ / "base/step-00000000/model.safetensors"));
  }
  EXPECT_EQ(run(learned, /*resume=*/true).validation_sets[1].loss, summary.validation_sets[1].loss);
}

// A batch of answers is a function of its number: what is stopped and resumed is the whole run.
TEST_F(Answers, PackedRunsResumeExactly) {
  run(recipe("whole"));
  run(recipe("halves", {"train.stop_at=2"}));
  run(recipe("halves"), /*resume=*/true);
  const auto bytes = [&](const std::string& name) {
    return value_or_throw(Env::posix().read_file(path(name), {.max_bytes = INT64_MAX}));
  };
  for (const char* file : {"model.safetensors", "state.json"})
    EXPECT_TRUE(bytes(fmt::format("whole/latest/{}", file)) == bytes(fmt::format("halves/latest/{}", file))) << file;
  const std::string toml = bytes("whole/latest/recipe.toml");
  EXPECT_NE(toml.find("\n[[data.validation_set]]\nname = \"answers\"\n"), std::string::npos) << toml;
  EXPECT_EQ(value_or_throw(Recipe::parse(toml, "again.toml", {})).to_toml(), toml);
}

// Text that is replayed beside answers: the run says how often it reads each, and goes on where it stopped.
TEST_F(Answers, SourcesAreMixed) {
  struct : TrainObserver {
    void on_message(const std::string& line) override { lines.push_back(line); }
    std::vector<std::string> lines;
  } heard;
  const std::string sources =
      fmt::format("data.source=[{{files=[\"{}\"], share=0.75}}, {{files=[\"{}\"], share=0.25}}]",
                  path("answers/train.tokens"), path("data/train.tokens"));
  const std::vector<std::string> mixed = {"data.train=[]", sources, "train.steps=40"};
  TrainOptions options;
  options.observer = &heard;
  (void)value_or_throw(train(Env::posix(), recipe("whole", mixed), options));
  EXPECT_NE(heard.lines[0].find(" in data.source[0], "), std::string::npos) << heard.lines[0];
  EXPECT_TRUE(heard.lines[0].ends_with(" in data.source[1]")) << heard.lines[0];
  EXPECT_TRUE(heard.lines[1].starts_with("warning: data.source[0] is read ")) << heard.lines[1];
  EXPECT_FALSE(heard.lines[2].starts_with("warning: data.source[1]")) << heard.lines[2];
  std::vector<std::string> stopped = mixed;
  stopped.push_back("train.stop_at=7");
  run(recipe("halves", stopped));
  EXPECT_EQ(run(recipe("halves", mixed), /*resume=*/true).loss, last_line("whole")["loss"]);
}

}  // namespace
}  // namespace engram
