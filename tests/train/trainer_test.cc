// Whole runs on a tiny model: learning, resuming, refusing, and every fault of the disk.
#include "engram/train/trainer.h"

#include <torch/utils.h>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engram/train/event_log.h"
#include "engram/train/learner.h"
#include "engram/train/one_row_table.h"
#include "engram/train/run_directory.h"
#include "engram/train/weight_average.h"
#include "tests/fault_env.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

const char kTiny[] = R"(
[model]
hidden_size = 16
num_hidden_layers = 2
max_position_embeddings = 16
num_attention_heads = 2
kv_lora_rank = 8
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 8
intermediate_size = 32
moe_intermediate_size = 8
n_routed_experts = 4
shared_expert_intermediate_size = 8
memory = "engram"
[model.engram]
layer_ids = [1]
n_heads = 2
head_dim = 4
vocab_size = [50, 60]
[data]
sequence_length = 16
batch_size = 2
[data.synthetic]
documents = 16
[train]
steps = 6
threads = 1
log_every = 1000
validation_batches = 2
)";

class Training : public testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);  // train() leaves them to its caller
    folder_ = fs::temp_directory_path() / fmt::format("engram_train_test_{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  Recipe recipe(const std::string& output, std::vector<std::string> overrides = {}) const {
    overrides.push_back("train.output=" + (folder_ / output).string());
    std::string text = kTiny;
    const std::string sizes = "vocab_size = [50, 60]";  // longcat has a ratio in their place
    if (std::ranges::count(overrides, "model.engram.rule=longcat") > 0)
      text.replace(text.find(sizes), sizes.size(), "vocab_size_ratio = 0.2");
    return value_or_throw(Recipe::parse(text, "tiny.toml", overrides));
  }
  Result<TrainSummary> run(const Recipe& recipe, bool resume = false, Env& env = Env::posix()) const {
    TrainOptions options;
    options.resume = resume;
    return train(env, recipe, options);
  }
  fs::path latest(const std::string& output) const { return folder_ / output / "latest"; }
  static std::string bytes_of(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void expect_same_checkpoint(const std::string& a, const std::string& b) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(latest(a))) names.push_back(entry.path().filename());
    EXPECT_EQ(names.size(), 7u);
    for (const std::string& name : names)
      EXPECT_TRUE(bytes_of(latest(a) / name) == bytes_of(latest(b) / name)) << name << " of " << a << " and " << b;
  }
  std::vector<nlohmann::json> metrics(const std::string& output) const {
    std::vector<nlohmann::json> lines;
    std::istringstream text(bytes_of(folder_ / output / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  fs::path folder_;
};

TEST_F(Training, LossFallsAndMetricsSayHow) {
  const TrainSummary summary = value_or_throw(run(recipe("a", {"train.steps=60", "optimizer.warmup_steps=5"})));
  EXPECT_EQ(summary.step, 60);
  EXPECT_GT(summary.validation_loss, 0);
  EXPECT_GT(summary.peak_rss_bytes, 0);
  const auto lines = metrics("a");
  ASSERT_EQ(lines.size(), 60u);
  EXPECT_GT(lines.front()["loss"], 5.0);  // near ln 257
  EXPECT_LT(lines.back()["loss"], 3.5);
  EXPECT_EQ(lines.back()["tokens"], 60 * 2 * 16);
  EXPECT_EQ(lines[0]["gate_mean"].size(), 1u);
  EXPECT_EQ(lines[0]["expert_load_max_over_mean"].size(), 1u);
  EXPECT_GE(lines[0]["expert_load_max_over_mean"][0], 1.0);
  EXPECT_GT(lines[0]["touched_rows"], 0);
  EXPECT_GT(lines[0]["grad_norm"], 0.0);
  EXPECT_DOUBLE_EQ(lines[0]["lr"], 8e-3 / 5);
  EXPECT_FALSE(lines[0].contains("validation_loss"));
  EXPECT_GT(lines.back()["bits_per_byte"], 0.0);
  EXPECT_GT(lines[0]["peak_rss_bytes"], 0);
}

// The parts of a step sum to its time, nearly, and utilisation is what its definition says.
TEST_F(Training, AStepSaysWhereItsTimeGoesAndHowMuchOfTheMachineItUses) {
  const TrainSummary summary = value_or_throw(run(recipe("a", {"train.steps=20"})));
  double parts = 0, seconds = 0;
  for (const auto& line : metrics("a")) {
    for (const char* part : {"data", "forward", "backward", "optimizers"}) {
      EXPECT_GE(line["step_seconds"][part], 0.0);
      parts += line["step_seconds"][part].get<double>();
    }
    EXPECT_GT(line["mfu"], 0.0);
    seconds = line["seconds"].get<double>();
  }
  EXPECT_LE(parts, seconds * 1.0001);
  EXPECT_EQ(summary.step_seconds.size(), 4u);
  EXPECT_GT(summary.mfu, 0);
  value_or_throw(run(recipe("b", {"train.start_from=" + (folder_ / "a").string(), "train.freeze=[\"router\"]"})));
  EXPECT_FALSE(metrics("b")[0].contains("mfu"));
}

// Every form holds every step once, whatever was lost.
TEST_F(Training, SinksGoOnWithoutStepsTwice) {
  const std::string sinks = "metrics.sinks=[\"tensorboard\", \"csv\"]";
  value_or_throw(run(recipe("a", {sinks, "train.stop_at=4", "train.checkpoint_every=2"})));
  fs::remove_all(folder_ / "a" / "step-00000004");
  fs::remove(folder_ / "a" / "latest");
  fs::create_symlink("step-00000002", folder_ / "a" / "latest");
  value_or_throw(run(recipe("a", {sinks}), /*resume=*/true));
  std::istringstream table(bytes_of(folder_ / "a/metrics.csv"));
  std::string row;
  std::getline(table, row);
  EXPECT_EQ(row.rfind("step,loss,lr,", 0), 0u) << row;
  for (int step = 1; step <= 6; ++step) {
    std::getline(table, row);
    EXPECT_EQ(row.rfind(fmt::format("{},", step), 0), 0u) << row;
  }
  EXPECT_FALSE(std::getline(table, row));
  const std::string events = bytes_of(folder_ / "a/tensorboard/events.out.tfevents.0.engram");
  size_t before = event_bytes_until(events, 0);
  for (int64_t step = 1; step <= 6; ++step)
    EXPECT_GT(event_bytes_until(events, step), std::exchange(before, event_bytes_until(events, step)));
  EXPECT_EQ(before, events.size());
}

TEST_F(Training, StoppedAndResumedEqualsWhole) {
  value_or_throw(run(recipe("whole")));
  value_or_throw(run(recipe("halves", {"train.stop_at=2"})));
  const TrainSummary summary = value_or_throw(run(recipe("halves"), /*resume=*/true));
  EXPECT_EQ(summary.step, 6);
  EXPECT_EQ(summary.tokens, 6 * 2 * 16);
  expect_same_checkpoint("whole", "halves");
  const auto lines = metrics("halves");
  ASSERT_EQ(lines.size(), 6u);
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i]["step"], i + 1);
}

TEST_F(Training, EveryConfigurationResumesExactly) {
  const std::vector<std::vector<std::string>> variants = {
      {"model.memory=none"},
      {"train.control=shuffled-hash"},
      {"train.control=capacity-1"},
      {"optimizer.table_state=row", "train.accumulation=2"},
      {"train.table_dtype=bf16", "optimizer.table_momentum=bf16"},
      {"train.table_dtype=bf16", "optimizer.table_momentum=none", "optimizer.table_state=row"},
      {"model.memory=over_encoding", "model.engram.layer_ids=[0]"},
      {"model.engram.rule=qwen4exp", "model.engram.vocab_size=[50, 50]", "model.engram.rows_divisible_by=16"},
      {"model.engram.rule=longcat"},
      {"model.residual=hyper", "model.hc_mult=2", "train.dtype=bf16"},
      {"optimizer.matrices=adamw"},
      {"data.loader_threads=0", "model.attention=gqa", "model.num_key_value_heads=1", "model.ffn=dense"}};
  for (size_t i = 0; i < variants.size(); ++i) {
    const std::string whole = fmt::format("whole{}", i), halves = fmt::format("halves{}", i);
    std::vector<std::string> stopped = variants[i];
    stopped.push_back("train.stop_at=3");
    value_or_throw(run(recipe(whole, variants[i])));
    value_or_throw(run(recipe(halves, stopped)));
    value_or_throw(run(recipe(halves, variants[i]), /*resume=*/true));
    for (const char* name : {"model.safetensors", "engram.safetensors", "optimizer.safetensors", "state.json"})
      EXPECT_TRUE(bytes_of(latest(whole) / name) == bytes_of(latest(halves) / name)) << name << ", variant " << i;
  }
}

// A memory of any rule that leaves the word as it is can be added to a model without one, and changes nothing at first.
TEST_F(Training, AMemoryOfAnotherRuleBeginsAsNoChange) {
  const double before = value_or_throw(run(recipe("base", {"model.memory=none"}))).validation_loss;
  const std::string from = "train.start_from=" + (folder_ / "base").string(), whole = "model.engram.average_word=false";
  const std::vector<std::vector<std::string>> rules = {
      {"model.engram.rule=qwen4exp", "model.engram.vocab_size=[50, 50]"}, {"model.engram.rule=longcat", whole}};
  for (size_t i = 0; i < rules.size(); ++i) {
    std::vector<std::string> settings = rules[i];
    settings.insert(settings.end(), {from, "train.steps=0"});
    const TrainSummary added = value_or_throw(run(recipe(fmt::format("added{}", i), settings)));
    EXPECT_DOUBLE_EQ(added.validation_loss, before);
  }
  const Status averaged = run(recipe("averaged", {"model.engram.rule=longcat", from})).status();
  EXPECT_NE(averaged.message().find("another model: model.memory: \"engram\", was \"none\""), std::string::npos)
      << averaged.message();
}

TEST_F(Training, AdamWTakesTheMatricesToo) {
  value_or_throw(run(recipe("muon")));
  value_or_throw(run(recipe("adamw", {"optimizer.matrices=adamw"})));
  const std::string muon = bytes_of(latest("muon") / "optimizer.safetensors"),
                    adamw = bytes_of(latest("adamw") / "optimizer.safetensors");
  EXPECT_NE(muon.find("muon.momentum.model.layers.0.self_attn"), std::string::npos);
  EXPECT_EQ(adamw.find("muon.momentum"), std::string::npos);
  EXPECT_NE(adamw.find("adamw.exp_avg_sq.model.layers.0.self_attn"), std::string::npos);
}

TEST_F(Training, ValidatesBetweenStepsWithLongerWindows) {
  // Validation reads windows of max_position_embeddings; nothing it caches may leak into training.
  const std::vector<std::string> shorter = {"data.sequence_length=8", "train.validate_every=1"};
  value_or_throw(run(recipe("often", shorter)));
  value_or_throw(run(recipe("seldom", {"data.sequence_length=8"})));
  EXPECT_TRUE(bytes_of(latest("often") / "model.safetensors") == bytes_of(latest("seldom") / "model.safetensors"));
  EXPECT_TRUE(metrics("often")[0].contains("validation_loss"));
  EXPECT_DOUBLE_EQ(metrics("often")[5]["validation_loss"], metrics("seldom")[5]["validation_loss"]);
}

TEST_F(Training, BitsPerByteOfAPartCountsItsOwnBytes) {
  const TrainSummary part = value_or_throw(run(recipe("part")));
  const TrainSummary all = value_or_throw(run(recipe("all", {"train.validation_batches=0"})));
  // Bytes are the tokens here, so bits per byte is loss / ln 2, except for end-of-text tokens, which stand for no byte.
  EXPECT_NEAR(part.bits_per_byte, part.validation_loss / std::log(2.0), 0.05 * part.bits_per_byte);
  EXPECT_NEAR(all.bits_per_byte, all.validation_loss / std::log(2.0), 0.05 * all.bits_per_byte);
  EXPECT_NE(part.validation_loss, all.validation_loss);
}

TEST_F(Training, RefusesAnOutputThatHoldsARun) {
  value_or_throw(run(recipe("a", {"train.stop_at=1"})));
  const Result<TrainSummary> again = run(recipe("a"));
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.status().code(), StatusCode::kAlreadyExists);
  EXPECT_NE(again.status().message().find("resume it"), std::string::npos);
}

TEST_F(Training, RefusesToResumeAnotherRecipe) {
  value_or_throw(run(recipe("a", {"train.stop_at=1"})));
  const Result<TrainSummary> other = run(recipe("a", {"optimizer.muon_lr=0.5", "train.steps=7"}), /*resume=*/true);
  ASSERT_FALSE(other.ok());
  EXPECT_NE(other.status().message().find("optimizer.muon_lr: 0.5, was 0.008; train.steps: 7, was 6"),
            std::string::npos)
      << other.status().message();
  const Status rounded = run(recipe("a", {"train.table_dtype=bf16"}), /*resume=*/true).status();
  EXPECT_NE(rounded.message().find("train.table_dtype: \"bf16\", was \"fp32\""), std::string::npos)
      << rounded.message();
  value_or_throw(run(recipe("a", {"train.checkpoint_every=1", "train.keep_checkpoints=2"}), /*resume=*/true));
  EXPECT_TRUE(fs::exists(folder_ / "a/step-00000005"));
  EXPECT_FALSE(fs::exists(folder_ / "a/step-00000004"));
}

TEST_F(Training, ResumeWithoutACheckpointStartsAndFinishedRunsStayFinished) {
  value_or_throw(run(recipe("a"), /*resume=*/true));
  const std::string before = bytes_of(folder_ / "a/metrics.jsonl");
  const TrainSummary again = value_or_throw(run(recipe("a"), /*resume=*/true));
  EXPECT_EQ(again.step, 6);
  EXPECT_EQ(bytes_of(folder_ / "a/metrics.jsonl"), before);
}

TEST_F(Training, StartsFromACheckpointWithALongerContext) {
  (void)value_or_throw(run(recipe("short")));
  const std::string from = "train.start_from=" + (folder_ / "short").string();
  // No learning rate: what comes out is what went in, whatever the random start was.
  const std::vector<std::string> longer = {from,
                                           "model.max_position_embeddings=64",
                                           "model.rope_scaling.factor=4",
                                           "data.sequence_length=64",
                                           "optimizer.muon_lr=1e-30",
                                           "optimizer.adamw_lr=1e-30",
                                           "train.expert_bias_rate=0",
                                           "train.seed=9"};
  (void)value_or_throw(run(recipe("long", longer)));
  for (const char* file : {"model.safetensors", "engram.safetensors"})
    EXPECT_TRUE(bytes_of(latest("short") / file) == bytes_of(latest("long") / file)) << file;

  const Status wider = run(recipe("wide", {from, "model.v_head_dim=10"})).status();
  EXPECT_EQ(wider.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(wider.message().find("model.v_head_dim: 10, was 8"), std::string::npos) << wider.message();
  EXPECT_EQ(run(recipe("none", {"train.start_from=" + folder_.string() + "/missing"})).status().code(),
            StatusCode::kNotFound);
}

// A memory joins a model that exists. Until something is learned it is that model, to the bit.
TEST_F(Training, AnAttachedMemoryAddsNothingAtFirst) {
  const TrainSummary base = value_or_throw(run(recipe("base", {"model.memory=none"})));
  const std::string from = "train.start_from=" + (folder_ / "base").string();
  std::string config = bytes_of(latest("base") / "config.json");  // as an imported model has it
  const size_t words = config.find("\"chat_template\": \"");
  config.insert(words + 18, "MINE");
  std::ofstream(latest("base") / "config.json") << config;
  const std::vector<std::string> still = {
      from, "train.steps=1", "train.seed=9", "train.expert_bias_rate=0", "optimizer.muon_lr=0", "optimizer.adamw_lr=0"};
  const TrainSummary attached = value_or_throw(run(recipe("attached", still)));
  EXPECT_EQ(attached.validation_loss, base.validation_loss);
  EXPECT_TRUE(bytes_of(latest("base") / "model.safetensors") == bytes_of(latest("attached") / "model.safetensors"));
  EXPECT_GT(metrics("attached").back()["gate_mean"][0], 0.0);  // it is there
  EXPECT_GT(metrics("attached").back()["grad_norm"], 0.0);

  const std::vector<std::string> frozen = {from, "train.freeze=[\"backbone\"]", "train.steps=20",
                                           "train.checkpoint_every=3"};
  const TrainSummary trained = value_or_throw(run(recipe("frozen", frozen)));
  EXPECT_LT(trained.validation_loss, base.validation_loss);
  EXPECT_TRUE(bytes_of(latest("base") / "model.safetensors") == bytes_of(latest("frozen") / "model.safetensors"));
  const std::string state = bytes_of(latest("frozen") / "optimizer.safetensors");
  EXPECT_EQ(state.find("self_attn"), std::string::npos);
  EXPECT_NE(state.find("engram.wkv"), std::string::npos);

  std::vector<std::string> stopped = frozen;
  stopped.push_back("train.stop_at=7");
  value_or_throw(run(recipe("again", stopped)));
  value_or_throw(run(recipe("again", frozen), /*resume=*/true));
  expect_same_checkpoint("frozen", "again");
  const LoadedModel loaded = value_or_throw(load_model(Env::posix(), (folder_ / "again").string()));
  EXPECT_EQ(loaded.chat_template.substr(0, 4), "MINE");

  const Status other = run(recipe("other", {from, "model.hidden_size=32"})).status();
  EXPECT_NE(other.message().find("another model: model.hidden_size: 32, was 16"), std::string::npos) << other.message();
  EXPECT_FALSE(fs::exists(folder_ / "other" / "metrics.jsonl"));
}

// bf16 is what the products of a run in bf16 take anyway.
TEST_F(Training, FrozenProjectionsMayBeHalfAsLarge) {
  value_or_throw(run(recipe("base", {"model.memory=none"})));
  std::vector<std::string> wide = {"train.start_from=" + (folder_ / "base").string(),
                                   "train.freeze=[\"backbone\"]",
                                   "train.dtype=bf16",
                                   "train.steps=12",
                                   "lora.rank=2",
                                   "lora.targets=[\"o_proj\"]"};
  std::vector<std::string> half = wide;
  half.push_back("train.frozen_dtype=bf16");
  value_or_throw(run(recipe("wide", wide)));
  value_or_throw(run(recipe("half", half)));
  for (const char* key : {"loss", "grad_norm"})
    EXPECT_EQ(metrics("wide").back()[key], metrics("half").back()[key]) << key;
  EXPECT_TRUE(bytes_of(latest("wide") / "engram.safetensors") == bytes_of(latest("half") / "engram.safetensors"));
  half.push_back("train.stop_at=5");
  value_or_throw(run(recipe("again", half)));
  half.pop_back();
  value_or_throw(run(recipe("again", half), /*resume=*/true));
  for (const char* file :
       {"model.safetensors", "adapter_model.safetensors", "engram.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(bytes_of(latest("half") / file) == bytes_of(latest("again") / file)) << file;
}

// The base stays; what is loaded for use is the sum of both, and what is resumed goes on with its changes.
TEST_F(Training, LowRankChangesLieBesideTheBase) {
  const TrainSummary base = value_or_throw(run(recipe("base")));
  const std::vector<std::string> lora = {"train.start_from=" + (folder_ / "base").string(),
                                         "train.freeze=[\"backbone\", \"memory\"]",
                                         "lora.rank=2",
                                         "lora.targets=[\"o_proj\", \"kv_a_proj_with_mqa\", \"up_proj\"]",
                                         "train.steps=20",
                                         "train.checkpoint_every=5"};
  const TrainSummary trained = value_or_throw(run(recipe("lora", lora)));
  EXPECT_LT(trained.validation_loss, base.validation_loss);
  EXPECT_TRUE(bytes_of(latest("base") / "model.safetensors") == bytes_of(latest("lora") / "model.safetensors"));
  std::vector<std::string> stopped = lora;
  stopped.push_back("train.stop_at=8");
  value_or_throw(run(recipe("again", stopped)));
  value_or_throw(run(recipe("again", lora), /*resume=*/true));
  for (const char* file : {"adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors"})
    EXPECT_TRUE(bytes_of(latest("lora") / file) == bytes_of(latest("again") / file)) << file;

  // A run that begins from it, and learns nothing, has the loss of the sum.
  std::vector<std::string> still = {"train.start_from=" + (folder_ / "lora").string(), "train.steps=1",
                                    "train.expert_bias_rate=0", "optimizer.muon_lr=0", "optimizer.adamw_lr=0"};
  EXPECT_NEAR(value_or_throw(run(recipe("sum", still))).validation_loss, trained.validation_loss, 1e-5);
  const LoadedModel before = value_or_throw(load_model(Env::posix(), (folder_ / "base").string()));
  const LoadedModel after = value_or_throw(load_model(Env::posix(), (folder_ / "lora").string()));
  const LoadedModel sum = value_or_throw(load_model(Env::posix(), (folder_ / "sum").string()));
  for (const auto& item : before.model->named_parameters()) {
    const std::string& name = item.key();
    const bool target = name.find("o_proj") != std::string::npos || name.find("q_kv_a_proj") != std::string::npos ||
                        name.find("gate_up_proj") != std::string::npos;
    EXPECT_EQ(item.value().equal(after.model->named_parameters()[name]), !target) << name;
    EXPECT_TRUE(sum.model->named_parameters()[name].equal(after.model->named_parameters()[name])) << name;
  }

  still.insert(still.end(), {"lora.targets=[\"w_proj\"]", "lora.rank=1"});
  const Status none = run(recipe("none", still)).status();
  EXPECT_EQ(none.message(),
            "lora.targets: got 'w_proj', wanted some of q_proj, kv_a_proj_with_mqa, kv_b_proj, o_proj, "
            "gate_proj, up_proj, down_proj, lm_head");
}

TEST_F(Training, ARoleHasALearningRateOfItsOwn) {
  value_or_throw(run(recipe("base")));
  const std::string from = "train.start_from=" + (folder_ / "base").string();
  value_or_throw(run(recipe("a", {from, "train.steps=2", "optimizer.lr_factor.attention=0",
                                  "optimizer.lr_factor.norm=0", "optimizer.weight_decay=0"})));
  const LoadedModel before = value_or_throw(load_model(Env::posix(), (folder_ / "base").string()));
  const LoadedModel after = value_or_throw(load_model(Env::posix(), (folder_ / "a").string()));
  for (const auto& item : before.model->named_parameters()) {
    const bool rests = item.key().find("self_attn") != std::string::npos || item.key().ends_with("norm.weight");
    const bool memory = item.key().find("engram.") != std::string::npos;
    EXPECT_EQ(item.value().equal(after.model->named_parameters()[item.key()]), rests && !memory) << item.key();
  }
}

TEST_F(Training, RecomputedActivationsChangeNoByte) {
  value_or_throw(run(recipe("kept", {"train.accumulation=2"})));
  for (const char* mode : {"attention", "blocks"}) {
    value_or_throw(run(recipe(mode, {"train.accumulation=2", fmt::format("train.recompute={}", mode)})));
    for (const char* file : {"model.safetensors", "engram.safetensors", "optimizer.safetensors", "state.json"})
      EXPECT_TRUE(bytes_of(latest("kept") / file) == bytes_of(latest(mode) / file)) << file << ", " << mode;
    EXPECT_EQ(metrics(mode).back()["loss"], metrics("kept").back()["loss"]);
    EXPECT_EQ(metrics(mode).back()["expert_load_max_over_mean"], metrics("kept").back()["expert_load_max_over_mean"]);
    EXPECT_TRUE(run(recipe(mode, {"train.accumulation=2"}), /*resume=*/true).ok());  // decides no number
  }
}

// A recipe takes from the model that it continues what it does not say.
TEST_F(Training, AModelThatExistsFillsTheRecipe) {
  value_or_throw(run(recipe("base", {"model.memory=none"})));
  const std::string path = (folder_ / "short.toml").string();
  std::ofstream(path)
      << "[model]\nmemory = \"engram\"\n[model.engram]\nlayer_ids = [1]\nn_heads = 2\nhead_dim = 4\n"
         "vocab_size = [50, 60]\n[data]\nsequence_length = 16\ntrain = \"x.tokens\"\n[train]\nsteps = 1\n";
  const Recipe filled = value_or_throw(
      Recipe::load(Env::posix(), path, {"train.start_from=" + (folder_ / "base").string(), "model.rms_norm_eps=1e-5"}));
  EXPECT_EQ(filled.model.hidden_size, 16);
  EXPECT_EQ(filled.model.n_routed_experts, 4);
  EXPECT_EQ(filled.model.rms_norm_eps, 1e-5);
  EXPECT_EQ(filled.model.engram.pad_token_id, Recipe::kPadFromTokenizer);
  EXPECT_TRUE(fs::exists(filled.data.tokenizer)) << filled.data.tokenizer;
}

TEST_F(Training, AStopBeforeTheFirstStepIsNoError) {
  const std::atomic<bool> stop = true;
  TrainOptions options;
  options.stop = &stop;
  const TrainSummary summary = value_or_throw(train(Env::posix(), recipe("a"), options));
  EXPECT_TRUE(summary.interrupted);
  EXPECT_EQ(summary.step, 0);
  EXPECT_FALSE(fs::exists(latest("a")));
}

TEST_F(Training, ALossThatIsNotFiniteEndsTheRunAndKeepsTheCheckpoint) {
  const std::vector<std::string> wild = {"optimizer.adamw_lr=1000", "optimizer.weight_decay=1000", "train.steps=30",
                                         "train.checkpoint_every=1"};
  const Result<TrainSummary> result = run(recipe("a", wild));
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("wanted finite numbers"), std::string::npos);
  EXPECT_TRUE(load_model(Env::posix(), (folder_ / "a").string()).ok());
}

TEST_F(Training, SkippedStepsAreCountedAndEndTheRunAfterTheLimit) {
  const Result<TrainSummary> result = run(recipe(
      "a", {"optimizer.adamw_lr=1000", "optimizer.weight_decay=1000", "train.steps=30", "train.max_skipped_steps=2"}));
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("wanted finite numbers after 2 skipped steps"), std::string::npos)
      << result.status().message();
  const auto lines = metrics("a");
  ASSERT_GT(lines.size(), 2u);
  EXPECT_EQ(lines.back()["skipped_steps"], 2);
  EXPECT_FALSE(lines.back().contains("loss"));
  EXPECT_TRUE(lines[lines.size() - 3].contains("loss"));
}

// A step with numbers that are not finite leaves nothing behind: the next one has the bits of a run without it.
TEST_F(Training, ASkippedStepChangesNothing) {
  const RunInputs inputs = value_or_throw(open_run_inputs(Env::posix(), recipe("a"), (folder_ / "data").string()));
  DataLoaderOptions loading;
  loading.batch_size = 2;
  loading.sequence_length = 16;
  auto loader = value_or_throw(DataLoader::create(inputs.sources(), inputs.hasher, loading));
  const Batch first = value_or_throw(loader->next()), second = value_or_throw(loader->next());
  const auto alone = Communicator::alone();
  const auto after = [&](bool with_fault) {
    Learner learner(inputs, *alone);
    if (with_fault) {
      torch::Tensor weight = learner.model().parameters()[0].detach();
      const torch::Tensor before = weight.clone();
      weight.fill_(NAN);
      EXPECT_FALSE(std::isfinite(learner.step(std::span(&first, 1), 1, 1.0).loss));
      weight.copy_(before);
    }
    return learner.step(std::span(&second, 1), 1, 1.0);
  };
  const StepResult with = after(true), without = after(false);
  EXPECT_EQ(with.loss, without.loss);
  EXPECT_EQ(with.grad_norm, without.grad_norm);
  EXPECT_EQ(with.expert_load, without.expert_load);
}

// The average is saved, resumed to the bit, evaluated beside the weights, and is a model by itself.
TEST_F(Training, AveragedWeightsAreEvaluatedSavedAndResumed) {
  for (const char* kind : {"ema", "mean"}) {
    const std::vector<std::string> keys = {fmt::format("train.average={}", kind), "train.average_from=1",
                                           "train.average_decay=0.5", "train.validate_every=2"};
    std::vector<std::string> stopped = keys;
    stopped.push_back("train.stop_at=3");
    const std::string whole = fmt::format("whole-{}", kind), halves = fmt::format("halves-{}", kind);
    const TrainSummary summary = value_or_throw(run(recipe(whole, keys)));
    value_or_throw(run(recipe(halves, stopped)));
    value_or_throw(run(recipe(halves, keys), /*resume=*/true));
    for (const char* file : {"model.safetensors", "average/model.safetensors", "average/engram.safetensors"})
      EXPECT_TRUE(bytes_of(latest(whole) / file) == bytes_of(latest(halves) / file)) << file << kind;
    EXPECT_FALSE(bytes_of(latest(whole) / "model.safetensors") ==
                 bytes_of(latest(whole) / "average/model.safetensors"));
    const auto lines = metrics(whole);
    EXPECT_TRUE(lines[1].contains("average"));
    EXPECT_GT(lines.back()["average"]["validation_loss"], 0.0);
    EXPECT_NE(lines.back()["average"]["validation_loss"], lines.back()["validation_loss"]);
    EXPECT_EQ(summary.average_validation_loss, lines.back()["average"]["validation_loss"]);
    EXPECT_TRUE(load_model(Env::posix(), (latest(whole) / "average").string()).ok());
  }
}

TEST(WeightAverages, AreWhatTheirFormulaSays) {
  for (const double decay : {1.0, 0.75}) {
    torch::Tensor weight = torch::zeros({3}).set_requires_grad(true);
    WeightAverage average({weight}, decay);
    double wanted = 0;
    const std::vector<double> values = {4, 8, 3, 5, 1, 7};
    for (size_t n = 0; n < values.size(); ++n) {
      weight.detach().fill_(values[n]);
      average.add(static_cast<int64_t>(n));
      const double part = std::max(1 - decay, 1.0 / static_cast<double>(n + 1));
      wanted += part * (values[n] - wanted);
    }
    {
      const Averaged now(&average);
      EXPECT_NEAR(weight[0].item<double>(), wanted, 1e-5);
    }
    EXPECT_EQ(weight[2].item<double>(), 7);
  }
}

// Samples and histograms are told at their intervals and change no number.
TEST_F(Training, SamplesAndHistogramsComeAtTheirIntervals) {
  value_or_throw(run(recipe("plain")));
  value_or_throw(
      run(recipe("told", {"train.sample_prompts=[\"the \", \"a\"]", "train.samples_every=4", "train.sample_tokens=5",
                          "train.sample_temperature=0.7", "metrics.histograms_every=3", "metrics.sinks=tensorboard"})));
  const auto plain = metrics("plain"), told = metrics("told");
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(plain[i]["loss"], told[i]["loss"]);
    EXPECT_EQ(told[i].contains("samples"), i == 3 || i == 5);
    EXPECT_EQ(told[i].contains("histograms"), i == 2 || i == 5);
  }
  EXPECT_EQ(told[3]["samples"].size(), 2u);
  EXPECT_EQ(told[3]["samples"][0]["prompt"], "the ");
  const auto sum = [](const nlohmann::json& counts) {
    int64_t all = 0;
    for (const auto& count : counts) all += count.get<int64_t>();
    return all;
  };
  const nlohmann::json& gate = told[2]["histograms"]["gate/0"];
  EXPECT_EQ(gate["counts"].size(), 32u);
  EXPECT_EQ(sum(gate["counts"]), 2 * 16);  // positions, one stream
  const nlohmann::json& load = told[2]["histograms"]["expert_load/0"];
  EXPECT_EQ(load["counts"].size(), 4u);
  EXPECT_EQ(sum(load["counts"]), 2 * 16 * 2);  // two experts each
  for (const char* file : {"model.safetensors", "engram.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(bytes_of(latest("plain") / file) == bytes_of(latest("told") / file)) << file;
}

TEST_F(Training, DamagedCheckpointsAreRefused) {
  value_or_throw(run(recipe("a", {"train.stop_at=2"})));
  for (const char* name :
       {"state.json", "optimizer.safetensors", "model.safetensors", "engram.safetensors", "recipe.toml"}) {
    const fs::path file = latest("a") / name;
    const std::string whole = bytes_of(file);
    std::ofstream(file, std::ios::binary).write(whole.data(), static_cast<std::streamsize>(whole.size() / 2));
    const Result<TrainSummary> result = run(recipe("a"), /*resume=*/true);
    ASSERT_FALSE(result.ok()) << name;
    EXPECT_NE(result.status().message().find(name), std::string::npos) << result.status().message();
    std::ofstream(file, std::ios::binary).write(whole.data(), static_cast<std::streamsize>(whole.size()));
  }
  value_or_throw(run(recipe("a"), /*resume=*/true));
}

// Whatever change to the disk fails, the run says so once and the next one ends where an undisturbed run does.
TEST_F(Training, EveryFaultLeavesARunThatResumes) {
  const std::vector<std::string> often = {"train.checkpoint_every=2", "train.keep_checkpoints=1", "train.steps=4",
                                          "train.validation_batches=1"};
  FaultyEnv counting(Env::posix());
  value_or_throw(run(recipe("whole", often), false, counting));
  ASSERT_GT(counting.changes(), 30);
  for (int64_t change = 0; change < counting.changes(); change += 5) {
    const std::string output = fmt::format("faulty{}", change);
    FaultPlan plan;
    plan.fail_change = change;
    plan.short_write = true;
    plan.dead_after = change % 2 == 0;
    FaultyEnv faulty(Env::posix(), plan);
    const Result<TrainSummary> broken = run(recipe(output, often), false, faulty);
    EXPECT_FALSE(broken.ok()) << "change " << change;
    const Result<TrainSummary> resumed = run(recipe(output, often), /*resume=*/true);
    ASSERT_TRUE(resumed.ok()) << "change " << change << ": " << resumed.status().message();
    expect_same_checkpoint("whole", output);
    fs::remove_all(folder_ / output);
  }
}

TEST_F(Training, AFullDiskIsOneErrorAndNothingHalfWritten) {
  FaultPlan plan;
  plan.disk_bytes = 60'000;
  FaultyEnv faulty(Env::posix(), plan);
  const Result<TrainSummary> result = run(recipe("a"), false, faulty);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("No space left"), std::string::npos) << result.status().message();
  for (const auto& entry : fs::directory_iterator(folder_ / "a"))
    EXPECT_FALSE(entry.path().filename().string().starts_with("step-")) << entry.path();
}

// Two micro-batches of one step are one batch of twice the size.
TEST_F(Training, AccumulationEqualsALargerBatch) {
  const auto weights_after_a_step = [&](const std::vector<std::string>& overrides) {
    const Recipe tiny = recipe("data", overrides);
    const RunInputs inputs = value_or_throw(open_run_inputs(Env::posix(), tiny, (folder_ / "data").string()));
    DataLoaderOptions options;
    options.batch_size = tiny.data.batch_size;
    options.sequence_length = tiny.data.sequence_length;
    auto loader = value_or_throw(DataLoader::create(RunInputs::pointers(inputs.train), inputs.hasher, options));
    const std::unique_ptr<Communicator> alone = Communicator::alone();
    Learner learner(inputs, *alone);
    std::vector<Batch> batches;
    for (int64_t i = 0; i < tiny.train.accumulation; ++i) batches.push_back(value_or_throw(loader->next()));
    learner.step(batches, 1, 1.0);
    const StreamedTensor rows = learner.tables()[0]->stored_rows();
    std::vector<torch::Tensor> flat = {rows.read(0, rows.rows()).flatten()};
    for (const torch::Tensor& parameter : learner.model().parameters()) flat.push_back(parameter.detach().flatten());
    return torch::cat(flat);
  };
  const torch::Tensor once = weights_after_a_step({"data.batch_size=4"});
  const torch::Tensor twice = weights_after_a_step({"data.batch_size=2", "train.accumulation=2"});
  // Adam's first step is the sign of a gradient, so rounding shows where a gradient is nearly zero: count those.
  const int64_t different = (once - twice).abs().gt(1e-4).sum().item<int64_t>();
  EXPECT_LT(different, once.numel() / 500);
}

TEST(ShuffledTable, ReadsTheSameTuplesAtOtherPositions) {
  const torch::Tensor rows = torch::arange(40, torch::kFloat32).view({20, 2});
  ShuffledTable table(std::make_unique<ResidentTable>(rows), 2, 7);
  std::vector<int64_t> ids;
  for (int64_t position = 0; position < 10; ++position) ids.insert(ids.end(), {position, 10 + position});
  const auto read = [&] {
    const MemoryRows memory = table.gather(ids, 2, 5);
    return memory.unique_rows.index_select(0, memory.index.view({-1})).view({10, 4});
  };
  table.begin(3);
  const torch::Tensor first = read(), second = read();
  table.begin(3);
  EXPECT_TRUE(torch::equal(first, read()));
  EXPECT_FALSE(torch::equal(first, second));
  // Column 0 names the tuple: each occurs once, and each tuple is still whole.
  EXPECT_TRUE(torch::equal(std::get<0>(first.select(1, 0).sort()), torch::arange(0, 20, 2, torch::kFloat32)));
  EXPECT_TRUE(torch::equal(first.select(1, 2), first.select(1, 0) + 20));
}

TEST(OneRowTable, ReadsOneRowAHeadWhateverTheIds) {
  const torch::Tensor rows = torch::arange(40, torch::kFloat32).view({20, 2});
  OneRowTable table(std::make_unique<ResidentTable>(rows), 2);
  const MemoryRows memory = table.gather(std::vector<int64_t>{3, 11, 7, 19, 0, 12}, 1, 3);  // three tokens, two heads
  EXPECT_TRUE(torch::equal(memory.index, torch::tensor({{{0, 1}, {0, 1}, {0, 1}}}, torch::kInt64)));
}

TEST(RunDirectory, NamesSortLikeSteps) {
  EXPECT_EQ(checkpoint_name(40), "step-00000040");
  EXPECT_LT(checkpoint_name(99), checkpoint_name(100));
}

}  // namespace
}  // namespace engram
