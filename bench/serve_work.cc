#include "bench/serve_work.h"

#include <torch/cuda.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "bench/process.h"
#include "engram/data/token_shard.h"
#include "engram/store/import/table_source.h"

namespace engram::bench {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20, kGiB = int64_t{1} << 30;

// The gpu backbones have the shapes of Qwen3-4B and Qwen3-8B; the table has 100B parameters in fp8. A token of the
// paper's 4B model has 8 GFLOP for its rows, one of the cpu backbones 79 and 156 MFLOP, of cpu-small 38 and 79.
constexpr Scale kScales[] = {
    {"smoke", "cpu", {{64, 128, 4, 2, 16, 2}, {64, 128, 4, 2, 16, 4}}, 6, 6, 4, 20, 16, 4 * kMiB, kGiB},
    {"cpu", "cpu", {{512, 1408, 8, 4, 64, 13}, {512, 1408, 8, 4, 64, 26}}, 10, 8, 10, 102, 64, 512 * kMiB, kGiB},
    {"cpu-small", "cpu", {{512, 1408, 8, 4, 64, 6}, {512, 1408, 8, 4, 64, 13}}, 10, 10, 10, 102, 64, 512 * kMiB, kGiB},
    {"gpu",
     "cuda",
     {{2560, 9728, 32, 8, 128, 36}, {4096, 12288, 32, 8, 128, 36}},
     512,
     128,
     100,
     1024,
     256,
     103'300'000'000,
     20 * kGiB},
    {"gpu-smoke", "cuda", {{256, 512, 4, 2, 64, 2}, {256, 512, 4, 2, 64, 4}}, 16, 8, 10, 102, 64, 64 * kMiB, kGiB},
};

Result<Scale> find_scale(const std::string& name) {
  std::string known;
  for (const Scale& scale : kScales) {
    if (name == scale.name) return scale;
    known += std::string(" ") + scale.name;
  }
  return invalid_argument("--scale: got '{}', wanted one of{}", name, known);
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
  if (options.sequences > 0) out.scale.sequences = options.sequences;
  if (options.table_bytes > 0) out.scale.table_bytes = options.table_bytes;
  if (out.scale.on_gpu() && !torch::cuda::is_available()) {
    return Status(StatusCode::kFailedPrecondition,
                  fmt::format("--scale {}: no NVIDIA device is usable by this program", options.scale));
  }
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

ModelConfig backbone_config(const Workload& work, const BackboneShape& s, const EngramConfig* engram) {
  ModelConfig c;
  c.vocab_size = work.tokenizer->vocab_size();
  c.hidden_size = s.hidden;
  c.num_hidden_layers = s.blocks;
  c.max_position_embeddings = 2 * work.scale.longest;
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

namespace {

// Billions of weights are drawn where they stay.
Transformer make_on_gpu(ModelConfig config) {
  const torch::NoGradGuard no_grad;
  const double std = config.initializer_range;
  config.initializer_range = 0;
  Transformer model(config);
  const auto bf16 = torch::TensorOptions().device(torch::kCUDA).dtype(torch::kBFloat16);
  for (auto& named : model->named_parameters()) {
    torch::Tensor& parameter = named.value();
    const bool drawn = parameter.dim() > 1 && named.key().find("norm") == std::string::npos;
    parameter.set_data(drawn ? torch::empty(parameter.sizes(), bf16).normal_(0, std) : parameter.to(bf16));
  }
  return model;
}

}  // namespace

Result<LoadedModel> make_model(Env& env, const Workload& work, const ModelConfig& config, const std::string& resident) {
  LoadedModel out;
  out.config = config;
  out.tokenizer = work.tokenizer;
  ENGRAM_ASSIGN_OR_RETURN(out.hasher, make_memory_hasher(config, *work.tokenizer));
  torch::manual_seed(0);
  if (work.scale.on_gpu()) {
    out.model = make_on_gpu(config);
  } else {
    out.model = Transformer(config);
    out.model->place(torch::kCPU, torch::kFloat);
  }
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

Status add_jobs(const Server& server, const std::vector<Job>& jobs, Status& failure) {
  LLMEngine& engine = *server.engine;
  for (size_t i = 0; i < jobs.size(); ++i) {
    GenerationRequest request;
    request.prompt = jobs[i].prompt;
    request.forced = jobs[i].output;
    request.sampling.max_tokens = static_cast<int>(jobs[i].output.size());
    request.sampling.temperature = server.temperature;
    request.sampling.top_p = server.top_p;
    request.sampling.ignore_eos = true;
    request.memory_off = server.memory_off;
    ENGRAM_RETURN_IF_ERROR(engine.check(request));
    engine.add(i, std::move(request), [&failure](const GenerationEvent& event) {
      if (event.finish == FinishReason::kError && failure.ok()) failure = event.error;
    });
  }
  return {};
}

}  // namespace

Result<std::vector<Measurement>> serve(const std::vector<Server>& servers, const std::vector<Job>& jobs) {
  const bool on_gpu = torch::cuda::is_available();
  Status failure;
  std::vector<EngineMetrics> before;
  for (const Server& server : servers) {
    ENGRAM_RETURN_IF_ERROR(add_jobs(server, jobs, failure));
    before.push_back(server.engine->metrics());
  }
  std::vector<std::vector<double>> steps(servers.size());
  const auto has_work = [](const Server& server) { return server.engine->has_work(); };
  for (size_t first = 0; std::ranges::any_of(servers, has_work); ++first) {
    for (size_t turn = 0; turn < servers.size(); ++turn) {
      const size_t at = (first + turn) % servers.size();  // each step begins with another
      if (!has_work(servers[at])) continue;
      const double start = now_seconds();
      servers[at].engine->step();
      if (on_gpu) torch::cuda::synchronize();  // a step that samples nothing does not wait by itself
      steps[at].push_back(now_seconds() - start);
    }
  }
  ENGRAM_RETURN_IF_ERROR(failure);
  int64_t generated = 0, tokens = 0;
  for (const Job& job : jobs) {
    generated += static_cast<int64_t>(job.output.size());
    tokens += static_cast<int64_t>(job.prompt.size() + job.output.size());
  }
  std::vector<Measurement> out;
  for (size_t i = 0; i < servers.size(); ++i) {
    const EngineMetrics after = servers[i].engine->metrics();
    const double seconds = std::accumulate(steps[i].begin(), steps[i].end(), 0.0);
    out.push_back({seconds, median(steps[i]), static_cast<double>(generated) / seconds,
                   (after.stall_seconds - before[i].stall_seconds) / seconds,
                   static_cast<double>(after.row_bytes - before[i].row_bytes) / static_cast<double>(tokens)});
  }
  return out;
}

}  // namespace engram::bench
