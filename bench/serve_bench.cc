#include "bench/serve_bench.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <optional>
#include <random>

#include "bench/process.h"
#include "engram/core/progress.h"
#include "engram/data/token_shard.h"
#include "engram/model/parameters.h"
#include "engram/serve/llm_engine.h"
#include "engram/store/row_file.h"
#include "engram/store/table_tools.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

// The paper: 512 sequences, both lengths uniform in [100, 1024], dense backbones of 4B and 8B.
struct Scale {
  const char* name;
  int hidden, intermediate, heads, kv_heads, head_dim;
  int blocks[2];
  int sequences, shortest, longest;
  int row_dim;
  int64_t table_bytes;
};
constexpr Scale kScales[] = {
    {"smoke", 64, 128, 4, 2, 16, {2, 4}, 6, 4, 20, 16, int64_t{4} << 20},
    {"cpu", 512, 1408, 8, 4, 64, {6, 13}, 24, 10, 102, 64, int64_t{512} << 20},
};

Result<Scale> find_scale(const std::string& name) {
  for (const Scale& scale : kScales) {
    if (name == scale.name) return scale;
  }
  return invalid_argument("--scale: got '{}', wanted smoke or cpu", name);
}

// A prompt and what is generated after it.
struct Job {
  std::vector<int32_t> prompt, output;
};

struct Workload {
  Scale scale;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> text;  // real ids

  // The same lengths in every round and for both kinds of text; other ids in each.
  std::vector<Job> jobs(bool real, int round) const {
    std::mt19937_64 lengths(0), ids(static_cast<uint64_t>(round) * 2 + real);
    std::uniform_int_distribution<int> length(scale.shortest, scale.longest);
    std::vector<Job> out(static_cast<size_t>(scale.sequences));
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
};

Result<Workload> read_workload(Env& env, const ServeBenchOptions& options) {
  Workload out;
  ENGRAM_ASSIGN_OR_RETURN(out.scale, find_scale(options.scale));
  for (const std::string& path : {options.tokenizer, options.tokens}) {
    if (!env.file_exists(path)) return not_found("{}: not there; scripts/corpus.sh makes it, or name another", path);
  }
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::load(env, options.tokenizer));
  out.tokenizer = std::make_shared<const Tokenizer>(std::move(tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(env, options.tokens));
  out.text.resize(static_cast<size_t>(std::min<int64_t>(shard.info().num_tokens, 4'000'000)));
  shard.copy_tokens(0, out.text);
  if (out.text.size() < 4096)
    return invalid_argument("{}: got {} tokens, wanted 4096", options.tokens, out.text.size());
  if (*std::max_element(out.text.begin(), out.text.end()) >= out.tokenizer->vocab_size()) {
    return invalid_argument("{}: ids beyond the vocabulary of {}", options.tokens, options.tokenizer);
  }
  return out;
}

// A table file of the scale's size; removed at the end.
class TableFile {
 public:
  static Result<std::unique_ptr<TableFile>> create(Env& env, const Workload& work, const std::string& folder) {
    ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, TokenMap::from_tokenizer(*work.tokenizer));
    SyntheticOptions options;
    options.config.layer_ids = {1};
    options.config.max_ngram_size = 3;
    options.config.n_heads = 8;
    options.config.head_dim = work.scale.row_dim;
    options.config.pad_token_id = 0;
    options.config.compressed_vocab_size = map.compressed_vocab_size();
    ENGRAM_ASSIGN_OR_RETURN(const RowFileInfo info, plan_synthetic(options, work.scale.table_bytes, map));
    std::unique_ptr<TableFile> out(new TableFile);
    out->path_ = join_path(folder, "bench_serve.rows");
    out->info_ = info;
    ENGRAM_RETURN_IF_ERROR(env.create_directories(folder));
    Progress progress("table", count_row_bytes(info), "bytes");
    ENGRAM_RETURN_IF_ERROR(write_synthetic(env, out->path_, info, /*seed=*/0, /*resume=*/false, &progress));
    progress.finish();
    return out;
  }
  ~TableFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  const std::string& path() const { return path_; }
  const RowFileInfo& info() const { return info_; }

 private:
  std::string path_;
  RowFileInfo info_;
};

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

// A model of random weights. resident: also its table, read from the file.
Result<LoadedModel> make_model(Env& env, const Workload& work, const ModelConfig& config, const TableFile* resident) {
  LoadedModel out;
  out.config = config;
  out.tokenizer = work.tokenizer;
  ENGRAM_ASSIGN_OR_RETURN(out.hashing, make_memory_hashing(config, *work.tokenizer));
  torch::manual_seed(0);
  out.model = Transformer(config);
  out.model->eval();
  if (resident == nullptr) return out;
  ENGRAM_ASSIGN_OR_RETURN(const auto source, open_table_source(env, resident->path()));
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

struct Variant {
  std::string name;
  std::string placement;  // "": the bare backbone
  bool overlap = true;
};

std::vector<Variant> variants_of(const TableFile& table) {
  const std::string dram = "dram:" + table.path(), drive = "nvme:" + table.path();
  const int64_t cache = table.info().file_bytes() / 20;
  return {{"bare", ""},
          {"no-memory", "constant"},
          {"resident", "resident"},
          {"dram-prefetched", dram},
          {"dram-synchronous", dram, false},
          {"drive-prefetched", drive},
          {"drive-synchronous", drive, false},
          {"drive-cached", fmt::format("{}?cache={}", drive, cache)}};
}

struct Measurement {
  double tokens_per_second = 0, stall_share = 0, bytes_per_token = 0;
};

// Serves all jobs at once.
Result<Measurement> serve(LLMEngine& engine, const std::vector<Job>& jobs) {
  Status failure;
  int64_t generated = 0, tokens = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    GenerationRequest request;
    request.prompt = jobs[i].prompt;
    request.forced = jobs[i].output;
    request.sampling.max_tokens = static_cast<int>(jobs[i].output.size());
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    ENGRAM_RETURN_IF_ERROR(engine.check(request));
    generated += static_cast<int64_t>(jobs[i].output.size());
    tokens += static_cast<int64_t>(jobs[i].prompt.size() + jobs[i].output.size());
    engine.add(i, std::move(request), [&failure](const GenerationEvent& event) {
      if (event.finish == FinishReason::kError && failure.ok()) failure = event.error;
    });
  }
  const EngineMetrics before = engine.metrics();
  const double start = now_seconds();
  while (engine.has_work()) engine.step();
  const double seconds = now_seconds() - start;
  ENGRAM_RETURN_IF_ERROR(failure);
  const EngineMetrics after = engine.metrics();
  return Measurement{static_cast<double>(generated) / seconds, (after.stall_seconds - before.stall_seconds) / seconds,
                     static_cast<double>(after.row_bytes - before.row_bytes) / static_cast<double>(tokens)};
}

// One variant on one kind of text, over the rounds.
struct Series {
  std::string name;
  std::vector<Measurement> rounds;
};

Json summary_of(const Series& series, const Series& reference) {
  std::vector<double> speed, ratio, stall, bytes;
  for (size_t r = 0; r < series.rounds.size(); ++r) {
    speed.push_back(series.rounds[r].tokens_per_second);
    ratio.push_back(speed.back() / reference.rounds[r].tokens_per_second);
    stall.push_back(series.rounds[r].stall_share);
    bytes.push_back(series.rounds[r].bytes_per_token);
  }
  const auto [low, high] = std::minmax_element(speed.begin(), speed.end());
  const auto [ratio_low, ratio_high] = std::minmax_element(ratio.begin(), ratio.end());
  return {{"name", series.name},
          {"tokens_per_second", median(speed)},
          {"low", *low},
          {"high", *high},
          {"ratio_to_no_memory", median(ratio)},
          {"ratio_low", *ratio_low},
          {"ratio_high", *ratio_high},
          {"stall_share", median(stall)},
          {"bytes_per_token", median(bytes)}};
}

double hit_rate(const LLMEngine& engine) {
  const auto stats = engine.store_stats();
  if (stats.empty() || stats[0].second.tiers.size() < 2) return 0;
  const TierStats& first = stats[0].second.tiers[0];
  return static_cast<double>(first.hits) / static_cast<double>(std::max<uint64_t>(1, first.hits + first.misses));
}

EngineOptions engine_options(const Workload& work, const Variant& variant) {
  EngineOptions options;
  if (!variant.placement.empty()) options.tables = {variant.placement};
  options.overlap_reads = variant.overlap;
  options.prefix_cache = false;  // jobs share no prefix, and rounds must not help each other
  options.scheduler.max_sequences = work.scale.sequences;
  options.scheduler.max_batched_tokens = std::max<int64_t>(512, work.scale.sequences);
  return options;
}

Result<Json> run_backbone(Env& env, const ServeBenchOptions& options, const Workload& work, const TableFile& table,
                          int blocks, Progress& progress) {
  const EngramConfig& engram = table.info().hash->config;
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel bare,
                          make_model(env, work, backbone_config(work, blocks, nullptr), nullptr));
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model,
                          make_model(env, work, backbone_config(work, blocks, &engram), &table));
  const std::vector<Variant> variants = variants_of(table);
  std::vector<std::unique_ptr<LLMEngine>> engines;
  for (const Variant& variant : variants) {
    ENGRAM_ASSIGN_OR_RETURN(
        auto engine, LLMEngine::create(env, variant.placement.empty() ? bare : model, engine_options(work, variant)));
    engines.push_back(std::move(engine));
  }
  std::vector<Series> series(2 * variants.size());
  for (size_t i = 0; i < series.size(); ++i) {
    series[i].name = variants[i / 2].name + (i % 2 == 1 ? "-real-text" : "");
  }
  for (int round = -1; round < options.rounds; ++round) {  // round -1 warms up and is not counted
    for (size_t turn = 0; turn < series.size(); ++turn) {
      // Each round begins with another variant, so that none is always the first after a pause.
      const size_t at = (turn + 3 * static_cast<size_t>(round + 1)) % series.size();
      ENGRAM_ASSIGN_OR_RETURN(const Measurement got, serve(*engines[at / 2], work.jobs(at % 2 == 1, round)));
      if (round >= 0) series[at].rounds.push_back(got);
      progress.advance(1);
    }
  }
  Json list = Json::array();
  for (size_t i = 0; i < series.size(); ++i) {
    list.push_back(summary_of(series[i], series[2 + i % 2]));  // no-memory on the same kind of text
    list.back()["hit_rate"] = hit_rate(*engines[i / 2]);
  }
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount count, count_parameters(model.config));
  return Json{{"name", fmt::format("{} blocks of {}", blocks, work.scale.hidden)},
              {"p_act", count.p_act},
              {"table_rows", table.info().tables[0].num_rows},
              {"table_bytes", table.info().file_bytes()},
              {"variants", list}};
}

// Seconds to read `bytes` of memory once with all threads: the bound of a decode step.
double seconds_to_read(int64_t bytes) {
  const torch::Tensor buffer = torch::ones({bytes / 4});
  std::vector<double> seconds;
  float sink = 0;
  for (int i = 0; i < 7; ++i) {
    const double start = now_seconds();
    sink += buffer.sum().item<float>();
    seconds.push_back(now_seconds() - start);
  }
  return sink > 0 ? *std::min_element(seconds.begin(), seconds.end()) : 0;
}

}  // namespace

ServeBenchOptions default_serve_bench_options() {
  ServeBenchOptions options;
  const std::string root = ENGRAM_SOURCE_DIR;
  options.tokenizer = join_path(root, "demo/data/tokenizer.json");
  options.tokens = join_path(root, "demo/data/train.tokens");
  options.folder = join_path(root, "runs/bench");
  return options;
}

Result<Json> run_serve_bench(Env& env, const ServeBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const Workload work, read_workload(env, options));
  if (options.threads > 0) torch::set_num_threads(options.threads);
  ENGRAM_ASSIGN_OR_RETURN(const auto table, TableFile::create(env, work, options.folder));
  Json backbones = Json::array();
  const int64_t runs = 2 * 16 * (options.rounds + 1);
  Progress progress("serve", runs, "runs");
  for (int blocks : work.scale.blocks) {
    ENGRAM_ASSIGN_OR_RETURN(Json backbone, run_backbone(env, options, work, *table, blocks, progress));
    backbones.push_back(std::move(backbone));
  }
  progress.finish();
  return Json{{"scale", options.scale},
              {"sequences", work.scale.sequences},
              {"lengths", {work.scale.shortest, work.scale.longest}},
              {"rounds", options.rounds},
              {"threads", torch::get_num_threads()},
              {"variants", backbones[0]["variants"]},
              {"backbones", backbones}};
}

Result<Json> run_serve_clients_bench(Env& env, const ServeBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const Workload work, read_workload(env, options));
  if (options.threads > 0) torch::set_num_threads(options.threads);
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model,
                          make_model(env, work, backbone_config(work, work.scale.blocks[0], nullptr), nullptr));
  Variant bare{"bare", ""};
  EngineOptions engine_of_32 = engine_options(work, bare);
  engine_of_32.scheduler.max_sequences = 32;
  ENGRAM_ASSIGN_OR_RETURN(auto engine, LLMEngine::create(env, model, engine_of_32));
  const int length = work.scale.longest;
  std::map<int, std::vector<double>> speed;
  for (int round = -1; round < options.rounds; ++round) {
    for (int clients : {1, 32}) {
      std::vector<Job> jobs;
      for (int i = 0; i < clients; ++i) {
        const auto from = work.text.begin() + (round + 2) * 32 * length + i * length;
        jobs.push_back({{from, from + 4}, {from + 4, from + length}});
      }
      ENGRAM_ASSIGN_OR_RETURN(const Measurement got, serve(*engine, jobs));
      if (round >= 0) speed[clients].push_back(got.tokens_per_second);
    }
  }
  const double one = median(speed[1]), many = median(speed[32]);
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount count, count_parameters(model.config));
  const int64_t bytes = 4 * (count.p_act + int64_t{model.config.vocab_size} * model.config.hidden_size);
  const double read = seconds_to_read(bytes);
  return Json{
      {"clients", {{{"clients", 1}, {"tokens_per_second", one}}, {{"clients", 32}, {"tokens_per_second", many}}}},
      {"ratio_of_32_clients", many / one},
      {"active_weight_bytes", bytes},
      {"decode_seconds", 1 / one},
      {"weight_read_seconds", read},
      {"weight_bytes_per_second", static_cast<double>(bytes) / read},
      {"decode_over_weight_read", 1 / one / read}};
}

}  // namespace engram::bench
