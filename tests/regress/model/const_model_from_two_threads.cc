// A `const LoadedModel&` was changed while it was read: resident tables de-duplicated through scratch of their own, the
// rotary tables grew under the reader, a probe called eval(). Two threads that read one model got each other's rows.
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "engram/model/decode/evaluate.h"
#include "engram/model/decode/generate.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

TEST(ConstModelFromTwoThreads, TablesAreReadAtOnce) {
  const int64_t rows = 3000, length = 400;
  const torch::Tensor values = torch::arange(rows * 2, torch::kFloat).view({rows, 2});
  ResidentTable table(values);
  std::atomic<int> wrong = 0;
  const auto read = [&](int64_t seed) {
    std::vector<int64_t> ids(static_cast<size_t>(length * 3));
    for (int round = 0; round < 300; ++round) {
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i * 7 + i * i * 3) * seed % rows;
      const MemoryRows got = table.gather(ids, 1, length);
      const torch::Tensor all = got.unique_rows.index_select(0, got.index.flatten());
      wrong += torch::equal(all, values.index_select(0, torch::tensor(ids))) ? 0 : 1;
    }
  };
  std::thread other(read, 11);
  read(13);
  other.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ConstModelFromTwoThreads, EvaluationAndGenerationGiveTheNumbersOfOne) {
  const Tokenizer tokenizer = tiny_tokenizer();
  ModelConfig config = tiny_config(tokenizer);
  config.max_position_embeddings = 48;
  const TemporaryFolder folder;
  save_tiny(tiny_model(config), tokenizer, folder / "step");
  const auto load = [&] { return value_or_throw(load_model(Env::posix(), folder / "step")); };
  const std::string text = "One model, two readers: the second must not see what the first one does with it.";

  struct Numbers {
    double loss = 0;
    std::vector<int32_t> tokens;
    bool operator==(const Numbers&) const = default;
  };
  const auto read = [&](const LoadedModel& model, size_t start) {
    torch::set_num_threads(1);
    Numbers out;
    const std::string part = text.substr(start, 30);
    const std::vector<int32_t> ids = value_or_throw(model.tokenizer->encode(part));
    out.loss = value_or_throw(evaluate(model, ids, {}, std::ssize(part))).loss;
    GenerateOptions options;
    options.max_tokens = 12;
    out.tokens = value_or_throw(generate(model, part, options, [](std::string_view) { return true; }));
    return out;
  };
  Numbers wanted[2];
  {
    const LoadedModel alone = load();
    for (size_t i = 0; i < 2; ++i) wanted[i] = read(alone, i * 40);
  }
  for (int round = 0; round < 5; ++round) {
    const LoadedModel model = load();  // its tables of angles are not there yet
    Numbers got[2];
    std::thread other([&] { got[1] = read(model, 40); });
    got[0] = read(model, 0);
    other.join();
    EXPECT_EQ(got[0], wanted[0]) << round;
    EXPECT_EQ(got[1], wanted[1]) << round;
  }
}

}  // namespace
}  // namespace engram
