// What probe tests share: a tiny checkpoint loaded from disk, a text file for it, and a context around them.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engram/lab/probes/probes.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {

inline std::string tiny_text(int repeats = 30) {
  std::string text;
  for (int i = 0; i < repeats; ++i) {
    text += "The capital of France is Paris. Peter the Great ruled Russia, and by the way " + std::to_string(i * 7919) +
            " people saw the Milky Way in New York. ";
  }
  return text;
}

// One folder with checkpoints and a text; everything is removed at the end.
class ProbeTest : public testing::Test {
 protected:
  void SetUp() override {
    throw_if_error(write_file_atomic(Env::posix(), folder_ / "text.txt", tiny_text()));
    options_.text = options_.train_text = folder_ / "text.txt";
    options_.output = folder_ / "out";
    options_.command = "test";
    options_.samples = 4;
  }
  // Saves a checkpoint and returns its path. zero_rows: every table row is 0.
  std::string save(const std::string& name, MemoryKind memory, uint64_t seed = 1, bool zero_rows = false) {
    const Tokenizer tokenizer = tiny_tokenizer();
    ModelConfig config = tiny_config(tokenizer, memory);
    config.max_position_embeddings = window_;
    TinyModel tiny = tiny_model(config, seed);
    if (zero_rows) {
      for (torch::Tensor& rows : tiny.tables) rows.zero_();
    }
    save_tiny(tiny, tokenizer, folder_ / name);
    return folder_ / name;
  }
  LoadedModel load(const std::string& name, MemoryKind memory, uint64_t seed = 1, bool zero_rows = false) {
    return value_or_throw(load_model(Env::posix(), save(name, memory, seed, zero_rows)));
  }
  // Runs a probe of the table over the checkpoints.
  Result<nlohmann::ordered_json> run(const char* probe, std::vector<std::string> checkpoints) {
    options_.checkpoints = std::move(checkpoints);
    return run_probe(Env::posix(), *find_probe(probe), options_, nullptr);
  }

  int window_ = 16;  // tokens that saved models read
  TemporaryFolder folder_;
  ProbeOptions options_;
};

}  // namespace engram
