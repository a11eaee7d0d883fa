#include <fmt/format.h>

#include <cstdio>

#include "apps/commands.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "apps/torch_process.h"
#include "engram/core/json.h"
#include "engram/dist/world.h"
#include "engram/lab/demo.h"
#include "engram/port/process.h"

namespace engram::apps {
namespace {

// The two losses, side by side, as a person wants to read them.
Status print_summary(Env& env, const std::string& output, bool json) {
  const std::string path = join_path(output, "summary.json");
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
  if (json) {
    fmt::print("{}", text);
    return {};
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto summary, parse_json(text, path));
  fmt::print("\n{:<22}{:>12}{:>15}{:>12}{:>12}{:>8}\n", "", "val loss", "bits per byte", "P_tot", "P_act", "rho");
  const auto row = [](const char* name, const auto& result, const auto& model) {
    fmt::print("{:<22}{:>12.4f}{:>15.4f}{:>12}{:>12}{:>8.3f}\n", name, result.at("val_loss").template get<double>(),
               result.at("bits_per_byte").template get<double>(), model.at("p_tot").template get<int64_t>(),
               model.at("p_act").template get<int64_t>(), model.at("rho").template get<double>());
  };
  const auto& moe = summary.at("models").at("moe");
  const auto& engram = summary.at("models").at("engram");
  row("pure MoE", moe, moe);
  row("Engram", engram, engram);
  row("Engram, memory off", engram.at("memory_off"), engram);
  fmt::print("\nEngram minus MoE: {:+.4f} nats per token\nreport:  {}\nnumbers: {}\n",
             engram.at("val_loss").template get<double>() - moe.at("val_loss").template get<double>(),
             join_path(output, "report.html"), path);
  return {};
}

}  // namespace

void add_demo(CLI::App& app, Invocation& invocation) {
  auto* command = app.add_subcommand("demo", torch_command_help("", "demo"));
  command->footer(
      "Text comes from scripts/corpus.sh (demo/data). An interrupted demo continues when it is run again.\n"
      "Example:\n"
      "  engram demo --set train.steps=200 --prompt 'The King of'");
  auto options = std::make_shared<DemoOptions>();
  auto json = std::make_shared<bool>(false);
  command->add_option("--output", options->output, "folder for checkpoints, summary.json and report.html")
      ->capture_default_str();
  command->add_option("--moe", options->moe_recipe, "recipe of the pure-MoE model")->capture_default_str();
  command->add_option("--engram", options->engram_recipe, "recipe of the Engram model")->capture_default_str();
  command->add_option("--set", options->overrides, "KEY=VALUE for both recipes, e.g. train.steps=200");
  command->add_option("--prompt", options->prompt, "what both models continue")->capture_default_str();
  command->add_flag("--json", *json, "print summary.json instead of a table");
  command->callback([&invocation, options, json] {
    invocation.run = [options, json]() -> Status {
      leave_world();  // both models train in a process each, whatever started this one
      options->executable = port::program_path();
      options->stop = &stop_on_signals();
      set_up_torch();
      ENGRAM_RETURN_IF_ERROR(run_demo(Env::posix(), *options));
      return print_summary(Env::posix(), options->output, *json);
    };
  });
}

}  // namespace engram::apps
