// engram lab: a study from its file, the page of one that has run, or a probe of checkpoints (probe.cc).
#include <algorithm>
#include <filesystem>
#include <memory>

#include "apps/command_line.h"
#include "apps/commands.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "engram/core/json.h"
#include "engram/dist/world.h"
#include "engram/lab/pages/results.h"
#include "engram/lab/probes/probes.h"
#include "engram/lab/study/study_report.h"
#include "engram/lab/study/study_runner.h"
#include "engram/port/process.h"

namespace engram::apps {
namespace {

// Those of recipes/studies. The file of another study brings its name.
const std::vector<std::string> kStudies = {"ablation",  "allocation", "long-context",   "memory",
                                           "placement", "retrofit",   "training-curve", "tune"};

// Throws for a word that nothing goes by.
void check_word(const std::string& word, const std::string& path) {
  std::vector<std::string> probes, known = kStudies;
  for (const ProbeEntry& probe : probe_table()) probes.emplace_back(probe.name);
  known.insert(known.end(), probes.begin(), probes.end());
  known.emplace_back("report");
  std::error_code none;
  if (std::ranges::find(known, word) != known.end() || std::filesystem::is_regular_file(path, none)) return;
  throw CLI::ValidationError(fmt::format("engram lab has no probe or study {} (probes: {}; studies: {}){}",
                                         quote_text(word), fmt::join(probes, ", "), fmt::join(kStudies, ", "),
                                         suggest(word, known)));
}

Status print_numbers(const std::string& folder) {
  ENGRAM_ASSIGN_OR_RETURN(const auto numbers, study_numbers(Env::posix(), folder));
  fmt::print("{}\n", numbers.dump(1));
  return {};
}

}  // namespace

void add_lab(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<StudyOptions>();
  auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("lab", torch_command_help("", "lab"));
  command->footer(fmt::format("Studies, in recipes/studies: {}\n", fmt::join(kStudies, ", ")) +
                  "Examples:\n"
                  "  engram lab allocation recipes/studies/allocation_cpu_small.toml --jobs 2\n"
                  "  engram lab report results/allocation-cpu-small-DATE     makes the pages of any results again\n"
                  "  engram lab logit-lens demo/moe demo/engram              a probe: engram lab PROBE --help");
  add_probes(*command, invocation);
  command->allow_extras();  // until the callback has looked at the first word
  command->add_option("study", options->name, "the study's name, or `report`");
  command->add_option("recipe", options->path, "study file, recipes/studies/ has some; of `report` a results folder");
  command->add_option("--seeds", options->seeds, "seeds of every point, instead of the study file's")
      ->check(CLI::Range(1, 1000));
  command->add_option("--jobs", options->jobs, "runs side by side")->check(CLI::Range(1, 256))->capture_default_str();
  command->add_flag("--resume", options->resume, "continue a study that has begun");
  command->add_flag("--dry-run", options->dry_run, "print the runs and their parameters, train nothing");
  command->add_option("--set", options->overrides, "KEY=VALUE for the recipe of every run")->allow_extra_args(false);
  command->add_option("--results", options->results, "where STUDY-SCALE-DATE/ is")->capture_default_str();
  command->add_option("--work", options->work, "where checkpoints and weights are")->capture_default_str();
  command->add_flag("--json", *json, "of `report`: print what the pages say as JSON, write nothing");
  command->callback([&invocation, options, json, command] {
    if (!command->get_subcommands().empty()) return;  // a probe
    if (!options->name.empty()) check_word(options->name, options->path);
    if (const auto extras = command->remaining(); !extras.empty()) throw CLI::ExtrasError("lab", extras);
    if (options->name.empty() || options->path.empty())
      throw CLI::RequiredError("a study and its file, or a probe and its checkpoint,");
    invocation.run = [options, json]() -> Status {
      if (options->name == "report")
        return *json ? print_numbers(options->path) : render_results(Env::posix(), options->path);
      leave_world();  // each run of a study is a process by itself, whatever started this one
      options->executable = port::program_path();
      options->command = fmt::format("engram lab {} {}", options->name, options->path);
      if (options->seeds > 0) options->command += fmt::format(" --seeds {}", options->seeds);
      if (options->jobs > 1) options->command += fmt::format(" --jobs {}", options->jobs);
      for (const std::string& text : options->overrides) options->command += " --set " + text;
      options->stop = &stop_on_signals();  // children leave checkpoints
      return run_study(Env::posix(), *options);
    };
  });
}

}  // namespace engram::apps
