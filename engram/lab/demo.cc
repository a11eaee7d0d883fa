#include "engram/lab/demo.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "engram/core/child_process.h"
#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/core/output_lock.h"
#include "engram/core/progress.h"
#include "engram/lab/pages/assets.h"
#include "engram/lab/pages/report.h"
#include "engram/lab/probes/gates.h"
#include "engram/lab/study/run_output.h"
#include "engram/model/decode/evaluate.h"
#include "engram/model/decode/generate.h"
#include "engram/model/parameters.h"
#include "engram/train/recipe.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr auto kPoll = std::chrono::milliseconds(200);
constexpr auto kLockPatience = std::chrono::seconds(20);  // children of a killed demo write their checkpoints
constexpr int64_t kGateTokens = 65536;                    // validation tokens that the n-gram table is made from
constexpr int kNgramOrder = 3;
constexpr int64_t kNgramMinCount = 5;
constexpr size_t kNgramLimit = 24;

bool stopping(const DemoOptions& options) { return options.stop != nullptr && options.stop->load(); }

Status check_stopped(const DemoOptions& options) {
  if (!stopping(options)) return {};
  return make_status(StatusCode::kCancelled, "interrupted: run the demo again to continue");
}

struct Run {
  std::string name;  // moe | engram
  std::string recipe_path;
  std::string output;  // OUTPUT/name
  Recipe recipe;
};

Result<Run> plan_run(Env& env, const DemoOptions& options, const std::string& name, const std::string& recipe_path) {
  Run run{name, recipe_path, join_path(options.output, name), {}};
  ENGRAM_ASSIGN_OR_RETURN(run.recipe, Recipe::load(env, recipe_path, options.overrides));
  for (const auto& files : {run.recipe.data.train_files(), run.recipe.data.validation}) {
    for (const auto& file : files) {
      if (!env.file_exists(file)) {
        return make_status(StatusCode::kFailedPrecondition,
                           "{}: no such file: run scripts/corpus.sh, which makes it from packages", file);
      }
    }
  }
  return run;
}

Result<ChildProcess> start_training(Env& env, const DemoOptions& options, const Run& run) {
  std::vector<std::string> arguments = {options.executable, "train", run.recipe_path, "--set",
                                        "train.output=" + run.output};
  for (const auto& override_text : options.overrides) arguments.insert(arguments.end(), {"--set", override_text});
  if (env.file_exists(join_path(run.output, "latest"))) arguments.push_back("--resume");
  return ChildProcess::start(arguments, join_path(options.output, run.name + ".log"));
}

// Both runs at once; returns when both have finished. Stopped, it stops both runs, and each leaves a checkpoint.
Status train_side_by_side(Env& env, const DemoOptions& options, const std::vector<Run>& runs) {
  std::vector<ChildProcess> children;
  int64_t total = 0, done = 0;
  for (const Run& run : runs) {
    total += run.recipe.train.steps;
    done += last_metrics(env, run.output).step;
    ENGRAM_ASSIGN_OR_RETURN(auto child, start_training(env, options, run));
    children.push_back(std::move(child));
  }
  Progress progress("train both", total, "steps", done);
  for (bool running = true, told = false; running;) {
    std::this_thread::sleep_for(kPoll);
    if (stopping(options) && !std::exchange(told, true))
      for (ChildProcess& child : children) child.terminate();
    running = false;
    int64_t now = 0;
    std::string text;
    for (size_t i = 0; i < runs.size(); ++i) {
      const auto exit_code = children[i].poll();
      if (exit_code && *exit_code != 0 && !stopping(options)) {
        progress.finish();
        const std::string log = join_path(options.output, runs[i].name + ".log");
        return make_status(StatusCode::kFailedPrecondition, "training {} failed (exit code {}): {} (see {})",
                           runs[i].name, *exit_code, last_log_line(env, log), log);
      }
      running = running || !exit_code;
      const RunMetrics last = last_metrics(env, runs[i].output);
      now += last.step;
      text += fmt::format("{}{} {:.3f}", text.empty() ? "loss: " : ", ", runs[i].name, last.loss);
    }
    progress.set_text(text);
    progress.advance(std::max<int64_t>(0, now - done));
    done = std::max(done, now);
  }
  progress.finish();
  return check_stopped(options);
}

Json curve_of(const std::vector<Json>& metrics, const std::string& key) {
  Json tokens = Json::array(), seconds = Json::array(), loss = Json::array();
  for (const Json& line : metrics) {
    if (!line.contains(key)) continue;
    tokens.push_back(line.at("tokens"));
    seconds.push_back(line.at("seconds"));
    loss.push_back(line.at(key));
  }
  return {{"tokens", tokens}, {"seconds", seconds}, {"loss", loss}};
}

Result<std::string> sample_text(const LoadedModel& model, const DemoOptions& options, bool memory_off) {
  GenerateOptions generate_options;
  generate_options.max_tokens = options.sample_tokens;
  generate_options.memory_off = memory_off;
  generate_options.sampler.top_p = 0.95;
  std::string text;
  ENGRAM_ASSIGN_OR_RETURN(auto tokens, generate(model, options.prompt, generate_options, [&](std::string_view piece) {
                            text += piece;
                            return !stopping(options);
                          }));
  return text;
}

// Loss over whole shards, each on its own, weighted by their tokens.
Result<EvaluateResult> evaluate_shards(const LoadedModel& model, const DemoOptions& options,
                                       const std::vector<TokenShard>& shards, bool memory_off) {
  EvaluateOptions evaluation;
  evaluation.memory_off = memory_off;
  evaluation.on_progress = [&](int64_t, int64_t) { return !stopping(options); };
  const TokenText text = read_shards(shards);
  evaluation.targets = text.targets;
  return evaluate(model, text.token_ids, text.document_starts, text.bytes, evaluation);
}

Result<Json> describe_model(Env& env, const DemoOptions& options, const Run& run, const LoadedModel& model,
                            const std::vector<TokenShard>& validation) {
  ENGRAM_ASSIGN_OR_RETURN(const auto metrics, read_metrics(env, run.output));
  if (metrics.empty()) return data_loss("{}: metrics.jsonl is empty", run.output);
  ENGRAM_ASSIGN_OR_RETURN(const auto count, count_parameters(model.config));
  ENGRAM_ASSIGN_OR_RETURN(const auto result, evaluate_shards(model, options, validation, false));
  ENGRAM_ASSIGN_OR_RETURN(const auto sample, sample_text(model, options, false));
  Json rows = Json::array();
  for (const auto& table : model.tables) rows.push_back(table->num_rows());
  return Json{{"val_loss", result.loss},
              {"bits_per_byte", result.bits_per_byte},
              {"p_tot", count.p_tot},
              {"p_act", count.p_act},
              {"p_sparse", count.p_sparse},
              {"rho", count.rho},
              {"tokens", metrics.back().at("tokens")},
              {"seconds", metrics.back().at("seconds")},
              {"recipe", run.recipe_path},
              {"n_routed_experts", model.config.n_routed_experts},
              {"shared_expert_intermediate_size", model.config.shared_expert_intermediate_size},
              {"table_rows", rows},
              {"sample", sample},
              {"curve", curve_of(metrics, "loss")},
              {"validation", curve_of(metrics, "validation_loss")}};
}

Result<Json> gate_text(const LoadedModel& model, const std::vector<int32_t>& tokens) {
  const GateTrace trace = trace_gates(model, tokens);
  const auto pieces = split_pieces(*model.tokenizer, tokens);
  Json texts = Json::array(), gates = Json::array();
  for (const auto& piece : pieces) texts.push_back(piece.text);
  for (int layer = 0; layer < trace.layers; ++layer) {
    Json branches = Json::array();
    for (int branch = 0; branch < trace.branches; ++branch) {
      Json values = Json::array();
      for (const auto& piece : pieces) values.push_back(trace.at(layer, branch, piece.token));
      branches.push_back(values);
    }
    gates.push_back(branches);
  }
  return Json{{"pieces", texts}, {"gates", gates}};
}

// Everything about the gates: sentences, validation text, the spread of every view, the n-grams that open the gate.
Status add_gates(const LoadedModel& model, const TokenShard& validation, Json& summary) {
  const auto& layer_ids = model.config.engram.layer_ids;
  std::vector<int32_t> tokens(static_cast<size_t>(std::min(kGateTokens, validation.info().num_tokens)));
  validation.copy_tokens(0, tokens);
  const GateTrace trace = trace_gates(model, tokens);

  std::vector<Json> views;
  for (int layer = 0; layer < trace.layers; ++layer) {
    for (int branch = 0; branch < trace.branches; ++branch) {
      const GateSpread spread = gate_spread(trace, layer, branch);
      views.push_back({{"layer", layer},
                       {"layer_id", layer_ids[static_cast<size_t>(layer)]},
                       {"branch", branch},
                       {"mean", spread.mean},
                       {"spread", spread.deviation},
                       {"low", spread.low},
                       {"high", spread.high}});
    }
  }
  std::stable_sort(views.begin(), views.end(),
                   [](const Json& a, const Json& b) { return a.at("spread") > b.at("spread"); });
  summary["gate_branches"] = trace.branches;
  summary["gate_views"] = views;

  Json groups = Json::array();
  const auto add_sentences = [&](const char* name, std::span<const char* const> sentences) -> Status {
    Json texts = Json::array();
    for (const char* sentence : sentences) {
      ENGRAM_ASSIGN_OR_RETURN(const auto ids, model.tokenizer->encode(sentence));
      ENGRAM_ASSIGN_OR_RETURN(auto text, gate_text(model, ids));
      texts.push_back(std::move(text));
    }
    groups.push_back({{"name", name}, {"texts", texts}});
    return {};
  };
  ENGRAM_RETURN_IF_ERROR(add_sentences("Sentences, English", english_gate_sentences()));
  ENGRAM_RETURN_IF_ERROR(add_sentences("Sentences, Chinese", chinese_gate_sentences()));
  Json excerpts = Json::array();
  const size_t length = std::min<size_t>(tokens.size(), 120);
  for (size_t i = 0; i < 3; ++i) {  // from three places, so that more than one document shows
    const size_t begin = (tokens.size() - length) * i / 2;
    ENGRAM_ASSIGN_OR_RETURN(auto text,
                            gate_text(model, {tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                              tokens.begin() + static_cast<std::ptrdiff_t>(begin + length)}));
    excerpts.push_back(std::move(text));
  }
  groups.push_back({{"name", "Validation text, three excerpts"}, {"texts", excerpts}});
  summary["gate_texts"] = groups;

  Json ngrams = Json::array();
  for (int layer = 0; layer < trace.layers; ++layer) {
    Json items = Json::array();
    for (const auto& ngram :
         highest_gates(*model.tokenizer, tokens, trace, layer, kNgramOrder, kNgramMinCount, kNgramLimit)) {
      items.push_back({{"text", ngram.text}, {"count", ngram.count}, {"mean_gate", ngram.mean_gate}});
    }
    ngrams.push_back({{"layer_id", layer_ids[static_cast<size_t>(layer)]}, {"items", items}});
  }
  summary["ngrams"] = ngrams;
  summary["ngram_tokens"] = tokens.size();
  summary["ngram_min_count"] = kNgramMinCount;
  return {};
}

}  // namespace

Status run_demo(Env& env, const DemoOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock,
                          OutputLock::folder(env, options.output, {.patience = kLockPatience, .children_share = true}));
  ENGRAM_ASSIGN_OR_RETURN(Run moe, plan_run(env, options, "moe", options.moe_recipe));
  ENGRAM_ASSIGN_OR_RETURN(Run engram, plan_run(env, options, "engram", options.engram_recipe));
  ENGRAM_RETURN_IF_ERROR(train_side_by_side(env, options, {moe, engram}));

  std::vector<TokenShard> validation;
  int64_t validation_tokens = 0;
  for (const auto& file : engram.recipe.data.validation) {
    ENGRAM_ASSIGN_OR_RETURN(auto shard, TokenShard::open(env, file));
    validation_tokens += shard.info().num_tokens;
    validation.push_back(std::move(shard));
  }
  if (validation.empty())
    return invalid_argument("{}: data.validation is empty, the demo compares on it", engram.recipe_path);

  Json summary{{"models", Json::object()},
               {"commit", build_commit()},
               {"machine", machine_description()},
               {"date", today()},
               {"command", "engram demo"},
               {"seed", engram.recipe.train.seed},
               {"validation_tokens", validation_tokens},
               {"validation_batches", engram.recipe.train.validation_batches},
               {"sample_prompt", options.prompt},
               {"sample_temperature", SamplerOptions().temperature},
               {"sample_top_p", 0.95},
               {"sample_seed", 0}};
  Progress progress("look inside", 4, "parts");
  const auto say = [&](const char* what) {  // a part takes up to minutes
    progress.log(fmt::format("look inside: {} ({} tokens of validation text)", what, validation_tokens));
  };
  for (const Run* run : {&moe, &engram}) {
    say(run == &moe ? "loss and sample of the pure MoE" : "loss and sample of Engram");
    ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, load_model(env, run->output));
    ENGRAM_ASSIGN_OR_RETURN(Json description, describe_model(env, options, *run, model, validation));
    progress.advance(1);
    if (run == &engram) {
      say("Engram once more, its memory off");
      ENGRAM_ASSIGN_OR_RETURN(const auto result, evaluate_shards(model, options, validation, true));
      ENGRAM_ASSIGN_OR_RETURN(const auto sample, sample_text(model, options, true));
      description["memory_off"] = {
          {"val_loss", result.loss}, {"bits_per_byte", result.bits_per_byte}, {"sample", sample}};
      progress.advance(1);
      ENGRAM_RETURN_IF_ERROR(add_gates(model, validation.front(), summary));
      progress.advance(1);
    }
    summary["models"][run->name] = std::move(description);
  }
  progress.finish();
  ENGRAM_RETURN_IF_ERROR(check_stopped(options));
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(options.output, "report.html"),
                                           render_report(assets::demo_report_html, summary)));
  return write_file_atomic(env, join_path(options.output, "summary.json"),
                           summary.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace engram
