#include "bench/serve_bench.h"

#include <torch/utils.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <set>

#include "bench/process.h"
#include "bench/serve_work.h"
#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/model/parameters.h"
#include "engram/store/import/table_tools.h"
#include "engram/store/plan/planner.h"
#include "engram/store/tiers/dram_store.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

// The header of a table of the scale's size.
Result<RowFileInfo> plan_table(const Workload& work) {
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, TokenMap::from_tokenizer(*work.tokenizer));
  SyntheticOptions options;
  options.config.layer_ids = {1};
  options.config.max_ngram_size = 3;
  options.config.n_heads = 8;
  options.config.head_dim = work.scale.row_dim;
  options.config.pad_token_id = 0;
  options.config.compressed_vocab_size = map.compressed_vocab_size();
  return plan_synthetic(options, work.scale.table_bytes, map);
}

// A store that several engines' tables own together.
class SharedStore final : public RowStore {
 public:
  explicit SharedStore(std::shared_ptr<RowStore> store) : store_(std::move(store)) {}
  void prefetch(std::span<const int64_t> row_ids) override { store_->prefetch(row_ids); }
  Pending read(std::span<const int64_t> row_ids, std::span<std::byte> out) override {
    return store_->read(row_ids, out);
  }
  int64_t num_rows() const override { return store_->num_rows(); }
  size_t row_bytes() const override { return store_->row_bytes(); }
  StoreStats stats() const override { return store_->stats(); }

 private:
  std::shared_ptr<RowStore> store_;
};

// The table of all engines: a file of it and a profile of text like the jobs', removed at the end; or, where no drive
// holds it, its rows in memory.
class Table {
 public:
  // Nothing is written before make().
  static Result<std::unique_ptr<Table>> plan(const Workload& work, const std::string& folder) {
    std::unique_ptr<Table> out(new Table);
    ENGRAM_ASSIGN_OR_RETURN(out->info_, plan_table(work));
    if (work.scale.on_gpu()) return out;
    out->path_ = join_path(folder, "bench_serve.rows");
    out->profile_ = join_path(folder, "bench_serve.profile");
    return out;
  }
  Status make(Env& env, const Workload& work, const std::string& folder) {
    return path_.empty() ? fill_memory() : write_file(env, work, folder);
  }
  ~Table() {
    std::error_code ignored;
    for (const std::string& path : written_) std::filesystem::remove(path, ignored);
  }
  const std::string& path() const { return path_; }  // "": in memory
  const std::string& profile() const { return profile_; }
  const RowFileInfo& info() const { return info_; }
  std::unique_ptr<RowStore> store() const { return std::make_unique<SharedStore>(memory_); }

 private:
  Status write_file(Env& env, const Workload& work, const std::string& folder) {
    ENGRAM_RETURN_IF_ERROR(env.create_directories(folder));
    Progress progress("table", count_row_bytes(info_), "bytes");
    written_ = {path_, profile_};
    ENGRAM_RETURN_IF_ERROR(write_synthetic(env, path_, info_, /*seed=*/0, /*resume=*/false, &progress));
    progress.finish();
    Progress counting("profile", static_cast<int64_t>(work.sample.size()), "tokens");
    ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, TokenMap::from_tokenizer(*work.tokenizer));
    ENGRAM_ASSIGN_OR_RETURN(const CorpusProfile profile,
                            profile_corpus(info_, map, work.sample, std::vector<int64_t>{0}, {}, &counting));
    counting.finish();
    return profile.rows.save(env, profile_);
  }
  Status fill_memory() {
    const RowTable& table = info_.tables[0];
    Progress progress("table", count_row_bytes(info_), "bytes");
    std::mutex counting;
    const auto fill = [&](int64_t first, int64_t count, std::span<std::byte> rows) -> Status {
      ENGRAM_RETURN_IF_ERROR(make_synthetic_rows(table, /*seed=*/0, first, count, rows));
      const std::lock_guard lock(counting);
      progress.advance(static_cast<int64_t>(rows.size()));
      return {};
    };
    ENGRAM_ASSIGN_OR_RETURN(memory_, DramStore::create(table, fill, "the table"));
    progress.finish();
    return {};
  }

  std::string path_, profile_;
  std::vector<std::string> written_;
  std::shared_ptr<RowStore> memory_;
  RowFileInfo info_;
};

struct Variant {
  std::string name;
  std::string placement;
  bool overlap = true;
  bool memory_off = false;
};

constexpr const char* kReference = "no-memory";

std::vector<Variant> all_variants(const Table& table) {
  std::vector<Variant> out = {{"bare", "constant", true, /*memory_off=*/true}, {kReference, "constant"}};
  if (table.path().empty()) {
    out.push_back({"dram-prefetched", "dram"});
    out.push_back({"dram-synchronous", "dram", false});
    return out;
  }
  const std::string dram = "dram:" + table.path(), drive = "nvme:" + table.path();
  const int64_t half = table.info().file_bytes() / 40;  // of 5 %
  out.push_back({"resident", "resident"});
  out.push_back({"dram-prefetched", dram});
  out.push_back({"dram-synchronous", dram, false});
  out.push_back({"drive-prefetched", drive});
  out.push_back({"drive-synchronous", drive, false});
  out.push_back({"drive-cached", fmt::format("{}?cache={}&hot={}&hot_size={}", drive, half, table.profile(), half)});
  return out;
}

Result<std::vector<Variant>> chosen_variants(const ServeBenchOptions& options, const Table& table) {
  std::vector<Variant> all = all_variants(table);
  if (options.variants.empty()) return all;
  std::set<std::string> wanted(options.variants.begin(), options.variants.end());
  wanted.insert(kReference);
  std::string known;
  for (const Variant& variant : all) known += " " + variant.name;
  std::erase_if(all, [&](const Variant& variant) { return wanted.erase(variant.name) == 0; });
  if (wanted.empty()) return all;
  return invalid_argument("--variant: got {}, wanted some of{}", quote_text(*wanted.begin()), known);
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
  const Spread speeds = spread_of(speed), ratios = spread_of(ratio);
  return {{"name", series.name},       {"tokens_per_second", speeds.median},  {"low", speeds.low},
          {"high", speeds.high},       {"ratio_to_no_memory", ratios.median}, {"ratio_low", ratios.low},
          {"ratio_high", ratios.high}, {"stall_share", median(stall)},        {"bytes_per_token", median(bytes)}};
}

// Distinct rows of each step that a tier in memory served, so far.
struct HitCount {
  uint64_t hits = 0, all = 0;
  double since(const HitCount& before) const {
    return all == before.all ? 0 : static_cast<double>(hits - before.hits) / static_cast<double>(all - before.all);
  }
};

HitCount count_hits(const LLMEngine& engine) {
  HitCount out;
  for (const auto& [layer, stats] : engine.store_stats()) {
    out.all += stats.unique_rows;
    for (size_t tier = 0; tier + 1 < stats.tiers.size(); ++tier) out.hits += stats.tiers[tier].hits;
  }
  return out;
}

EngineOptions engine_options(const Workload& work, const Variant& variant) {
  EngineOptions options;
  options.tables = {variant.placement};
  options.overlap_reads = variant.overlap;
  options.kv_cache_bytes = work.scale.kv_cache_bytes;
  options.prefix_cache = false;  // jobs share no prefix, and rounds must not help each other
  options.scheduler.max_sequences = work.scale.at_once;
  options.scheduler.max_batched_tokens = work.scale.on_gpu() ? 4096 : std::max(512, work.scale.at_once);
  return options;
}

// A store in memory is shared; every other placement is the engine's own.
Result<std::unique_ptr<LLMEngine>> make_engine(Env& env, const LoadedModel& model, const Workload& work,
                                               const Table& table, const Variant& variant) {
  const EngineOptions options = engine_options(work, variant);
  if (!table.path().empty() || variant.placement == "constant") return LLMEngine::create(env, model, options);
  std::vector<std::unique_ptr<RowStore>> stores;
  stores.push_back(table.store());
  ENGRAM_ASSIGN_OR_RETURN(
      auto tables, ServedTables::create(model, variant.placement, std::move(stores), {table.info().tables[0].format}));
  return LLMEngine::create(model, options, std::move(tables));
}

Result<Json> run_backbone(Env& env, const ServeBenchOptions& options, const Workload& work, const Table& table,
                          const std::vector<Variant>& variants, const BackboneShape& shape, Progress& progress) {
  const EngramConfig& engram = table.info().hash->config;
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model,
                          make_model(env, work, backbone_config(work, shape, &engram), table.path()));
  const auto reference = static_cast<size_t>(
      std::find_if(variants.begin(), variants.end(), [](const Variant& v) { return v.name == kReference; }) -
      variants.begin());
  std::vector<std::unique_ptr<LLMEngine>> engines;
  std::vector<Server> turns;
  for (const Variant& variant : variants) {
    ENGRAM_ASSIGN_OR_RETURN(auto engine, make_engine(env, model, work, table, variant));
    turns.push_back({engine.get(), variant.memory_off});
    engines.push_back(std::move(engine));
  }
  Json list = Json::array();
  for (const bool real : {false, true}) {
    const auto& texts = options.texts;
    if (!texts.empty() && std::find(texts.begin(), texts.end(), real ? "real" : "random") == texts.end()) continue;
    std::vector<Series> series;
    for (const Variant& variant : variants) series.push_back({variant.name + (real ? "-real-text" : ""), {}});
    std::vector<HitCount> before(engines.size());
    for (int round = -1; round < options.rounds; ++round) {  // round -1 warms up and is not counted
      const size_t count = round < 0 ? 2 : static_cast<size_t>(work.scale.sequences);
      std::vector<Job> jobs = work.jobs(real, round, count);
      for (Job& job : jobs) {
        if (round < 0) job.output.resize(std::min<size_t>(job.output.size(), 16));
      }
      ENGRAM_ASSIGN_OR_RETURN(const auto got, serve(turns, jobs));
      for (size_t i = 0; i < got.size(); ++i) {
        if (round < 0) {
          before[i] = count_hits(*engines[i]);
        } else {
          series[i].rounds.push_back(got[i]);
        }
      }
      progress.advance(1);
    }
    for (size_t i = 0; i < series.size(); ++i) {
      list.push_back(summary_of(series[i], series[reference]));
      list.back()["hit_rate"] = count_hits(*engines[i]).since(before[i]);
      progress.log(fmt::format("{} blocks of {}: {}: {:.1f} tokens/s, {:.4f} of no-memory", shape.blocks, shape.hidden,
                               series[i].name, list.back()["tokens_per_second"].get<double>(),
                               list.back()["ratio_to_no_memory"].get<double>()));
    }
  }
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount count, count_parameters(model.config));
  return Json{{"name", fmt::format("{} blocks of {}", shape.blocks, shape.hidden)},
              {"p_act", count.p_act},
              {"table_rows", table.info().tables[0].num_rows},
              {"table_bytes", table.info().file_bytes()},
              {"variants", list}};
}

}  // namespace

ServeBenchOptions default_serve_bench_options() {
  ServeBenchOptions options;
  const std::string root = ENGRAM_SOURCE_DIR;
  options.tokenizer = join_path(root, "demo/data/tokenizer.json");
  options.tokens = join_path(root, "demo/data/train.tokens");
  options.folder = join_path(root, "runs/bench");
  options.python = join_path(root, ".venv-oracles/bin/python");
  options.llama_script = join_path(root, "bench/llama_peer.py");
  return options;
}

Result<Json> run_serve_bench(Env& env, const ServeBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const Workload work, read_workload(env, options));
  if (options.threads > 0) torch::set_num_threads(options.threads);
  ENGRAM_ASSIGN_OR_RETURN(const auto table, Table::plan(work, options.folder));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Variant> variants, chosen_variants(options, *table));
  ENGRAM_RETURN_IF_ERROR(table->make(env, work, options.folder));
  Json backbones = Json::array();
  const int64_t texts = options.texts.empty() ? 2 : static_cast<int64_t>(options.texts.size());
  const int64_t runs = 2 * texts * (options.rounds + 1);
  Progress progress("serve", runs, "rounds");
  for (const BackboneShape& shape : work.scale.backbones) {
    ENGRAM_ASSIGN_OR_RETURN(Json backbone, run_backbone(env, options, work, *table, variants, shape, progress));
    backbones.push_back(std::move(backbone));
  }
  progress.finish();
  return Json{{"scale", options.scale},
              {"sequences", work.scale.sequences},
              {"at_once", work.scale.at_once},
              {"lengths", {work.scale.shortest, work.scale.longest}},
              {"rounds", options.rounds},
              {"threads", torch::get_num_threads()},
              {"variants", backbones[0]["variants"]},
              {"backbones", backbones}};
}

}  // namespace engram::bench
