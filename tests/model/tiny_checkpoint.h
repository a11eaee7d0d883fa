// A checkpoint small enough to make in every test: byte tokenizer, random weights, random tables.
#pragma once
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <filesystem>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/hash/token_map.h"
#include "engram/model/io/checkpoint.h"
#include "engram/text/tokenizer.h"

namespace engram {

// A separate folder, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "engram_test_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline Tokenizer tiny_tokenizer(const std::vector<std::string>& special = {"<|endoftext|>"}) {
  return value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json(special), "tiny"));
}

inline ModelConfig tiny_config(const Tokenizer& tokenizer, MemoryKind memory = MemoryKind::kEngram) {
  ModelConfig c;
  c.vocab_size = tokenizer.vocab_size();
  c.hidden_size = 32;
  c.num_hidden_layers = 3;
  c.max_position_embeddings = 16;
  c.initializer_range = 0.2;  // large, so that predictions differ
  c.num_attention_heads = 2;
  c.intermediate_size = 48;
  c.moe_intermediate_size = 16;
  c.n_routed_experts = 5;
  c.shared_expert_intermediate_size = 16;
  c.residual = ResidualKind::kHyper;
  c.hc_mult = 2;
  c.memory = memory;
  c.engram.layer_ids = memory == MemoryKind::kOverEncoding ? std::vector<int>{0} : std::vector<int>{1, 2};
  c.engram.max_ngram_size = 3;
  c.engram.n_heads = 2;
  c.engram.head_dim = 8;
  c.engram.vocab_size = {50, 60};
  c.engram.pad_token_id = 0;
  c.engram.compressed_vocab_size = value_or_throw(TokenMap::from_tokenizer(tokenizer)).compressed_vocab_size();
  return c;
}

struct TinyModel {
  ModelConfig config;
  Transformer model{nullptr};
  std::vector<torch::Tensor> tables;

  std::vector<StreamedTensor> rows() const {
    std::vector<StreamedTensor> rows;
    for (const torch::Tensor& table : tables) rows.push_back(whole_tensor("rows", table));
    return rows;
  }
};

inline TinyModel tiny_model(const ModelConfig& config, uint64_t seed = 1) {
  torch::set_num_threads(1);  // hand-overs between threads cost more than a model of this size
  torch::manual_seed(seed);
  TinyModel out;
  out.config = config;
  out.model = Transformer(config);
  torch::NoGradGuard no_grad;
  for (auto& p : out.model->parameters()) p.add_(torch::randn_like(p) * 0.05);
  for (auto& b : out.model->buffers()) b.normal_(0.0, 0.01);
  if (config.memory != MemoryKind::kNone) {
    for (int64_t rows : value_or_throw(count_rows(config.engram))) {
      out.tables.push_back(torch::randn({rows, config.engram.head_dim}));
    }
  }
  return out;
}

inline void save_tiny(const TinyModel& tiny, const Tokenizer& tokenizer, const std::string& directory,
                      torch::Dtype dtype = torch::kFloat) {
  throw_if_error(save_model(Env::posix(), directory, make_checkpoint_config(tiny.config, tokenizer), tokenizer,
                            *tiny.model, tiny.rows(), dtype));
}

}  // namespace engram
