// engram bench train: the training step of a recipe beside the same step in plain PyTorch.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/torch_commands.h"
#include "bench/train_bench.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"

namespace engram::apps {
namespace {

Status bench_train(const bench::TrainBenchOptions& options, bool json) {
  ENGRAM_ASSIGN_OR_RETURN(auto result, bench::run_train_bench(Env::posix(), options));
  result["benchmark"] = "train";
  result["recipe"] = options.recipe;
  result["machine"] = machine_description();
  result["commit"] = build_commit();
  result["date"] = today();
  if (json) {
    fmt::print("{}\n", result.dump());
    return {};
  }
  fmt::print("{}: tokens per second, median of {} rounds; {}, commit {}, {}\n\n", options.recipe, options.rounds,
             machine_description(), build_commit(), today());
  fmt::print("  {:<40}{:>10}{:>10}{:>8}{:>10}{:>8}   {}\n", "", "engram", "eager", "ratio", "compile", "ratio",
             "peak memory, MiB: engram, eager");
  for (const auto& cell : result["cells"]) {
    const auto speed = [&](const char* key) {
      return cell.contains(key) ? format_count(cell[key].get<double>()) : std::string();
    };
    const auto number = [&](const char* key, int digits, double unit) {
      return cell.contains(key) ? fmt::format("{:.{}f}", cell[key].get<double>() / unit, digits) : std::string();
    };
    fmt::print("  {:<40}{:>10}{:>10}{:>8}{:>10}{:>8}{:>10}{:>10}\n", cell["name"].get<std::string>(), speed("ours"),
               speed("eager"), number("ratio_to_eager", 2, 1), speed("compile"), number("ratio_to_compile", 2, 1),
               number("ours_bytes", 0, 1 << 20), number("eager_bytes", 0, 1 << 20));
  }
  fmt::print("\n  Engram step / MoE step (1 thread): {:.3f}\n  where the step's time goes:",
             result["engram_step_over_moe_step"].get<double>());
  for (const auto& [name, share] : result["phases"].items())
    fmt::print(" {} {:.0f} %", name, 100 * share.get<double>());
  fmt::print("\n");
  return {};
}

}  // namespace

void add_bench_train(CLI::App& bench, Invocation& invocation) {
  struct Flags {
    bench::TrainBenchOptions options = bench::default_train_bench_options();
    std::string worker, worker_recompute = "none";
    int threads = 1;
    bool json = false, no_compile = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand("train", torch_command_help("bench", "train"));
  command->footer(
      "Example:\n"
      "  engram bench train --no-compile --rounds 3");
  command->add_option("--recipe", flags->options.recipe, "Recipe with memory")->capture_default_str();
  command->add_option("--moe", flags->options.moe_recipe, "Recipe without, for the ratio of the steps")
      ->capture_default_str();
  command->add_option("--python", flags->options.python, "Interpreter that has torch")->capture_default_str();
  command->add_option("--script", flags->options.script, "The PyTorch side")->capture_default_str();
  command->add_option("--rounds", flags->options.rounds, "Rounds; the sides take turns")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command->add_option("--steps", flags->options.steps, "Measured steps of each process")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command->add_flag("--no-compile", flags->no_compile, "Leave torch.compile out (it takes a minute a process)");
  command->add_flag("--recompute", flags->options.recompute, "Also with activations that are computed again");
  command->add_flag("--json", flags->json, "Print JSON");
  // What the worker processes are started with; of no use by hand.
  command->add_option("--worker", flags->worker)->check(CLI::IsMember({"train", "engram"}))->group("");
  command->add_option("--worker-recompute", flags->worker_recompute)->group("");
  command->add_option("--threads", flags->threads)->check(CLI::Range(1, 1024))->group("");
  command->callback([flags, &invocation] {
    invocation.run = [flags]() -> Status {
      flags->options.compile = !flags->no_compile;
      if (flags->worker.empty()) return bench_train(flags->options, flags->json);
      ENGRAM_ASSIGN_OR_RETURN(const auto result,
                              bench::run_train_worker(Env::posix(), flags->options.recipe, flags->worker,
                                                      flags->worker_recompute, flags->threads, flags->options.steps));
      fmt::print("{}\n", result.dump());
      return {};
    };
  });
}

}  // namespace engram::apps
