// step() over pages against forward() over whole sequences, for every kind of backbone and memory and random chunks.
#include <gtest/gtest.h>

#include <random>

#include "engram/model/paged/paged_ops.h"
#include "engram/model/transformer.h"
#include "tests/model/rules.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

constexpr int64_t kBlockSize = 3, kNumBlocks = 40;

ModelConfig long_config(MemoryKind memory = MemoryKind::kEngram) {
  ModelConfig c = tiny_config(tiny_tokenizer(), memory);
  c.max_position_embeddings = 40;
  return c;
}

// Sequences of one model, run whole and in steps. Pages are handed out in random order.
class Bench {
 public:
  Bench(const ModelConfig& config, uint64_t seed) : tiny_(tiny_model(config, seed)), engine_(seed) {
    tiny_.model->eval();
    for (torch::Tensor& table : tiny_.tables) tables_.push_back(std::make_unique<ResidentTable>(table));
    for (int32_t i = 0; i < kNumBlocks; ++i) free_.push_back(i);
    std::shuffle(free_.begin(), free_.end(), engine_);
    for (int64_t length : {17, 1, 30, 8}) add(length, /*memory_off=*/false);
    add(12, /*memory_off=*/true);
  }

  void expect_equal(double tolerance) {
    PagedCache cache(tiny_.config, kNumBlocks, kBlockSize);
    std::vector<torch::Tensor> got(sequences_.size());
    while (true) {
      std::vector<StepSequence> parts;
      std::vector<size_t> who;
      for (size_t i = 0; i < sequences_.size(); ++i) {
        const int64_t left = sequences_[i].length - sequences_[i].done;
        if (left == 0 || engine_() % 3 == 0) continue;
        const int64_t count = engine_() % 2 == 0 ? 1 : std::min<int64_t>(left, 1 + engine_() % 9);
        parts.push_back({sequences_[i].done, count, sequences_[i].blocks, sequences_[i].memory_off});
        who.push_back(i);
      }
      if (parts.empty()) {
        if (done()) break;
        continue;
      }
      const torch::Tensor hidden = run(PagedStep(parts, kBlockSize), who, cache);
      int64_t at = 0;
      for (size_t p = 0; p < parts.size(); ++p) {
        torch::Tensor& whole = got[who[p]];
        const torch::Tensor part = hidden.narrow(0, at, parts[p].count);
        whole = whole.defined() ? torch::cat({whole, part}) : part;
        at += parts[p].count;
        sequences_[who[p]].done += parts[p].count;
      }
    }
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const torch::Tensor wanted = whole(sequences_[i]);
      const double worst = (got[i] - wanted).abs().max().item<double>();
      EXPECT_LT(worst, tolerance * (1 + wanted.abs().max().item<double>())) << "sequence " << i;
    }
  }

 private:
  struct Sequence {
    int64_t length = 0, done = 0;
    bool memory_off = false;
    torch::Tensor tokens;                // [T]
    std::vector<torch::Tensor> row_ids;  // per layer [T, R]
    std::vector<int32_t> blocks;
  };

  void add(int64_t length, bool memory_off) {
    Sequence s;
    s.length = length;
    s.memory_off = memory_off;
    s.tokens = torch::randint(0, tiny_.config.vocab_size, {length}, torch::kLong);
    for (const torch::Tensor& table : tiny_.tables) {
      s.row_ids.push_back(torch::randint(0, table.size(0), {length, tiny_.config.rows_per_token()}, torch::kLong));
    }
    for (int64_t i = 0; i < (length + kBlockSize - 1) / kBlockSize; ++i) {
      s.blocks.push_back(free_.back());
      free_.pop_back();
    }
    sequences_.push_back(std::move(s));
  }

  bool done() const {
    return std::all_of(sequences_.begin(), sequences_.end(), [](const Sequence& s) { return s.done == s.length; });
  }

  torch::Tensor whole(const Sequence& s) {
    const torch::InferenceMode inference;
    ForwardInput input;
    input.tokens = s.tokens.unsqueeze(0);
    input.memory_off = s.memory_off;
    for (size_t layer = 0; layer < tables_.size() && !s.memory_off; ++layer) {
      const torch::Tensor& ids = s.row_ids[layer];
      input.memory.push_back(
          tables_[layer]->gather({ids.const_data_ptr<int64_t>(), static_cast<size_t>(ids.numel())}, 1, s.length));
    }
    return tiny_.model->forward(input).squeeze(0);
  }

  torch::Tensor run(const PagedStep& step, const std::vector<size_t>& who, PagedCache& cache) {
    std::vector<torch::Tensor> tokens;
    const auto part = [&](size_t p, const torch::Tensor& of) {
      return of.narrow(0, step.sequences()[p].position, step.sequences()[p].count);
    };
    for (size_t p = 0; p < who.size(); ++p) tokens.push_back(part(p, sequences_[who[p]].tokens));
    StepInput input;
    input.tokens = torch::cat(tokens);
    input.step = &step;
    input.cache = &cache;
    input.memory = [&](int layer) {
      std::vector<torch::Tensor> ids;
      for (size_t p = 0; p < who.size(); ++p)
        ids.push_back(part(p, sequences_[who[p]].row_ids[static_cast<size_t>(layer)]));
      return torch::embedding(tiny_.tables[static_cast<size_t>(layer)], torch::cat(ids)).view({step.num_tokens(), -1});
    };
    return tiny_.model->step(input);
  }

  TinyModel tiny_;
  std::mt19937_64 engine_;
  std::vector<std::unique_ptr<ResidentTable>> tables_;
  std::vector<int32_t> free_;
  std::vector<Sequence> sequences_;
};

void expect_step_equals_forward(const ModelConfig& config) {
  for (uint64_t seed : {1, 2, 3}) Bench(config, seed).expect_equal(5e-5);
}

TEST(PagedStep, EqualsForwardWithMlaMoeAndHyperConnections) { expect_step_equals_forward(long_config()); }

TEST(PagedStep, EqualsForwardWithQueryLoraAndYarn) {
  ModelConfig c = long_config();
  c.q_lora_rank = 12;
  c.rope_scaling.factor = 4;
  expect_step_equals_forward(c);
}

TEST(PagedStep, EqualsForwardWithGqaAndDenseBlocks) {
  ModelConfig c = long_config();
  c.attention = AttentionKind::kGqa;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 10;
  c.ffn = FfnKind::kDense;
  c.residual = ResidualKind::kPlain;
  c.hc_mult = 1;
  expect_step_equals_forward(c);
}

TEST(PagedStep, EqualsForwardInTheAblations) {
  ModelConfig c = long_config();
  c.engram_branch_gates = false;
  expect_step_equals_forward(c);
  c = long_config();
  c.engram_conv = false;
  expect_step_equals_forward(c);
  c = long_config();
  c.engram_gate = false;
  c.engram_proj_bias = true;
  expect_step_equals_forward(c);
}

TEST(PagedStep, EqualsForwardWithOtherMemories) {
  expect_step_equals_forward(long_config(MemoryKind::kNone));
  expect_step_equals_forward(long_config(MemoryKind::kOverEncoding));
  expect_step_equals_forward(with_rule(long_config(), HashRule::kQwen4Exp));
  expect_step_equals_forward(with_rule(long_config(), HashRule::kLongcat));
  expect_step_equals_forward(with_rule(long_config(), HashRule::kLongcat, /*average_word=*/false));
}

// The kernels against the same operators composed of libtorch's.
TEST(PagedOps, KernelsEqualTheComposedForm) {
  torch::manual_seed(3);
  const PagedStep step({{7, 2, {3, 0, 5}, false}, {0, 4, {1, 2}, true}, {2, 1, {4}, false}}, 3);
  const int64_t n = step.num_tokens();
  PagedHeads heads{.heads = 6, .kv_heads = 2, .key_width = 5, .value_width = 4, .key_at = 1, .value_at = 12};
  heads.scale = 0.3;
  const torch::Tensor query = torch::randn({n, 30}), cache = torch::randn({18, 21});
  EXPECT_TRUE(torch::allclose(attend_paged(query, cache, step, heads), attend_paged_plain(query, cache, step, heads),
                              1e-5, 1e-6));

  const int64_t streams = 2, dim = 7;
  const torch::Tensor hidden = torch::randn({n, streams, dim}), projected = torch::randn({n, (streams + 1) * dim});
  const auto norm = [&] { return torch::rand({streams, dim}) + 0.5; };
  const torch::Tensor q = norm(), k = norm(), c = norm(), conv = torch::randn({streams * dim, 4});
  torch::Tensor pages = torch::randn({18, dim + 2 * streams}).abs(), same = pages.clone();
  EngramFuseOptions options;
  options.dilation = 2;
  const auto [y, gates] = engram_fuse_paged(hidden, projected, q, k, c, conv, fold_taps(c, conv), step, pages, options);
  const auto [y2, gates2] = engram_fuse_paged_plain(hidden, projected, q, k, c, conv, step, same, options);
  EXPECT_TRUE(torch::allclose(y, y2, 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(gates, gates2, 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(pages, same, 1e-4, 1e-5));
  EXPECT_EQ(y.narrow(0, 2, 4).abs().max().item<float>(), 0.0f) << "tokens without memory add nothing";
}

TEST(PagedStep, KeySlotsAreThoseOfEveryToken) {
  const PagedStep step({{4, 2, {7, 1}, false}, {0, 1, {3, 9}, false}, {5, 4, {0, 8, 2}, false}}, 3);
  std::vector<int64_t> wanted;
  for (size_t i = 0; i < step.sequences().size(); ++i) {
    const int64_t length = step.sequences()[i].position + step.sequences()[i].count;
    for (int64_t position = 0; position < length; ++position) wanted.push_back(step.slot_of(i, position));
  }
  EXPECT_TRUE(torch::equal(step.key_slots(), torch::tensor(wanted, torch::kLong)));
}

TEST(PagedStep, RefusesTokensBeyondTheirBlocks) {
  EXPECT_THROW(PagedStep({{4, 3, {0, 1}, false}}, 3), c10::Error);
  EXPECT_THROW(PagedStep({}, 3), c10::Error);
  EXPECT_THROW(PagedStep({{0, 0, {0}, false}}, 3), c10::Error);
}

}  // namespace
}  // namespace engram
