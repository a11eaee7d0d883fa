// engram eval: a checkpoint's loss and bits per byte on a text, or its answers to a suite of questions.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "apps/torch_process.h"
#include "engram/core/progress.h"
#include "engram/data/text_parts.h"
#include "engram/kernels/row_codec.h"
#include "engram/lab/suite/suite.h"
#include "engram/lab/text/probe_text.h"
#include "engram/model/decode/evaluate.h"

namespace engram::apps {
namespace {

struct EvalFlags {
  std::string checkpoint, file, tokens, memory = "on";
  std::vector<std::string> rows;   // row types to compare
  std::vector<std::string> parts;  // training shards: the loss of the text's parts as well
  int64_t batch_size = 8;
  SuiteOptions suite;
  bool json = false;
};

// The model's tables as a row file of this type would give them back: `engram table convert --dtype`.
Status round_rows(LoadedModel& model, const std::vector<torch::Tensor>& exact, RowType type, int64_t& row_bytes) {
  model.tables.clear();
  for (const torch::Tensor& table : exact) {
    const RowFormat format = default_row_format(type, table.size(1));
    row_bytes = format.row_bytes();
    std::vector<std::byte> encoded(static_cast<size_t>(table.size(0) * row_bytes));
    ENGRAM_RETURN_IF_ERROR(encode_rows(format, table.const_data_ptr<float>(), table.size(0), encoded.data()));
    torch::Tensor rounded = torch::empty_like(table);
    decode_rows(format, encoded.data(), static_cast<size_t>(row_bytes), table.size(0),
                rounded.mutable_data_ptr<float>());
    model.tables.push_back(std::make_unique<ResidentTable>(rounded));
  }
  return {};
}

// Quality against bytes per row: the loss with the tables stored in each of the types.
Status run_rows(const EvalFlags& flags, LoadedModel model, const ProbeText& text) {
  if (model.tables.empty()) return invalid_argument("--rows: {} has no memory", flags.checkpoint);
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<torch::Tensor> exact,
                          load_table_rows(Env::posix(), model.directory, model.config));
  EvaluateOptions options;
  options.batch_size = flags.batch_size;
  options.targets = text.targets;
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  Progress progress("eval", static_cast<int64_t>(flags.rows.size()), "row types");
  std::vector<std::string> lines;
  double first = 0;
  for (const std::string& name : flags.rows) {
    ENGRAM_ASSIGN_OR_RETURN(const RowType type, parse_row_type(name));
    int64_t row_bytes = 0;
    ENGRAM_RETURN_IF_ERROR(round_rows(model, exact, type, row_bytes));
    ENGRAM_ASSIGN_OR_RETURN(const EvaluateResult result,
                            evaluate(model, text.tokens, text.document_starts, text.bytes, options));
    if (out.empty()) first = result.loss;
    out.push_back({{"rows", name},
                   {"row_bytes", row_bytes},
                   {"loss", result.loss},
                   {"bits_per_byte", result.bits_per_byte},
                   {"change", result.loss - first}});
    lines.push_back(fmt::format("{:<8}{:>14}{:>12.5f}{:>16.5f}{:>+14.5f}", name, row_bytes, result.loss,
                                result.bits_per_byte, result.loss - first));
    progress.advance(1);
  }
  progress.finish();
  if (flags.json) {
    std::printf("%s\n", nlohmann::ordered_json{{"rows", out}}.dump().c_str());
  } else {
    fmt::print("{:<8}{:>14}{:>12}{:>16}{:>14}\n", "rows", "bytes a row", "loss", "bits per byte", "change");
    for (const std::string& line : lines) std::printf("%s\n", line.c_str());
  }
  return {};
}

Result<TextParts> read_parts(const EvalFlags& flags, int64_t window) {
  if (flags.tokens.empty()) return invalid_argument("parts: got no token shard to divide");
  std::vector<TokenShard> text, training;
  ENGRAM_ASSIGN_OR_RETURN(TokenShard shard, TokenShard::open(Env::posix(), flags.tokens));
  text.push_back(std::move(shard));
  std::vector<const TokenShard*> pointers;
  for (const std::string& path : flags.parts) {
    ENGRAM_ASSIGN_OR_RETURN(TokenShard read, TokenShard::open(Env::posix(), path));
    training.push_back(std::move(read));
  }
  for (const TokenShard& read : training) pointers.push_back(&read);
  return divide_text(read_shards(text).token_ids, window, text, pointers);
}

Status run_eval(const EvalFlags& flags) {
  set_up_torch();
  ENGRAM_ASSIGN_OR_RETURN(LoadedModel model, load_model(Env::posix(), flags.checkpoint));
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const ProbeText text, flags.file.empty()
                                                    ? read_shard_text(env, flags.tokens, *model.tokenizer)
                                                    : read_plain_text(env, flags.file, *model.tokenizer));
  if (!flags.rows.empty()) return run_rows(flags, std::move(model), text);
  EvaluateOptions options;
  options.batch_size = flags.batch_size;
  options.targets = text.targets;
  options.memory_off = flags.memory == "off";
  Progress progress("eval", static_cast<int64_t>(text.tokens.size()) - 1, "tokens");
  int64_t shown = 0;
  const std::atomic<bool>& stop = stop_on_signals();
  options.on_progress = [&](int64_t done, int64_t) {
    progress.advance(done - shown);
    shown = done;
    return !stop;
  };
  TextParts parts;
  if (!flags.parts.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(parts, read_parts(flags, model.config.max_position_embeddings));
    options.cell_of = parts.cells;
    options.cells = parts.count();
  }
  Result<EvaluateResult> result = evaluate(model, text.tokens, text.document_starts, text.bytes, options);
  progress.finish();
  if (!result.ok()) return result.status();
  const std::string memory = model.tables.empty() ? "none" : flags.memory;
  std::vector<PartLoss> losses;
  if (!flags.parts.empty()) losses = parts.losses(result->cell_nats, result->cell_tokens);
  if (flags.json) {
    nlohmann::ordered_json out = {{"tokens", result->tokens},
                                  {"bytes", result->bytes},
                                  {"loss", result->loss},
                                  {"bits_per_byte", result->bits_per_byte},
                                  {"memory", memory}};
    for (const PartLoss& part : losses) out["parts"][part.name] = {{"tokens", part.tokens}, {"loss", part.loss}};
    std::printf("%s\n", out.dump().c_str());
  } else {
    fmt::print("loss {:.4f} nats per token, {:.4f} bits per byte over {} tokens, {} bytes; memory {}\n", result->loss,
               result->bits_per_byte, result->tokens, result->bytes, memory);
    for (const PartLoss& part : losses) fmt::print("{:<18}{:>10} tokens{:>10.4f}\n", part.name, part.tokens, part.loss);
  }
  return Status();
}

Status run_suite_command(const EvalFlags& flags) {
  set_up_torch();
  SuiteOptions options = flags.suite;
  options.checkpoint = flags.checkpoint;
  options.batch_size = 4 * flags.batch_size;  // questions are shorter than windows
  options.memory_off = flags.memory == "off";
  options.command =
      fmt::format("engram eval {} --suite {} --shots {} --limit {} --seed {} --memory {}", flags.checkpoint,
                  options.suite, options.shots, options.limit, options.seed, flags.memory);
  options.keep_going = [&stop = stop_on_signals()] { return !stop; };
  std::string output;
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::ordered_json data, run_suite(Env::posix(), options, &output));
  if (flags.json) {
    std::printf("%s\n", data.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
    return Status();
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::string summary, Env::posix().read_file(join_path(output, "summary.md")));
  std::printf("%s\nreport:  %s\n", summary.c_str(), join_path(output, "report.html").c_str());
  return Status();
}

}  // namespace

void add_eval(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", torch_command_help("", "eval"));
  command->footer(
      "Examples:\n"
      "  engram eval demo/engram --file text.txt\n"
      "  engram eval demo/engram --tokens demo/data/validation.tokens --memory off\n"
      "  engram eval demo/engram --suite in-domain --shots 2");
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
  command
      ->add_option("--rows", flags->rows,
                   "the loss with the tables stored in each of these row types, the first the reference:"
                   " fp32,bf16,fp8,int8,int4")
      ->delimiter(',')
      ->check(CLI::IsMember({"fp32", "bf16", "fp8", "int8", "int4"}));
  command
      ->add_option("--parts", flags->parts,
                   "training shards: with --tokens also the loss of repeats of the context and of the rest, and of what"
                   " overlaps with these shards and what does not")
      ->delimiter(',');
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
