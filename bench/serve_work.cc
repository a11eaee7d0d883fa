#include "bench/serve_work.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "bench/process.h"
#include "engram/data/token_shard.h"
#include "engram/store/table_source.h"

namespace engram::bench {
namespace {

constexpr Scale kScales[] = {
    {"smoke", 64, 128, 4, 2, 16, {2, 4}, 6, 4, 20, 16, int64_t{4} << 20},
    {"cpu", 512, 1408, 8, 4, 64, {6, 13}, 10, 10, 102, 64, int64_t{512} << 20},
};

Result<Scale> find_scale(const std::string& name) {
  for (const Scale& scale : kScales) {
    if (name == scale.name) return scale;
  }
  return invalid_argument("--scale: got '{}', wanted smoke or cpu", name);
}

}  // namespace

std::vector<Job> Workload::jobs(bool real, int round, size_t count) const {
  std::mt19937_64 lengths(0), ids(static_cast<uint64_t>(round) * 2 + real);
  std::uniform_int_distribution<int> length(scale.shortest, scale.longest);
  std::vector<Job> out(count);
  for (Job& job : out) {
    const size_t prompt = static_cast<size_t>(length(lengths)), output = static_cast<size_t>(length(lengths));
    std::vector<int32_t> all(prompt + output);
    if (real) {
      const size_t start = ids() % (text.size() - all.size());
      std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(start), all.size(), all.begin());
    } else {
      for (int32_t& id : all) id = static_cast<int32_t>(ids() % static_cast<uint64_t>(tokenizer->vocab_size()));
    }
    job.prompt.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(prompt));
    job.output.assign(all.begin() + static_cast<std::ptrdiff_t>(prompt), all.end());
  }
  return out;
}

Result<Workload> read_workload(Env& env, const ServeBenchOptions& options) {
  Workload out;
  ENGRAM_ASSIGN_OR_RETURN(out.scale, find_scale(options.scale));
  for (const std::string& path : {options.tokenizer, options.tokens}) {
    if (!env.file_exists(path)) return not_found("{}: not there; scripts/corpus.sh makes it, or name another", path);
  }
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::load(env, options.tokenizer));
  out.tokenizer = std::make_shared<const Tokenizer>(std::move(tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(env, options.tokens));
  std::vector<int32_t> all(static_cast<size_t>(std::min<int64_t>(shard.info().num_tokens, 4'000'000)));
  shard.copy_tokens(0, all);
  if (all.size() < 16384) return invalid_argument("{}: got {} tokens, wanted 16384", options.tokens, all.size());
  // Of every four blocks the last is served: the shard's sources stand one behind the other.
  constexpr size_t kBlock = 4096;
  for (size_t begin = 0; begin < all.size(); begin += kBlock) {
    auto& to = begin / kBlock % 4 == 3 ? out.text : out.sample;
    const auto from = all.begin() + static_cast<std::ptrdiff_t>(begin);
    to.insert(to.end(), from, from + static_cast<std::ptrdiff_t>(std::min(kBlock, all.size() - begin)));
  }
  if (*std::max_element(all.begin(), all.end()) >= out.tokenizer->vocab_size()) {
    return invalid_argument("{}: ids beyond the vocabulary of {}", options.tokens, options.tokenizer);
  }
  return out;
}

ModelConfig backbone_config(const Workload& work, int blocks, const EngramConfig* engram) {
  const Scale& s = work.scale;
  ModelConfig c;
  c.vocab_size = work.tokenizer->vocab_size();
  c.hidden_size = s.hidden;
  c.num_hidden_layers = blocks;
  c.max_position_embeddings = 2 * s.longest;
  c.attention = AttentionKind::kGqa;
  c.num_attention_heads = s.heads;
  c.num_key_value_heads = s.kv_heads;
  c.head_dim = s.head_dim;
  c.ffn = FfnKind::kDense;
  c.intermediate_size = s.intermediate;
  c.memory = engram == nullptr ? MemoryKind::kNone : MemoryKind::kEngram;
  if (engram != nullptr) c.engram = *engram;
  return c;
}

Result<LoadedModel> make_model(Env& env, const Workload& work, const ModelConfig& config, const std::string& resident) {
  LoadedModel out;
  out.config = config;
  out.tokenizer = work.tokenizer;
  ENGRAM_ASSIGN_OR_RETURN(out.hashing, make_memory_hashing(config, *work.tokenizer));
  torch::manual_seed(0);
  out.model = Transformer(config);
  out.model->eval();
  if (resident.empty()) return out;
  ENGRAM_ASSIGN_OR_RETURN(const auto source, open_table_source(env, resident));
  const SourceTable& table = source->tables()[0];
  torch::Tensor rows = torch::empty({table.num_rows, table.format.width}, torch::kBFloat16);
  constexpr int64_t kRows = 1 << 16;
  std::vector<int64_t> ids;
  std::vector<float> values;
  for (int64_t first = 0; first < table.num_rows; first += kRows) {
    ids.resize(static_cast<size_t>(std::min(kRows, table.num_rows - first)));
    std::iota(ids.begin(), ids.end(), first);
    values.resize(ids.size() * static_cast<size_t>(table.format.width));
    ENGRAM_RETURN_IF_ERROR(source->read_values(0, ids, values));
    const auto count = static_cast<int64_t>(ids.size());
    rows.narrow(0, first, count).copy_(torch::from_blob(values.data(), {count, table.format.width}));
  }
  out.tables.push_back(std::make_unique<ResidentTable>(rows));
  return out;
}

namespace {

Status add_jobs(LLMEngine& engine, const std::vector<Job>& jobs, Status& failure) {
  for (size_t i = 0; i < jobs.size(); ++i) {
    GenerationRequest request;
    request.prompt = jobs[i].prompt;
    request.forced = jobs[i].output;
    request.sampling.max_tokens = static_cast<int>(jobs[i].output.size());
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    ENGRAM_RETURN_IF_ERROR(engine.check(request));
    engine.add(i, std::move(request), [&failure](const GenerationEvent& event) {
      if (event.finish == FinishReason::kError && failure.ok()) failure = event.error;
    });
  }
  return {};
}

}  // namespace

Result<std::vector<Measurement>> serve(std::span<LLMEngine* const> engines, const std::vector<Job>& jobs) {
  Status failure;
  std::vector<EngineMetrics> before;
  for (LLMEngine* engine : engines) {
    ENGRAM_RETURN_IF_ERROR(add_jobs(*engine, jobs, failure));
    before.push_back(engine->metrics());
  }
  std::vector<double> seconds(engines.size());
  const auto has_work = [](const LLMEngine* engine) { return engine->has_work(); };
  for (size_t first = 0; std::ranges::any_of(engines, has_work); ++first) {
    for (size_t turn = 0; turn < engines.size(); ++turn) {
      const size_t at = (first + turn) % engines.size();  // each step begins with another
      const double start = now_seconds();
      if (engines[at]->has_work()) engines[at]->step();
      seconds[at] += now_seconds() - start;
    }
  }
  ENGRAM_RETURN_IF_ERROR(failure);
  int64_t generated = 0, tokens = 0;
  for (const Job& job : jobs) {
    generated += static_cast<int64_t>(job.output.size());
    tokens += static_cast<int64_t>(job.prompt.size() + job.output.size());
  }
  std::vector<Measurement> out;
  for (size_t i = 0; i < engines.size(); ++i) {
    const EngineMetrics after = engines[i]->metrics();
    out.push_back({seconds[i], static_cast<double>(generated) / seconds[i],
                   (after.stall_seconds - before[i].stall_seconds) / seconds[i],
                   static_cast<double>(after.row_bytes - before[i].row_bytes) / static_cast<double>(tokens)});
  }
  return out;
}

}  // namespace engram::bench
