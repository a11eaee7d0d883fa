// engram eval: a checkpoint's loss and bits per byte on a text, or its answers to a suite of questions.
#include <csignal>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "engram/core/progress.h"
#include "engram/lab/probe_text.h"
#include "engram/lab/suite.h"
#include "engram/model/evaluate.h"

namespace engram::apps {
namespace {

volatile std::sig_atomic_t interrupted = 0;
void on_interrupt(int) { interrupted = 1; }

struct EvalFlags {
  std::string checkpoint, file, tokens, memory = "on";
  int64_t batch_size = 8;
  SuiteOptions suite;
  bool json = false;
};

Status run_eval(const EvalFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, load_model(Env::posix(), flags.checkpoint));
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const ProbeText text, flags.file.empty()
                                                    ? read_shard_text(env, flags.tokens, *model.tokenizer)
                                                    : read_plain_text(env, flags.file, *model.tokenizer));
  EvaluateOptions options;
  options.batch_size = flags.batch_size;
  options.memory_off = flags.memory == "off";
  Progress progress("eval", static_cast<int64_t>(text.tokens.size()) - 1, "tokens");
  int64_t shown = 0;
  options.on_progress = [&](int64_t done, int64_t) {
    progress.advance(done - shown);
    shown = done;
    return interrupted == 0;
  };
  std::signal(SIGINT, on_interrupt);
  Result<EvaluateResult> result = evaluate(model, text.tokens, text.document_starts, text.bytes, options);
  std::signal(SIGINT, SIG_DFL);
  progress.finish();
  if (!result.ok()) return result.status();
  const std::string memory = model.tables.empty() ? "none" : flags.memory;
  if (flags.json) {
    const nlohmann::ordered_json out = {{"tokens", result->tokens},
                                        {"bytes", result->bytes},
                                        {"loss", result->loss},
                                        {"bits_per_byte", result->bits_per_byte},
                                        {"memory", memory}};
    std::printf("%s\n", out.dump().c_str());
  } else {
    fmt::print("loss {:.4f} nats per token, {:.4f} bits per byte over {} tokens, {} bytes; memory {}\n", result->loss,
               result->bits_per_byte, result->tokens, result->bytes, memory);
  }
  return Status();
}

Status run_suite_command(const EvalFlags& flags) {
  SuiteOptions options = flags.suite;
  options.checkpoint = flags.checkpoint;
  options.batch_size = 4 * flags.batch_size;  // questions are shorter than windows
  options.memory_off = flags.memory == "off";
  options.command =
      fmt::format("engram eval {} --suite {} --shots {} --limit {} --seed {} --memory {}", flags.checkpoint,
                  options.suite, options.shots, options.limit, options.seed, flags.memory);
  options.keep_going = [] { return interrupted == 0; };
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
  std::string output;
  Result<nlohmann::ordered_json> data = run_suite(Env::posix(), options, &output);
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  if (!data.ok()) return data.status();
  if (flags.json) {
    std::printf("%s\n", data->dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
    return Status();
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::string summary, Env::posix().read_file(join_path(output, "summary.md")));
  std::printf("%s\nreport:  %s\n", summary.c_str(), join_path(output, "report.html").c_str());
  return Status();
}

}  // namespace

void add_eval(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command =
      app.add_subcommand("eval", "Loss and bits per byte of a text under a checkpoint, or its answers to a suite");
  command->add_option("checkpoint", flags->checkpoint, "checkpoint directory, or a training output (its latest)")
      ->required();
  CLI::Option_group* source = command->add_option_group("source");
  source->add_option("--file", flags->file, "UTF-8 text, read as one document");
  source->add_option("--tokens", flags->tokens, "token shard of `engram data prepare`");
  source->add_option("--suite", flags->suite.suite, "questions: a file, a folder, or NAME of demo/eval/NAME.jsonl");
  source->require_option(1);
  command->add_option("--shots", flags->suite.shots, "suite: worked examples in front of each question")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  command->add_option("--limit", flags->suite.limit, "suite: questions of one task, drawn with the seed; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--seed", flags->suite.seed, "suite: of what is drawn")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--train-text", flags->suite.train_text,
                      "suite: text that contamination is looked for in (default: the recipe's; none: no check)");
  command->add_option("--output", flags->suite.output,
                      "suite: folder of the result (default results/eval-DATE); an interrupted run continues there");
  command->add_option("--memory", flags->memory, "off: knock the rows out, Engram blocks add nothing")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  command->add_option("--batch-size", flags->batch_size, "windows per forward pass (suite: a quarter of the questions)")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag("--json", flags->json,
                    R"(print {"tokens", "bytes", "loss", "bits_per_byte", "memory"}; suite: data.json)");
  command->callback([flags, &invocation] {
    invocation.run = [flags] { return flags->suite.suite.empty() ? run_eval(*flags) : run_suite_command(*flags); };
    ;
  });
}

}  // namespace engram::apps
