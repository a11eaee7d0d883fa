// engram data ruler: synthetic retrieval documents for training, from RULER's generators.
#include <cstdio>
#include <memory>

#include "apps/commands.h"
#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/core/output_lock.h"
#include "engram/data/ruler.h"

namespace engram::apps {
namespace {

struct RulerFlags {
  std::string tokenizer, haystack, facts, output;
  std::vector<std::string> tasks;
  RulerOptions options;
  int64_t documents = 1000;
};

Result<std::vector<RulerTask>> chosen_tasks(const RulerFlags& flags, const RulerGenerator& generator) {
  std::vector<RulerTask> tasks;
  for (RulerTask task : kRulerTasks) {
    if (flags.tasks.empty() && generator.has(task)) tasks.push_back(task);
    for (const std::string& name : flags.tasks) {
      if (name == ruler_task_name(task)) tasks.push_back(task);
    }
  }
  if (!flags.tasks.empty() && tasks.size() != flags.tasks.size()) {
    std::string known;
    for (RulerTask task : kRulerTasks) known += fmt::format(" {}", ruler_task_name(task));
    return invalid_argument("--tasks: got a name that is not one of{}, or the same name twice", known);
  }
  return tasks;
}

// The tasks take turns; each document is a prompt and its answer.
Status run_ruler(const RulerFlags& flags) {
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock, OutputLock::file(env, flags.output));
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(env, flags.tokenizer));
  std::string haystack, facts;
  if (!flags.haystack.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(haystack, read_text_file(env, flags.haystack));
  }
  if (!flags.facts.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(facts, read_text_file(env, flags.facts));
  }
  ENGRAM_ASSIGN_OR_RETURN(const RulerGenerator generator,
                          RulerGenerator::create(tokenizer, flags.options, haystack, facts));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<RulerTask> tasks, chosen_tasks(flags, generator));
  // The text is held in memory until it is whole; a token has some four bytes.
  const double wanted = 4.0 * static_cast<double>(flags.options.length) * static_cast<double>(flags.documents);
  const int64_t available = available_memory_bytes();
  if (wanted > 0.5 * static_cast<double>(available))
    return make_status(StatusCode::kResourceExhausted,
                       "{} documents of {} tokens need about {:.1f} GiB of memory, half of what is free is {:.1f} GiB",
                       flags.documents, flags.options.length, wanted / (1 << 30),
                       0.5 * static_cast<double>(available) / (1 << 30));
  std::string text;
  for (int64_t i = 0; i < flags.documents; ++i) {
    const auto turn = static_cast<size_t>(i) % tasks.size();
    ENGRAM_ASSIGN_OR_RETURN(const RulerSample sample,
                            generator.sample(tasks[turn], i / static_cast<int64_t>(tasks.size())));
    text += fmt::format("{}{}{}\n", i == 0 ? "" : "<|endoftext|>\n", sample.prompt, sample.answer);
  }
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, flags.output, text));
  fmt::print("{}: {} documents of {} tasks, at most {} tokens each, {} bytes\n", flags.output, flags.documents,
             tasks.size(), flags.options.length, text.size());
  return Status();
}

}  // namespace

void add_data_ruler(CLI::App& data, Invocation& invocation) {
  auto flags = std::make_shared<RulerFlags>();
  CLI::App* command = data.add_subcommand("ruler", "Write documents of RULER's long-context tasks, with their answers");
  command->footer(
      "Use another --seed than `engram lab ruler` (default 0), so that no sample is trained on.\n"
      "Example:\n"
      "  engram data ruler --tokenizer tokenizer.json --length 1024 --documents 500 --output ruler.txt");
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json that lengths are measured with")->required();
  command->add_option("--output", flags->output, "text file, documents between <|endoftext|> lines")->required();
  command->add_option("--documents", flags->documents, "how many")
      ->check(CLI::Range(1, 10000000))
      ->capture_default_str();
  command->add_option("--length", flags->options.length, "tokens of a document, at most")->capture_default_str();
  command->add_option("--tasks", flags->tasks, "names of tasks, comma between (default: all)")->delimiter(',');
  command->add_option("--digits", flags->options.digits, "of a needle's value")->capture_default_str();
  command->add_option("--needles", flags->options.needles, "of the tasks with several")->capture_default_str();
  command->add_option("--repeats", flags->options.repeats, "times that each needle appears in the text")
      ->capture_default_str();
  command->add_option("--haystack", flags->haystack, "text around the needles (default: RULER's noise sentences)");
  command->add_option("--facts", flags->facts, "the factbook's text, for questions");
  flags->options.seed = 1;
  command->add_option("--seed", flags->options.seed, "of what is drawn")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_ruler(*flags); }; });
}

}  // namespace engram::apps
