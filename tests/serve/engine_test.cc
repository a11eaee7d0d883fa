// The engine against generate()'s full recomputation: the same tokens for any batch, chunking, preemption and tier.
#include <torch/cuda.h>

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <future>
#include <map>

#include "engram/model/decode/generate.h"
#include "engram/serve/engine_thread.h"
#include "engram/store/import/table_tools.h"
#include "engram/store/tiers/overlay_store.h"
#include "tests/model/rules.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

constexpr int kContext = 96;

struct Outcome {
  std::vector<int32_t> tokens;
  std::string text;
  FinishReason finish = FinishReason::kNone;
  Status error;
  std::vector<TokenTrace> trace;
  std::vector<GenerationEvent> events;
};

class ServeEngine : public ::testing::Test {
 protected:
  ServeEngine() {
    const Tokenizer tokenizer = tiny_tokenizer();
    ModelConfig config = tiny_config(tokenizer);
    config.max_position_embeddings = kContext;
    make("step", config);
  }

  void make(const std::string& name, const ModelConfig& config) {
    save_tiny(tiny_model(config), tiny_tokenizer(), folder_ / name);
    model_ = value_or_throw(load_model(Env::posix(), folder_ / name));
  }

  // The model's tables as a row file.
  std::string row_file(RowType type = RowType::kFP32) {
    const std::string path = folder_ / fmt::format("{}.rows", row_type_name(type));
    const auto source = value_or_throw(open_table_source(Env::posix(), model_.directory));
    const RowFileInfo info = value_or_throw(plan_convert(*source, type));
    throw_if_error(convert_table(Env::posix(), *source, path, info, /*resume=*/false, nullptr));
    return path;
  }

  // One row a page, so that a page is a row that some texts have and others do not.
  std::string file_of_a_row_a_page() {
    ModelConfig c = model_.config;
    c.engram.head_dim = 1022;  // 4088 bytes in fp32
    make("wide", c);
    return row_file();
  }

  // Damages the page of the last row that the last of `tokens` has in the first layer. The page.
  int64_t damage(const std::string& file, const std::vector<int32_t>& before, const std::vector<int32_t>& tokens) {
    std::vector<int32_t> all = before;
    all.insert(all.end(), tokens.begin(), tokens.end());
    const int64_t row = value_or_throw(model_.hasher.hash(all)).layer(0).back();
    const RowFileInfo info = value_or_throw(RowFileReader::open(Env::posix(), file)).info();
    const int64_t page = info.tables[0].page_of(row);
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(page * kRowPageBytes + 100);
    bytes.put('\x5A').put('\x5A').put('\x5A');
    return page;
  }

  std::unique_ptr<LLMEngine> engine(EngineOptions options = {}) {
    return value_or_throw(LLMEngine::create(Env::posix(), model_, options));
  }

  GenerationRequest request(const std::string& prompt, int max_tokens) {
    GenerationRequest out;
    out.prompt = value_or_throw(model_.tokenizer->encode(prompt));
    out.sampling.max_tokens = max_tokens;
    out.sampling.temperature = 0;
    return out;
  }

  void add(LLMEngine& engine, uint64_t id, GenerationRequest request) {
    throw_if_error(engine.check(request));
    engine.add(id, std::move(request), [this, id](const GenerationEvent& event) {
      Outcome& out = outcomes_[id];
      EXPECT_EQ(out.finish, FinishReason::kNone) << "an event behind the last one";
      if (event.token >= 0) out.tokens.push_back(event.token);
      out.text += event.text;
      out.trace.insert(out.trace.end(), event.trace.begin(), event.trace.end());
      out.finish = event.finish;
      out.error = event.error;
      out.events.push_back(event);
    });
  }

  static void run(LLMEngine& engine) {
    for (int steps = 0; engine.has_work(); ++steps) {
      ASSERT_LT(steps, 20000);
      engine.step();
    }
  }

  std::vector<int32_t> reference(const std::string& prompt, int max_tokens, bool memory_off = false) {
    GenerateOptions options;
    options.max_tokens = max_tokens;
    options.sampler.temperature = 0;
    options.memory_off = memory_off;
    return value_or_throw(generate(model_, prompt, options, [](std::string_view) { return true; }));
  }

  // Sixteen prompts of all lengths, some with a common beginning, some with the memory off.
  void expect_reference(LLMEngine& engine) {
    std::map<uint64_t, std::vector<int32_t>> wanted;
    outcomes_.clear();
    for (uint64_t id = 1; id <= 16; ++id) {
      std::string prompt = id % 3 == 0 ? "The same long beginning of several prompts. " : "";
      for (uint64_t i = 0; i < 1 + id * 5 % 37; ++i) prompt += static_cast<char>('a' + (id * 7 + i * i) % 26);
      const int count = 3 + static_cast<int>(id * 11 % 14);
      const bool memory_off = id % 5 == 0;
      GenerationRequest r = request(prompt, count);
      r.memory_off = memory_off;
      wanted[id] = reference(prompt, count, memory_off);
      add(engine, id, std::move(r));
      if (id % 4 == 0) engine.step();  // others come while some run
    }
    run(engine);
    for (const auto& [id, tokens] : wanted) {
      EXPECT_EQ(outcomes_[id].tokens, tokens) << "request " << id;
      EXPECT_TRUE(outcomes_[id].error.ok()) << outcomes_[id].error.message();
    }
    EXPECT_EQ(engine.metrics().kv_blocks_used, 0);
    EXPECT_EQ(engine.metrics().running + engine.metrics().waiting, 0);
  }

  // Over the same model on a GPU. dtype fp32: the tokens must be generate()'s.
  void place(torch::Dtype dtype) { model_.model->place(torch::kCUDA, dtype); }

  static int64_t block_bytes(const ModelConfig& config, int64_t block_size) {
    return PagedCache::bytes_per_token(config) * block_size;
  }

  TemporaryFolder folder_;
  LoadedModel model_;
  std::map<uint64_t, Outcome> outcomes_;
};

TEST_F(ServeEngine, EqualsGenerateInOneBigBatch) { expect_reference(*engine()); }

TEST_F(ServeEngine, EqualsGenerateOneByOne) {
  EngineOptions options;
  options.scheduler = {.max_sequences = 1, .max_batched_tokens = 1};
  expect_reference(*engine(options));
}

TEST_F(ServeEngine, EqualsGenerateInChunksOfAnySize) {
  for (int64_t budget : {3, 7, 20}) {
    EngineOptions options;
    options.scheduler = {.max_sequences = 3, .max_batched_tokens = budget};
    options.block_size = 5;
    expect_reference(*engine(options));
  }
}

TEST_F(ServeEngine, EqualsGenerateUnderPreemption) {
  for (bool prefix_cache : {true, false}) {
    EngineOptions options;
    options.block_size = 4;
    options.kv_cache_bytes = block_bytes(model_.config, 4) * (kContext / 4 + 3);
    options.prefix_cache = prefix_cache;
    auto small = engine(options);
    expect_reference(*small);
    EXPECT_GT(small->metrics().preemptions, 0u);
  }
}

TEST_F(ServeEngine, EqualsGenerateWithDrafts) {
  uint64_t drafts = 0, accepted = 0;
  for (int64_t most : {1, 3, 8}) {
    for (bool tight : {false, true}) {
      EngineOptions options;
      options.block_size = 4;
      options.scheduler = {.max_sequences = 4, .max_batched_tokens = tight ? 6 : 64, .max_draft_tokens = most};
      if (tight) options.kv_cache_bytes = block_bytes(model_.config, 4) * (kContext / 4 + 3);
      auto drafting = engine(options);
      expect_reference(*drafting);
      drafts += drafting->metrics().draft_tokens;
      accepted += drafting->metrics().accepted_draft_tokens;
    }
  }
  EXPECT_GT(accepted, 0u);
  EXPECT_LT(accepted, drafts) << "wrong drafts were not tried";
}

// What repeats comes in fewer steps; one event a token, in order, as without drafts.
TEST_F(ServeEngine, DraftsSaveSteps) {
  GenerationRequest r = request("copy", 40);
  r.sampling.logprobs = 1;
  for (int i = 0; i < 40; ++i) r.forced.push_back(65 + i % 5);
  std::vector<GenerationEvent> events;
  uint64_t steps = 0;
  for (int64_t most : {0, 4}) {
    EngineOptions options;
    options.scheduler.max_draft_tokens = most;
    auto e = engine(options);
    outcomes_.clear();
    add(*e, 1, r);
    run(*e);
    ASSERT_EQ(outcomes_[1].tokens, r.forced);
    EXPECT_EQ(e->metrics().generated_tokens, 40u);
    if (most == 0) {
      events = outcomes_[1].events;
      steps = e->metrics().steps;
      EXPECT_EQ(e->metrics().draft_tokens, 0u);
      continue;
    }
    EXPECT_LT(e->metrics().steps, steps / 2);
    ASSERT_EQ(outcomes_[1].events.size(), events.size());
    for (size_t i = 0; i < events.size(); ++i) {
      const GenerationEvent& event = outcomes_[1].events[i];
      EXPECT_EQ(event.completion_tokens, static_cast<int64_t>(i) + 1);
      EXPECT_NEAR(event.logprob->logprob, events[i].logprob->logprob, 1e-4) << "token " << i;
    }
  }
}

TEST_F(ServeEngine, EqualsGenerateWithACachedPrefix) {
  EngineOptions options;
  options.block_size = 4;
  options.scheduler = {.max_sequences = 2, .max_batched_tokens = 16};
  auto caching = engine(options);
  expect_reference(*caching);
  EXPECT_GT(caching->metrics().cached_prompt_tokens, 0u);
  expect_reference(*caching);  // all prompts are known now
}

TEST_F(ServeEngine, EqualsGenerateOnAGpu) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no NVIDIA device";
  const std::string file = row_file();
  place(torch::kFloat);
  for (const std::string& table : {std::string("resident"), "dram:" + file, "nvme:" + file + "?cache=16KiB"}) {
    for (bool overlap : {true, false}) {
      EngineOptions options;
      options.tables = {table};
      options.overlap_reads = overlap;
      expect_reference(*engine(options));
    }
  }
}

// bf16 has other ties than fp32: what holds is that every request ends and that both ways to sample work.
TEST_F(ServeEngine, ServesInBf16OnAGpu) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no NVIDIA device";
  const std::string file = row_file(RowType::kFP8);
  place(torch::kBFloat16);
  EngineOptions options;
  options.tables = {"dram:" + file};
  auto served = engine(options);
  GenerationRequest logprobs = request("the other way to sample", 5);
  logprobs.sampling.logprobs = 2;
  logprobs.sampling.prompt_logprobs = 1;
  for (uint64_t id = 1; id <= 8; ++id) add(*served, id, request(std::string(id * 4, 'q'), 9));
  add(*served, 9, std::move(logprobs));
  run(*served);
  for (uint64_t id = 1; id <= 8; ++id) {
    EXPECT_EQ(outcomes_[id].tokens.size(), 9u) << outcomes_[id].error.message();
  }
  ASSERT_EQ(outcomes_[9].tokens.size(), 5u);
  const GenerationEvent& first = outcomes_[9].events[0];
  EXPECT_EQ(first.logprob->top.size(), 2u);
  EXPECT_EQ(first.logprob->top[0].token, outcomes_[9].tokens[0]);
  ASSERT_EQ(first.prompt_logprobs.size(), std::string("the other way to sample").size() - 1);
  for (const TokenScore& score : first.prompt_logprobs) {
    ASSERT_EQ(score.top.size(), 1u);
    EXPECT_LE(score.logprob, score.top[0].logprob);
  }
}

TEST_F(ServeEngine, EqualsGenerateWithTablesInAnyTier) {
  const std::string file = row_file();
  for (const std::string& uri :
       {"dram:" + file, "nvme:" + file, "pagecache:" + file + "?cache=16KiB", "mapped:" + file}) {
    for (bool overlap : {true, false}) {
      EngineOptions options;
      options.tables = {uri};
      options.overlap_reads = overlap;
      auto served = engine(options);
      expect_reference(*served);
      ASSERT_EQ(served->store_stats().size(), 2u);
      EXPECT_GT(served->store_stats()[0].second.rows, 0u) << uri;
    }
  }
}

// A long prompt runs in chunks: the rows of the next one are on their way into the cache while this one runs.
// A request's overlay is the same as a table with it in front; who does not ask for it sees the table.
TEST_F(ServeEngine, OverlaysAreOfTheRequestsThatNameThem) {
  const std::string file = row_file(), prompt = "the rows of this text";
  const RowFileReader table = value_or_throw(RowFileReader::open(Env::posix(), file));
  const auto edit = [&](const std::string& name, float value, std::vector<int64_t> ids) {
    Overlay overlay{folder_ / name, {}};
    std::ranges::sort(ids);
    ids.erase(std::ranges::unique(ids).begin(), ids.end());
    const std::vector<float> values(ids.size() * static_cast<size_t>(model_.config.engram.head_dim), value);
    throw_if_error(add_values(table, model_.config.engram.layer_ids[0], ids, values, overlay));
    throw_if_error(overlay.save(Env::posix(), table.info()));
    return overlay.path;
  };
  const auto tokens = value_or_throw(model_.tokenizer->encode(prompt));
  const RowIds rows = value_or_throw(model_.hasher.hash(tokens));
  const auto ids = rows.layer(0);
  const std::string all = edit("all", 3.0F, {ids.begin(), ids.end()}), some = edit("some", -2.0F, {ids[0], ids[5]});
  const auto traced = [&](LLMEngine& e, std::vector<std::vector<std::string>> overlays) {
    outcomes_.clear();
    for (uint64_t i = 0; i < overlays.size(); ++i) {
      GenerationRequest r = request(prompt, 12);
      r.trace = true;
      r.overlays = overlays[i];
      add(e, i, r);
    }
    run(e);
  };
  EngineOptions options;
  options.tables = {"dram:" + file + "?overlay=" + all};
  traced(*engine(options), {{}});
  const std::vector<int32_t> edited = outcomes_[0].tokens;
  const std::vector<float> edited_gates = outcomes_[0].trace[4].layers[0].gates;
  ASSERT_NE(edited, reference(prompt, 12));

  options.tables = {"dram:" + file};
  options.overlays = {{"all", all}, {"some", some}};
  auto e = engine(options);
  ASSERT_EQ(e->info().overlays.size(), 2u);
  EXPECT_EQ(e->info().overlays[1].rows, 2);
  EXPECT_EQ(e->info().overlays[1].bytes, 2 * 4 * model_.config.engram.head_dim);
  traced(*e, {{}, {"all"}, {"all", "some"}, {}});
  EXPECT_EQ(outcomes_[0].tokens, reference(prompt, 12));
  EXPECT_EQ(outcomes_[3].tokens, outcomes_[0].tokens);
  EXPECT_EQ(outcomes_[1].tokens, edited);
  for (size_t m = 0; m < 2; ++m)  // batches of other sizes round differently
    EXPECT_NEAR(outcomes_[1].trace[4].layers[0].gates[m], edited_gates[m], 1e-5);
  const auto& both = outcomes_[2].trace[0].layers[0];
  EXPECT_EQ(both.tiers[0], "overlay some");
  EXPECT_EQ(both.tiers[1], "overlay all");
  EXPECT_EQ(outcomes_[2].trace[0].layers[1].tiers[0], "dram");
  EXPECT_EQ(outcomes_[0].trace[0].layers[0].tiers[0], "dram");

  GenerationRequest unknown = request(prompt, 1);
  unknown.overlays = {"other"};
  EXPECT_NE(e->check(unknown).message().find("overlay: got 'other', wanted one that was loaded"), std::string::npos);
  options.tables = {};
  EXPECT_NE(LLMEngine::create(Env::posix(), model_, options).status().message().find("no table is in a row file"),
            std::string::npos);
}

TEST_F(ServeEngine, RowsOfTheNextChunkArePrefetched) {
  EngineOptions options;
  options.tables = {"nvme:" + row_file() + "?cache=64KiB"};
  options.scheduler = {.max_sequences = 4, .max_batched_tokens = 8};
  auto served = engine(options);
  expect_reference(*served);
  const PrefetchStats prefetch = served->store_stats()[0].second.prefetch;
  EXPECT_GT(prefetch.requested, 0u);
  EXPECT_GT(prefetch.used + prefetch.late, 0u) << "a hint that nobody followed";
  options.overlap_reads = false;  // reads nothing ahead
  served = engine(options);
  expect_reference(*served);
  EXPECT_EQ(served->store_stats()[0].second.prefetch.requested, 0u);
}

TEST_F(ServeEngine, PlacesLayersOneByOne) {
  EngineOptions options;
  options.tables = {"dram:" + row_file(), "2=resident"};
  auto served = engine(options);
  expect_reference(*served);
  ASSERT_EQ(served->store_stats().size(), 1u);
  EXPECT_EQ(served->store_stats()[0].first, 1);
}

TEST_F(ServeEngine, EqualsGenerateForOtherModels) {
  ModelConfig c = model_.config;
  c.attention = AttentionKind::kGqa;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 8;
  c.ffn = FfnKind::kDense;
  c.residual = ResidualKind::kPlain;
  c.hc_mult = 1;
  make("gqa", c);
  expect_reference(*engine());
  ModelConfig none = tiny_config(tiny_tokenizer(), MemoryKind::kNone);
  none.max_position_embeddings = kContext;
  make("none", none);
  expect_reference(*engine());
  ModelConfig over = tiny_config(tiny_tokenizer(), MemoryKind::kOverEncoding);
  over.max_position_embeddings = kContext;
  make("over", over);
  expect_reference(*engine());
}

// A row file of our own checkpoint carries the rule, and serves as the checkpoint does.
TEST_F(ServeEngine, EveryRuleIsServedFromItsRowFile) {
  ModelConfig base = model_.config;
  base.engram.layer_ids = {0, 2};
  make("engram", base);
  const std::string other = row_file(RowType::kBF16);
  for (const HashRule rule : {HashRule::kQwen4Exp, HashRule::kLongcat}) {
    ModelConfig c = with_rule(base, rule);
    c.engram.pad_token_id = tiny_tokenizer().encode("e")->front();  // so that prompts have texts that end
    make(hash_rule_name(rule), c);
    expect_reference(*engine());
    EngineOptions options;
    options.tables = {"nvme:" + row_file() + "?cache=16KiB"};
    EXPECT_EQ(value_or_throw(RowFileReader::open(Env::posix(), folder_ / "fp32.rows")).info().hash->config.rule, rule);
    expect_reference(*engine(options));
    options.tables = {"dram:" + other};
    const Status refused = LLMEngine::create(Env::posix(), model_, options).status();
    EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(refused.message().find(
                  fmt::format("rule: the row file has \"engram\", the model \"{}\"", hash_rule_name(rule))),
              std::string::npos)
        << refused.message();
    std::filesystem::remove(folder_ / "fp32.rows");
  }
}

TEST_F(ServeEngine, RefusesTablesThatAreNotTheModels) {
  const std::string file = row_file();
  ModelConfig c = model_.config;
  c.engram.vocab_size = {70, 80};
  make("other", c);
  EngineOptions options;
  options.tables = {"dram:" + file};
  const auto refused = LLMEngine::create(Env::posix(), model_, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("hashes tokens to other rows"), std::string::npos)
      << refused.status().message();
  options.tables = {"7=resident"};
  EXPECT_FALSE(LLMEngine::create(Env::posix(), model_, options).ok());
  options.tables = {"nowhere:" + file};
  EXPECT_FALSE(LLMEngine::create(Env::posix(), model_, options).ok());
}

TEST_F(ServeEngine, SamplesAsGenerateDoes) {
  GenerateOptions options;
  options.max_tokens = 20;
  options.sampler = {.temperature = 0.9, .top_k = 40, .top_p = 0.95, .seed = 17};
  const auto wanted = value_or_throw(generate(model_, "sampled", options, [](std::string_view) { return true; }));
  GenerationRequest r = request("sampled", 20);
  r.sampling.temperature = 0.9;
  r.sampling.top_k = 40;
  r.sampling.top_p = 0.95;
  r.sampling.seed = 17;
  for (int64_t drafts : {0, 4}) {
    EngineOptions with;
    with.scheduler.max_draft_tokens = drafts;
    auto e = engine(with);
    outcomes_.clear();
    add(*e, 1, r);
    add(*e, 2, r);
    run(*e);
    EXPECT_EQ(outcomes_[1].tokens, wanted);
    EXPECT_EQ(outcomes_[2].tokens, wanted) << "a seed belongs to a request";
  }
}

TEST_F(ServeEngine, StopsAtStringsAndLengths) {
  auto e = engine();
  add(*e, 1, request("stop here", 12));
  run(*e);
  const Outcome whole = outcomes_[1];
  EXPECT_EQ(whole.finish, FinishReason::kLength);
  ASSERT_EQ(whole.tokens.size(), 12u);
  ASSERT_GE(whole.text.size(), 3u);
  GenerationRequest r = request("stop here", 12);
  const std::string stop = whole.text.substr(whole.text.size() / 2, 1);
  r.sampling.stop = {stop};
  add(*e, 2, r);
  run(*e);
  EXPECT_EQ(outcomes_[2].finish, FinishReason::kStop);
  EXPECT_EQ(outcomes_[2].text, whole.text.substr(0, whole.text.find(stop)));
}

TEST_F(ServeEngine, ForcedTokensAreTaken) {
  auto e = engine();
  GenerationRequest r = request("forced", 5);
  r.forced = {65, 66, 67};
  add(*e, 1, r);
  run(*e);
  ASSERT_EQ(outcomes_[1].tokens.size(), 5u);
  EXPECT_EQ(std::vector<int32_t>(outcomes_[1].tokens.begin(), outcomes_[1].tokens.begin() + 3), r.forced);
  r.forced = {model_.config.vocab_size};
  EXPECT_FALSE(e->check(r).ok());
}

TEST_F(ServeEngine, LogProbabilitiesAreTheModels) {
  auto e = engine();
  GenerationRequest r = request("how likely", 4);
  r.sampling.logprobs = kMaxLogprobs;
  add(*e, 1, r);
  run(*e);
  for (const GenerationEvent& event : outcomes_[1].events) {
    ASSERT_TRUE(event.logprob.has_value());
    EXPECT_EQ(event.logprob->top[0].token, event.token) << "greedy takes the likeliest";
    EXPECT_EQ(event.logprob->top[0].logprob, event.logprob->logprob);
    double total = 0;
    for (const TokenLogprob& top : event.logprob->top) total += std::exp(top.logprob);
    EXPECT_LE(total, 1.0001);
    EXPECT_GT(total, 0.05);
  }
  // The first one against the model's own forward pass.
  const torch::InferenceMode inference;
  Transformer model = model_.model;
  const auto input = model_.prepare_input(r.prompt, 1, static_cast<int64_t>(r.prompt.size()));
  const torch::Tensor logits = model->logits(model->forward(input))[0][-1].log_softmax(-1);
  EXPECT_NEAR(outcomes_[1].events[0].logprob->logprob, logits[outcomes_[1].tokens[0]].item<float>(), 1e-4);
}

// Whatever the steps: whole, in chunks, preempted, behind a request that left the same prompt in the prefix cache.
TEST_F(ServeEngine, LogProbabilitiesOfPromptsAreTheModels) {
  const torch::InferenceMode inference;
  Transformer model = model_.model;
  const std::string begin = "The same beginning of them all, a page or two. ";
  for (const int64_t budget : {3, 8, 512}) {
    EngineOptions options;
    options.block_size = 4;
    options.scheduler = {.max_sequences = 3, .max_batched_tokens = budget, .max_draft_tokens = 2};
    if (budget == 8) options.kv_cache_bytes = block_bytes(model_.config, 4) * (kContext / 4 + 3);
    auto e = engine(options);
    outcomes_.clear();
    add(*e, 1, request(begin, 2));
    run(*e);
    std::map<uint64_t, GenerationRequest> asked;
    for (uint64_t id = 2; id <= 7; ++id) {
      GenerationRequest r = request(begin + std::string(id, 'x'), id % 3 == 0 ? 0 : 20);
      r.sampling.prompt_logprobs = static_cast<int>(id % 3);
      r.memory_off = id == 5;
      asked[id] = r;
      add(*e, id, std::move(r));
    }
    add(*e, 8, request(begin + "and of one without", 9));
    run(*e);
    EXPECT_EQ(e->metrics().preemptions > 0, budget == 8);
    for (const auto& [id, r] : asked) {
      const auto length = static_cast<int64_t>(r.prompt.size());
      const auto input = model_.prepare_input(r.prompt, 1, length, {}, r.memory_off);
      const torch::Tensor wanted = model->logits(model->forward(input))[0].log_softmax(-1);
      const std::vector<TokenScore>& scores = outcomes_[id].events.at(0).prompt_logprobs;
      ASSERT_EQ(std::ssize(scores), length - 1) << id;
      for (int64_t t = 0; t + 1 < length; ++t) {
        const TokenScore& score = scores[static_cast<size_t>(t)];
        EXPECT_EQ(score.token, r.prompt[static_cast<size_t>(t + 1)]);
        EXPECT_NEAR(score.logprob, wanted[t][score.token].item<float>(), 1e-4);
        ASSERT_EQ(std::ssize(score.top), r.sampling.prompt_logprobs);
        for (const TokenLogprob& top : score.top) EXPECT_NEAR(top.logprob, wanted[t][top.token].item<float>(), 1e-4);
        for (size_t k = 0; k < score.top.size(); ++k) {
          EXPECT_NEAR(score.top[k].logprob, std::get<0>(wanted[t].topk(2))[static_cast<int64_t>(k)].item<float>(),
                      1e-4);
        }
      }
      EXPECT_EQ(outcomes_[id].tokens.size(), static_cast<size_t>(r.sampling.max_tokens));
      EXPECT_EQ(outcomes_[id].events.size(), std::max<size_t>(outcomes_[id].tokens.size(), 1));
      EXPECT_EQ(outcomes_[id].finish, FinishReason::kLength);
    }
    EXPECT_EQ(e->metrics().kv_blocks_used, 0);
  }
}

TEST_F(ServeEngine, BiasDecidesAndLogProbabilitiesStay) {
  auto e = engine();
  GenerationRequest r = request("bias", 6);
  r.sampling.logprobs = 0;
  add(*e, 1, r);
  r.sampling.logit_bias = {{77, 100.0F}};
  add(*e, 2, r);
  run(*e);
  for (const GenerationEvent& event : outcomes_[2].events) {
    EXPECT_EQ(event.token, 77);
    EXPECT_LT(event.logprob->logprob, outcomes_[1].events[0].logprob->logprob) << "the model's own";
  }
  r.sampling.logit_bias = {{model_.config.vocab_size, 1.0F}};
  EXPECT_FALSE(e->check(r).ok());
  r.sampling.logit_bias = {{1, INFINITY}};
  EXPECT_FALSE(e->check(r).ok());
}

TEST_F(ServeEngine, PenaltiesKeepTokensFromComingBack) {
  auto e = engine();
  GenerationRequest r = request("again and again", 30);
  r.sampling.penalties.frequency = 2;
  r.sampling.penalties.presence = 2;
  r.sampling.penalties.repetition = 5;
  add(*e, 1, r);
  add(*e, 2, request("again and again", 30));
  run(*e);
  const auto distinct = [](const std::vector<int32_t>& t) { return std::set<int32_t>(t.begin(), t.end()).size(); };
  EXPECT_GT(distinct(outcomes_[1].tokens), distinct(outcomes_[2].tokens));
}

TEST_F(ServeEngine, CancelFreesThePages) {
  auto e = engine();
  add(*e, 1, request("one that is cancelled", 60));
  add(*e, 2, request("one that goes on", 5));
  for (int i = 0; i < 3; ++i) e->step();
  e->cancel(1);
  e->cancel(99);
  EXPECT_EQ(outcomes_[1].finish, FinishReason::kCancelled);
  run(*e);
  EXPECT_EQ(outcomes_[2].tokens, reference("one that goes on", 5));
  EXPECT_EQ(e->metrics().kv_blocks_used, 0);
  EXPECT_EQ(e->metrics().cancelled, 1u);
}

TEST_F(ServeEngine, RefusesWhatCannotBeServed) {
  auto e = engine();
  const auto refused = [&](GenerationRequest r) { return e->check(r).code() == StatusCode::kInvalidArgument; };
  EXPECT_TRUE(e->check(request("fine", kContext - 4)).ok());
  EXPECT_TRUE(refused(request("fine", kContext - 3)));
  GenerationRequest r = request("x", 1);
  r.prompt.clear();
  EXPECT_TRUE(refused(r));
  r.prompt = {model_.config.vocab_size};
  EXPECT_TRUE(refused(r));
  r.prompt = {-1};
  EXPECT_TRUE(refused(r));
  r = request("x", 1);
  r.sampling.top_p = 0;
  EXPECT_TRUE(refused(r));
  r = request("x", -1);
  EXPECT_TRUE(refused(r));
}

// Damage in the middle of decoding: requests that need the page fail, with its name, the others go on.
TEST_F(ServeEngine, ADamagedPageFailsOnlyThoseWhoNeedIt) {
  const std::string file = file_of_a_row_a_page();
  EngineOptions options;
  options.tables = {"nvme:" + file};
  auto whole = engine(options);
  std::vector<std::vector<int32_t>> wanted;
  for (uint64_t id = 0; id < 6; ++id) add(*whole, id, request(std::string(1, static_cast<char>('a' + id * 3)), 3));
  run(*whole);
  for (uint64_t id = 0; id < 6; ++id) wanted.push_back(outcomes_[id].tokens);

  const std::vector<int32_t> prompt = request("a", 1).prompt;
  const int64_t page = damage(file, {}, prompt);

  outcomes_.clear();
  auto damaged = engine(options);
  for (uint64_t id = 0; id < 6; ++id) add(*damaged, id, request(std::string(1, static_cast<char>('a' + id * 3)), 3));
  run(*damaged);
  EXPECT_EQ(outcomes_[0].finish, FinishReason::kError);
  EXPECT_EQ(outcomes_[0].error.code(), StatusCode::kDataLoss);
  EXPECT_NE(outcomes_[0].error.message().find(fmt::format("page {}", page)), std::string::npos)
      << outcomes_[0].error.message();
  int survivors = 0;
  for (uint64_t id = 1; id < 6; ++id) {
    if (outcomes_[id].finish == FinishReason::kError) continue;  // hashed to the same row
    ++survivors;
    EXPECT_EQ(outcomes_[id].tokens, wanted[id]) << "request " << id;
  }
  EXPECT_GT(survivors, 2);
  EXPECT_TRUE(whole->health().ok());
  EXPECT_EQ(damaged->health().code(), StatusCode::kDataLoss) << "what /health says of it";
  EXPECT_EQ(damaged->metrics().kv_blocks_used, 0);
}

// A draft needs a row that cannot be read: nobody has asked for that token, so the request goes on without drafts.
TEST_F(ServeEngine, ADamagedPageOfADraftFailsNobody) {
  const std::string file = file_of_a_row_a_page();
  EngineOptions options;
  options.tables = {"nvme:" + file};
  options.block_size = 4;
  options.scheduler.max_draft_tokens = 3;
  auto e = engine(options);
  GenerationRequest first = request("", 1);
  first.prompt = {31, 32, 33, 34, 35, 36, 37, 38, 39};
  add(*e, 1, first);
  run(*e);
  damage(file, {31, 32}, {33});
  GenerationRequest next = first;  // its beginning is in the prefix cache; 31 32 brings up the draft 33
  next.prompt.push_back(31);
  next.forced = {32, 45, 46};
  next.sampling.max_tokens = 3;
  add(*e, 2, next);
  run(*e);
  EXPECT_EQ(outcomes_[2].finish, FinishReason::kLength) << outcomes_[2].error.message();
  EXPECT_EQ(outcomes_[2].tokens, next.forced);
  EXPECT_EQ(e->metrics().steps, 1u + 3 + 1) << "one step was in vain";
  next.forced = {32, 33, 46};  // this one asks for it
  add(*e, 3, next);
  run(*e);
  EXPECT_EQ(outcomes_[3].finish, FinishReason::kError);
  EXPECT_EQ(e->metrics().kv_blocks_used, 0);
}

TEST_F(ServeEngine, TracesGatesAndRows) {
  const std::string file = row_file();
  EngineOptions options;
  options.tables = {"dram:" + file};
  options.scheduler = {.max_sequences = 2, .max_batched_tokens = 4};
  auto e = engine(options);
  GenerationRequest r = request("what did the memory do", 4);
  r.trace = true;
  add(*e, 1, r);
  add(*e, 2, request("beside it", 9));
  run(*e);
  const std::vector<TokenTrace>& trace = outcomes_[1].trace;
  std::vector<int32_t> tokens = r.prompt;
  tokens.insert(tokens.end(), outcomes_[1].tokens.begin(), outcomes_[1].tokens.end() - 1);
  ASSERT_EQ(trace.size(), tokens.size()) << "every token that ran, in order";

  const torch::InferenceMode inference;
  Transformer model = model_.model;
  ForwardTrace whole;
  model->forward(model_.prepare_input(tokens, 1, static_cast<int64_t>(tokens.size())), &whole);
  for (size_t t = 0; t < trace.size(); ++t) {
    EXPECT_EQ(trace[t].token, tokens[t]);
    ASSERT_EQ(trace[t].layers.size(), 2u);
    for (size_t layer = 0; layer < 2; ++layer) {
      const LayerTrace& got = trace[t].layers[layer];
      EXPECT_EQ(got.layer_id, model_.config.engram.layer_ids[layer]);
      ASSERT_EQ(got.gates.size(), 2u);
      ASSERT_EQ(got.row_ids.size(), 4u);
      EXPECT_EQ(got.tiers, std::vector<std::string>(4, "dram"));
      for (size_t m = 0; m < 2; ++m) {
        const float wanted = whole.gates[layer][0][static_cast<int64_t>(t)][static_cast<int64_t>(m)].item<float>();
        EXPECT_NEAR(got.gates[m], wanted, 1e-4) << "token " << t << ", layer " << layer << ", stream " << m;
      }
    }
  }
}

TEST_F(ServeEngine, LossyRowsStillServe) {
  for (RowType type : {RowType::kBF16, RowType::kFP8, RowType::kInt8, RowType::kInt4}) {
    EngineOptions options;
    options.tables = {"dram:" + row_file(type)};
    auto e = engine(options);
    outcomes_.clear();
    add(*e, 1, request("rounded rows", 5));
    run(*e);
    EXPECT_EQ(outcomes_[1].tokens.size(), 5u) << row_type_name(type);
  }
}

TEST_F(ServeEngine, TooSmallACacheIsRefused) {
  EngineOptions options;
  options.kv_cache_bytes = block_bytes(model_.config, 16) * 3;
  const auto refused = LLMEngine::create(Env::posix(), model_, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
}

// ---- the engine's thread ----

TEST_F(ServeEngine, ThreadServesManyClients) {
  const std::vector<int32_t> wanted = reference("many clients", 8);
  EngineThread thread(engine());
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int client = 0; client < 6; ++client) {
    clients.emplace_back([&] {
      for (int i = 0; i < 5; ++i) {
        std::promise<std::vector<int32_t>> done;
        std::vector<int32_t> tokens;
        const auto id = thread.submit(request("many clients", 8), [&](const GenerationEvent& event) {
          if (event.token >= 0) tokens.push_back(event.token);
          if (event.finish != FinishReason::kNone) done.set_value(tokens);
        });
        ASSERT_TRUE(id.ok());
        right += done.get_future().get() == wanted;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 30);
  thread.drain();
  EXPECT_EQ(thread.metrics().finished, 30u);
  EXPECT_EQ(thread.submit(request("x", 1), {}).status().code(), StatusCode::kUnavailable);
}

TEST_F(ServeEngine, ThreadCancelsAndBoundsItsQueue) {
  EngineOptions options;
  options.max_waiting = 2;
  options.scheduler = {.max_sequences = 1, .max_batched_tokens = 1};
  EngineThread thread(engine(options));
  std::promise<FinishReason> ended;
  const auto first = thread.submit(request("a", kContext - 1), [&](const GenerationEvent& event) {
    if (event.finish != FinishReason::kNone) ended.set_value(event.finish);
  });
  ASSERT_TRUE(first.ok());
  int refused = 0;
  for (int i = 0; i < 8; ++i) {
    refused += thread.submit(request("b", kContext - 1), {}).status().code() == StatusCode::kResourceExhausted;
  }
  EXPECT_GE(refused, 5);
  thread.cancel(*first);
  const FinishReason reason = ended.get_future().get();
  EXPECT_TRUE(reason == FinishReason::kCancelled || reason == FinishReason::kLength);
  EXPECT_FALSE(thread.submit(request("b", kContext), {}).ok());
}  // the destructor cancels what is left

}  // namespace
}  // namespace engram
