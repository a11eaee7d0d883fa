// The forms that a run's metrics take beside metrics.jsonl, byte by byte, and how they go on after a resume.
#include "engram/train/metrics_sink.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "engram/model/io/parameter_groups.h"
#include "engram/model/parameters.h"
#include "engram/train/csv_log.h"
#include "engram/train/event_log.h"
#include "engram/train/matrix_rate.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class MetricsSinks : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("engram_metrics_sink_test_{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string read(const std::string& name) const { return value_or_throw(Env::posix().read_file(folder_ / name)); }

  fs::path folder_;
};

Json line(int64_t step, double loss) {
  Json line;
  line["step"] = step;
  line["loss"] = loss;
  line["step_seconds"] = {{"data", 0.5}, {"forward", 0.25}};
  line["gate_mean"] = {0.125, 0.75};
  return line;
}

TEST_F(MetricsSinks, NumbersHaveTheNamesOfTheirPlaces) {
  Json all = line(3, 2.5);
  all["samples"] = {{{"prompt", "a"}, {"text", "b"}}};
  all["histograms"]["gate/0"] = {{"low", 0}, {"high", 1}, {"counts", {1, 2}}};
  all["note"] = "text";
  std::vector<std::pair<std::string, double>> got;
  for_each_number(all, [&](const std::string& name, double number) { got.emplace_back(name, number); });
  const std::vector<std::pair<std::string, double>> wanted = {{"loss", 2.5},
                                                              {"step_seconds/data", 0.5},
                                                              {"step_seconds/forward", 0.25},
                                                              {"gate_mean/0", 0.125},
                                                              {"gate_mean/1", 0.75}};
  EXPECT_EQ(got, wanted);
}

TEST_F(MetricsSinks, CsvHasARowForEachStepAndGoesOn) {
  const std::string path = folder_ / "metrics.csv";
  const std::vector<std::string> later = {"validation_loss", "validation_sets/a,\"b\"/loss"};
  {
    auto log = value_or_throw(CsvLog::open(Env::posix(), path, later, 0));
    throw_if_error(log->append(line(1, 2.5)));
    Json second = line(2, 0.1);
    second["validation_loss"] = 3;
    second["unknown"] = 4;
    throw_if_error(log->append(second));
    throw_if_error(log->append(line(3, 9)));
  }
  const std::string head =
      "step,loss,step_seconds/data,step_seconds/forward,gate_mean/0,gate_mean/1,validation_loss,"
      "validation_sets/a__b_/loss\n1,2.5,0.5,0.25,0.125,0.75,,\n2,0.1,0.5,0.25,0.125,0.75,3,\n";
  EXPECT_EQ(read("metrics.csv"), head + "3,9,0.5,0.25,0.125,0.75,,\n");
  {
    auto file = value_or_throw(Env::posix().new_appendable_file(path));
    throw_if_error(file->append(std::as_bytes(std::span("4,7", 3))));  // torn
  }
  auto log = value_or_throw(CsvLog::open(Env::posix(), path, later, 2));
  EXPECT_EQ(read("metrics.csv"), head);
  throw_if_error(log->append(Json{{"step", 3}, {"loss", 1.5}}));
  EXPECT_EQ(read("metrics.csv"), head + "3,1.5,,,,,,\n");
  value_or_throw(CsvLog::open(Env::posix(), path, later, 0));  // a run that begins again
  EXPECT_EQ(read("metrics.csv"), "");
}

TEST_F(MetricsSinks, CsvOfSomebodyElseIsRefused) {
  throw_if_error(write_file_atomic(Env::posix(), folder_ / "metrics.csv", "name,age\nx,3\n"));
  const auto log = CsvLog::open(Env::posix(), folder_ / "metrics.csv", {}, 2);
  EXPECT_NE(log.status().message().find("got the first column"), std::string::npos) << log.status().message();
}

// Every event file of TensorBoard begins with these twelve bytes: a record of 24.
TEST_F(MetricsSinks, ARecordIsFramedAsTensorBoardFramesIt) {
  const std::string record = event_record(std::string(24, 'x'));
  EXPECT_EQ(record.substr(0, 12), std::string("\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22", 12));
  EXPECT_EQ(record.size(), 12u + 24 + 4);
}

TEST_F(MetricsSinks, AnEventIsAProtocolBuffer) {
  const std::string event = step_event(Json{{"step", 300}, {"loss", 0.5}}, 1.0);
  const std::string wanted(
      "\x09\0\0\0\0\0\0\xf0\x3f"  // 1: wall_time, 1.0
      "\x10\xac\x02"              // 2: step, 300
      "\x2a\x0d"                  // 5: summary of 13 bytes
      "\x0a\x0b"                  // 1: a value of 11 bytes
      "\x0a\x04loss"              // 1: its tag
      "\x15\0\0\0\x3f",           // 2: simple_value, 0.5
      9 + 3 + 2 + 2 + 6 + 5);
  EXPECT_EQ(event, wanted);
}

TEST_F(MetricsSinks, EventsOfLaterStepsAndATornEndAreCutOff) {
  const std::string name = "tensorboard/events.out.tfevents.0.engram";
  std::vector<size_t> sizes;
  {
    auto log = value_or_throw(EventLog::open(Env::posix(), folder_ / "tensorboard", 0));
    for (int64_t step = 0; step <= 3; ++step) {
      if (step > 0) throw_if_error(log->append(line(step, 1)));
      sizes.push_back(read(name).size());
    }
  }
  const std::string whole = read(name);
  EXPECT_EQ(event_bytes_until(whole, 2), sizes[2]);
  EXPECT_EQ(event_bytes_until(whole, 100), sizes[3]);
  EXPECT_EQ(event_bytes_until(whole.substr(0, sizes[3] - 1), 100), sizes[2]);
  std::string damaged = whole;
  damaged[sizes[1] + 20] ^= 1;
  EXPECT_EQ(event_bytes_until(damaged, 100), sizes[1]);
  std::string huge = whole;
  huge[sizes[1] + 7] = '\x7f';  // a length beyond everything
  EXPECT_EQ(event_bytes_until(huge, 100), sizes[1]);
  EXPECT_EQ(event_bytes_until("something else entirely", 100), 0u);

  throw_if_error(write_file_atomic(Env::posix(), folder_ / name, whole.substr(0, sizes[3] - 5)));
  value_or_throw(EventLog::open(Env::posix(), folder_ / "tensorboard", 2));
  EXPECT_EQ(read(name), whole.substr(0, sizes[2]));
}

// The count that takes no tensors, against the tensors that a token meets in products.
TEST(Flops, AreThoseOfTheWeightsAndOfAttention) {
  ModelConfig config;
  config.vocab_size = 300;
  for (const bool gqa : {false, true}) {
    config.attention = gqa ? AttentionKind::kGqa : AttentionKind::kMla;
    const Transformer model(config);
    double weights = 0;
    for (const ParameterInfo& info : parameter_groups(*model)) {
      const bool embedding = info.role == ParameterRole::kEmbedding, expert = info.tensor.dim() == 3;
      if (info.tensor.dim() < 2 || embedding) continue;
      const double share = expert ? static_cast<double>(config.num_experts_per_tok) / config.n_routed_experts : 1;
      weights += share * static_cast<double>(info.tensor.numel());
    }
    const ParameterCount count = value_or_throw(count_parameters(config));
    const double none = training_flops_per_token(config, count, 0);
    EXPECT_NEAR(none, 6 * weights, 0.02 * none);  // norms and biases count there, though in no product
    const double columns =
        gqa ? 2 * config.head_dim : config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim;
    EXPECT_DOUBLE_EQ(training_flops_per_token(config, count, 100) - none,
                     6 * 100 * columns * config.num_attention_heads * config.num_hidden_layers);
  }
}

TEST(MatrixRates, AreStatedOrMeasured) {
  EXPECT_EQ(stated_matrix_rate("NVIDIA H200", true), 989.4e12);
  EXPECT_EQ(stated_matrix_rate("NVIDIA A100-SXM4-80GB", false), 19.5e12);
  EXPECT_EQ(stated_matrix_rate("NVIDIA H100 PCIe", true), 756e12);
  EXPECT_FALSE(stated_matrix_rate("Voodoo 2", true));
  const MatrixRate rate = matrix_rate(torch::kCPU, false);
  EXPECT_GT(rate.flops, 1e7);
  EXPECT_EQ(matrix_rate(torch::kCPU, false).flops, rate.flops);  // measured once
  EXPECT_NE(rate.source.find("measured"), std::string::npos);
}

}  // namespace
}  // namespace engram
