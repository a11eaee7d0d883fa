// engram train: one run from a recipe.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "apps/commands.h"
#include "apps/ranks.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "apps/torch_process.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"
#include "engram/dist/world.h"
#include "engram/port/process.h"
#include "engram/train/recipe.h"
#include "engram/train/trainer.h"

namespace engram::apps {
namespace {

struct TrainFlags {
  std::string recipe;
  std::vector<std::string> overrides;
  bool resume = false, profile = false, json = false;
  int ranks = 0;  // to start; 0: this process is the run, or one that a launcher has started
};

nlohmann::ordered_json to_json(const TrainSummary& summary) {
  nlohmann::ordered_json json = {{"step", summary.step},
                                 {"steps", summary.steps},
                                 {"tokens", summary.tokens},
                                 {"seconds", summary.seconds},
                                 {"loss", summary.loss}};
  if (summary.validation_loss > 0) {
    json["validation_loss"] = summary.validation_loss;
    json["bits_per_byte"] = summary.bits_per_byte;
    for (const PartLoss& part : summary.validation_parts)
      json["validation_parts"][part.name] = {{"tokens", part.tokens}, {"loss", part.loss}};
  }
  if (summary.average_validation_loss > 0) json["average"]["validation_loss"] = summary.average_validation_loss;
  if (summary.skipped_steps > 0) json["skipped_steps"] = summary.skipped_steps;
  if (!summary.validation_sets.empty()) json["validation_sets"] = engram::to_json(summary.validation_sets);
  json["p_tot"] = summary.parameters.p_tot;
  json["p_act"] = summary.parameters.p_act;
  json["p_sparse"] = summary.parameters.p_sparse;
  json["rho"] = summary.parameters.rho;
  json["trained_parameters"] = summary.trained_parameters;
  json["checkpoint"] = summary.checkpoint;
  json["peak_rss_bytes"] = summary.peak_rss_bytes;
  if (summary.mfu > 0) json["mfu"] = summary.mfu;
  if (!summary.step_seconds.empty()) json["step_seconds"] = summary.step_seconds;
  if (!summary.exchange.empty()) json["exchange"] = summary.exchange;
  if (!summary.phase_seconds.empty()) json["phase_seconds"] = summary.phase_seconds;
  return json;
}

void print_phases(const TrainSummary& summary) {
  std::vector<std::pair<double, std::string>> phases;
  double total = 0;
  for (const auto& [phase, seconds] : summary.phase_seconds) {
    phases.emplace_back(seconds, phase);
    total += seconds;
  }
  std::sort(phases.rbegin(), phases.rend());
  for (const auto& [seconds, phase] : phases)
    fmt::print("{:<12}{:>10.2f} s{:>8.1f} %\n", phase, seconds, 100 * seconds / total);
}

void print_summary(const TrainSummary& summary) {
  fmt::print("step {} of {}: loss {:.4f}", summary.step, summary.steps, summary.loss);
  if (summary.validation_loss > 0)
    fmt::print(", validation loss {:.4f}, {:.4f} bits per byte", summary.validation_loss, summary.bits_per_byte);
  if (summary.average_validation_loss > 0)
    fmt::print("\naveraged weights: validation loss {:.4f}", summary.average_validation_loss);
  if (summary.skipped_steps > 0)
    fmt::print("\n{} steps were skipped: their numbers were not finite", summary.skipped_steps);
  fmt::print("\n{} tokens in {}, peak memory {:.2f} GiB\ncheckpoint {}\n",
             format_count(static_cast<double>(summary.tokens)), format_duration(summary.seconds),
             static_cast<double>(summary.peak_rss_bytes) / (1 << 30), summary.checkpoint);
  double step = 0;
  std::vector<std::string> parts;
  for (const auto& [name, seconds] : summary.step_seconds) step += seconds;
  for (const auto& [name, seconds] : summary.step_seconds)
    parts.push_back(fmt::format("{} {:.1f} %", name, 100 * seconds / step));
  if (summary.mfu > 0) parts.push_back(fmt::format("model FLOPs utilisation {:.1f} %", 100 * summary.mfu));
  if (!parts.empty()) fmt::print("a step: {}\n", fmt::join(parts, ", "));
  if (!summary.validation_sets.empty())
    fmt::print("{:<24}{:>10}{:>11}{:>10}{:>15}{:>8}\n", "validation set", "tokens", "documents", "loss",
               "bits per byte", "exact");
  for (const ValidationSetResult& set : summary.validation_sets)
    fmt::print("{:<24}{:>10}{:>11}{:>10.4f}{:>15.4f}{:>8.4f}\n", set.name, set.tokens, set.documents, set.loss,
               set.bits_per_byte, set.exact);
  print_phases(summary);
}

// Messages and a bar on stderr.
class Display : public TrainObserver {
 public:
  void on_message(const std::string& line) override {
    if (progress_) {
      progress_->log(line);
    } else {
      fmt::print(stderr, "{}\n", line);
    }
  }
  void on_start(int64_t steps, int64_t done) override { progress_.emplace("train", steps, "steps", done); }
  void on_step(double loss, double tokens_per_second) override {
    progress_->set_text(fmt::format("loss {:.4f}, {} tokens/s", loss, format_count(tokens_per_second)));
    progress_->advance(1);
  }
  void on_end() override { progress_.reset(); }

 private:
  std::optional<Progress> progress_;
};

// What one process of the run does; a single one, or one of several that a launcher has started.
Status run_rank(const TrainFlags& flags, const World& world) {
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const Recipe recipe, Recipe::load(env, flags.recipe, flags.overrides));
  TrainOptions options;
  options.resume = flags.resume;
  options.profile = flags.profile;
  options.world = world;
  options.program = fmt::format("{} ({})", build_version(), build_commit());
  Display display;
  options.observer = &display;
  // Every step frees what the next one asks for again. By default each large tensor is a mapping of its own, whose
  // pages the system hands out and clears anew at every step; kept in the process they save 8 % of a small model's
  // step.
  port::keep_freed_memory();
  const int64_t processors =
      std::max(1u, std::thread::hardware_concurrency() / static_cast<unsigned>(world.local_size));
  set_up_torch(recipe.train.threads > 0 ? recipe.train.threads : processors);
  options.stop = &stop_on_signals();  // the first one lets the step finish and leaves a checkpoint
  Result<TrainSummary> result = train(env, recipe, options);
  if (result.status().code() == StatusCode::kAlreadyExists)
    return Status(StatusCode::kAlreadyExists, result.status().message() + " (--resume, --set train.output=FOLDER)");
  ENGRAM_RETURN_IF_ERROR(result.status());
  const TrainSummary& summary = *result;
  if (world.rank > 0) return summary.interrupted ? Status(StatusCode::kCancelled, "") : Status();
  if (summary.interrupted)
    return make_status(StatusCode::kCancelled, "interrupted after step {} of {}; {}; continue with --resume",
                       summary.step, summary.steps,
                       summary.checkpoint.empty() ? "no checkpoint yet" : "checkpoint " + summary.checkpoint);
  if (flags.json) {
    fmt::print("{}\n", to_json(summary).dump());
  } else {
    print_summary(summary);
  }
  return Status();
}

// All ranks learn why a run ends, and one prints it: rank 0, or any other when rank 0 is the one that has gone.
bool rank_zero_prints(const std::string& message) {
  return message.starts_with("rank ") && !message.starts_with("rank 0 ");
}

Status run_train(const TrainFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const World world, world_from_environment(launcher_environment()));
  if (flags.ranks > 1 && world.size == 1) return run_in_ranks(flags.ranks);
  if (flags.ranks > 0 && flags.ranks != world.size)
    return invalid_argument("--ranks {}: a launcher has already started {}; leave the flag out", flags.ranks,
                            world.size);
  const Status status = run_rank(flags, world);
  return world.rank > 0 && rank_zero_prints(status.message()) ? Status(status.code(), "") : status;
}

}  // namespace

void add_train(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train", torch_command_help("", "train"));
  command->footer(
      "Examples:\n"
      "  engram train recipes/smoke.toml\n"
      "  engram train recipes/smoke.toml --set train.steps=200 --set train.output=runs/mine\n"
      "  engram train recipes/smoke.toml --resume");
  command->add_option("recipe", flags->recipe, "TOML file; recipes/ has some, docs/recipes.md has every key")
      ->required();
  command->add_option("--set", flags->overrides, "SECTION.KEY=VALUE, a TOML value or a bare string; may repeat")
      ->allow_extra_args(false)
      ->check([](const std::string& text) {
        const size_t equals = text.find('=');
        return equals != std::string::npos && equals > 0 ? std::string()
                                                         : "wanted SECTION.KEY=VALUE, got '" + text + "'";
      });
  command->add_flag("--resume", flags->resume, "continue the run in train.output from its latest checkpoint");
  command->add_flag("--profile", flags->profile, "print where the time of a step goes (CPU)");
  command->add_option("--ranks", flags->ranks, "start so many processes here, which share the work (docs/training.md)")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", flags->json, "print the result as one JSON object");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_train(*flags); }; });
}

}  // namespace engram::apps
