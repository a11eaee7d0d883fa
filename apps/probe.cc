// engram lab PROBE: one question about one or two trained checkpoints.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/torch_process.h"
#include "engram/core/json.h"
#include "engram/lab/probes/probes.h"

namespace engram::apps {
namespace {

struct ProbeFlags {
  ProbeOptions options;
  std::string other;
  bool json = false;
};

// What makes a run repeatable stands in the record: the subcommand and every flag that was given.
std::string command_line(const CLI::App& command) {
  std::string line = "engram lab " + command.get_name();
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() == 0 || option->check_lname("json")) continue;
    for (const std::string& value : option->results()) {
      if (!option->get_positional()) line += fmt::format(" {}", option->get_name());
      line += fmt::format(" {}", value.find(' ') == std::string::npos ? value : quote_text(value, 400));
    }
  }
  return line;
}

Status run(const ProbeEntry& probe, ProbeFlags flags, std::string command) {
  if (!flags.other.empty()) flags.options.checkpoints.push_back(flags.other);
  flags.options.command = std::move(command);
  set_up_torch();
  std::string output;
  ENGRAM_ASSIGN_OR_RETURN(const auto data, run_probe(Env::posix(), probe, flags.options, &output));
  if (flags.json) {
    std::printf("%s\n", data.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
    return Status();
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::string summary, Env::posix().read_file(join_path(output, "summary.md")));
  std::printf("%s\nreport:  %s\n", summary.c_str(), join_path(output, "report.html").c_str());
  return Status();
}

// The flags that only some probes read.
void add_reading_flags(CLI::App& command, ProbeOptions& options, const ProbeEntry& probe) {
  const auto add = [&](const char* flag, auto& value, const char* help) -> CLI::Option* {
    const std::string flags = fmt::format(" {} ", probe.reads);
    if (flags.find(fmt::format(" {} ", flag + 2)) == std::string::npos) return nullptr;  // without its dashes
    return command.add_option(flag, value, help);
  };
  if (add("--text", options.text, "held-out text, or a .tokens shard (default: the recipe's)")) {
    command.add_option("--max-tokens", options.max_tokens, "of the held-out text; 0: all")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
  }
  if (auto* option =
          add("--window", options.window, "tokens that are read together (default: the context, at most 1024)")) {
    option->check(CLI::PositiveNumber);
  }
  add("--null", options.null, "a third checkpoint that differs from the baseline by its seed only");
  add("--train-text", options.train_text, "what the rows learned from (default: the recipe's)");
  const bool with_words = std::string_view(probe.name) == "patchscope";
  add("--entities", options.entities,
      with_words ? "NAME | WORD, WORD, one a line (default: 200 names)"
                 : "names, one a line (default: a built-in list)");
  add("--items", options.items, "questions with choices, JSON lines (default: built-in facts)");
  add("--reading", options.reading, "such questions whose prompts hold the answer (default: made from the facts)");
  if (auto* option = add("--entity", options.entity, "whose every description is shown")) option->capture_default_str();
  add("--describe", options.describe, "prompt that ends in a placeholder token (default: three examples and x)");
  if (auto* option = add("--ngram", options.ngram, "text that ends in the n-gram to change")) {
    option->capture_default_str();
  }
  add("--toward", options.toward, "take the rows of this text's n-gram instead of gradient steps");
  if (auto* option = add("--target", options.target, "what should follow")) option->capture_default_str();
  add("--save-overlay", options.save_overlay, "write the edited rows here, as an overlay of --table");
  add("--table", options.table, "row file of this checkpoint that the overlay is for (engram table convert)");
  if (auto* option =
          add("--lengths", options.lengths, "tokens of prompt and answer (default: the context and its half)")) {
    option->delimiter(',');
  }
  if (auto* option = add("--samples", options.samples, "of each task and length")) {
    option->check(CLI::Range(1, 10000))->capture_default_str();
  }
  if (auto* option = add("--digits", options.digits, "of a needle's value")) option->capture_default_str();
  if (auto* option = add("--needles", options.needles, "of the tasks with several")) option->capture_default_str();
  add("--haystack", options.haystack, "text around the needles (default: RULER's noise sentences)");
  add("--facts", options.facts, "the factbook's text, for questions (default: none)");
  if (auto* option = add("--short", options.short_context, "tokens of the short context (default: an eighth)")) {
    option->check(CLI::PositiveNumber);
  }
  if (auto* option = add("--steps", options.steps, "gradient steps")) {
    option->check(CLI::Range(0, 100000))->capture_default_str();
  }
}

void add_probe(CLI::App& lab, Invocation& invocation, const ProbeEntry& probe) {
  CLI::App* command = lab.add_subcommand(probe.name, probe.question);
  command->footer(fmt::format("Example:\n  engram lab {} demo/engram", probe.name));
  auto flags = std::make_shared<ProbeFlags>();
  ProbeOptions& options = flags->options;
  options.checkpoints.resize(1);
  command->add_option("checkpoint", options.checkpoints[0], "checkpoint directory, or a training output (its latest)")
      ->required();
  command->add_option("other", flags->other, "a second one to compare: the baseline first, then the memory");
  command->add_option("--output", options.output, "folder of the result (default results/PROBE-DATE)");
  command->add_option("--seed", options.seed, "of what is drawn")->check(CLI::NonNegativeNumber)->capture_default_str();
  command->add_flag("--json", flags->json, "print data.json instead of the summary");
  add_reading_flags(*command, options, probe);
  command->callback([&invocation, &probe, flags, command] {
    invocation.run = [&probe, flags, line = command_line(*command)] { return run(probe, *flags, line); };
  });
}

}  // namespace

void add_probes(CLI::App& lab, Invocation& invocation) {
  for (const ProbeEntry& probe : probe_table()) add_probe(lab, invocation, probe);
}

}  // namespace engram::apps
