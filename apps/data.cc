// engram data prepare | inspect | export: text files -> token shards, a look into one, and other trainers' files of it.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "apps/commands.h"
#include "apps/stop_signal.h"
#include "engram/core/json.h"
#include "engram/data/prepare.h"
#include "engram/data/text_files.h"
#include "engram/data/token_files.h"
#include "engram/data/token_shard.h"
#include "engram/text/tokenizer.h"

namespace engram::apps {
namespace {

struct PrepareFlags {
  std::string tokenizer;
  PrepareOptions options;
  bool json = false;
};

void print_shard(const char* name, const TokenShardInfo& info) {
  fmt::print("{:<12}{} tokens, {} documents, {} bytes of text", name, info.num_tokens, info.num_documents,
             info.raw_bytes);
  if (info.num_tokens > 0)
    fmt::print(" ({:.2f} a token)", static_cast<double>(info.raw_bytes) / static_cast<double>(info.num_tokens));
  if (info.masked) fmt::print("; {} tokens and {} bytes count", info.counted_tokens, info.counted_bytes);
  fmt::print("\n");
}

Status run_prepare(PrepareFlags flags) {
  Env& env = Env::posix();
  PrepareOptions& options = flags.options;
  if (options.threads == 0)
    options.threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 64u));
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(env, flags.tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(TextFiles found, find_text_files(env, options.files, /*json_lines=*/true));
  if (found.skipped > 0)
    fmt::print(stderr, "note: {} file{} that do{} not end like text left out, {} for one\n", found.skipped,
               found.skipped == 1 ? "" : "s", found.skipped == 1 ? "es" : "", found.first_skipped);
  options.files = std::move(found.files);
  options.stop = &stop_on_signals();
  options.show_progress = true;
  ENGRAM_ASSIGN_OR_RETURN(const PrepareSummary summary, prepare_shards(env, tokenizer, options));
  if (flags.json) {
    fmt::print("{}", format_prepare_summary(options, summary));
    return {};
  }
  print_shard("train", summary.train);
  print_shard("validation", summary.validation);
  if (summary.repeated_documents > 0)
    fmt::print("repeated    {} documents ({} bytes of text), each equal to an earlier one{}\n",
               summary.repeated_documents, summary.repeated_bytes,
               options.deduplicate ? ": left out" : "; --deduplicate leaves them out");
  if (summary.end_of_text_id < 0 && options.end_of_text_token != kNoEndOfText)
    std::fputs("note: the tokenizer has no end-of-text token; documents follow each other without one\n", stderr);
  return {};
}

Status check_vocabulary(const std::string& path, const Tokenizer& tokenizer, const TokenShardInfo& info) {
  if (tokenizer.vocabulary_digest() == info.vocabulary_digest) return {};
  return invalid_argument("{}: vocabulary digest is {}, the shard was made with {}", path,
                          tokenizer.vocabulary_digest(), info.vocabulary_digest);
}

struct ExportFlags {
  std::string file, tokenizer, output;
  TokenFileFormat format = TokenFileFormat::kLlmC;
};

Status run_export(const ExportFlags& flags) {
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(env, flags.file));
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(env, flags.tokenizer));
  ENGRAM_RETURN_IF_ERROR(check_vocabulary(flags.tokenizer, tokenizer, shard.info()));
  return write_token_file(env, shard, flags.format, find_end_of_text_token(tokenizer), flags.output);
}

struct InspectFlags {
  std::string file, tokenizer;
  int64_t tokens = 64;
  bool json = false;
};

Result<std::string> decode(const std::string& path, const TokenShardInfo& info, const std::vector<int32_t>& ids) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(Env::posix(), path));
  ENGRAM_RETURN_IF_ERROR(check_vocabulary(path, tokenizer, info));
  return tokenizer.decode(ids);
}

Status run_inspect(const InspectFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(Env::posix(), flags.file));
  const TokenShardInfo& info = shard.info();
  std::vector<int32_t> first(static_cast<size_t>(std::min(flags.tokens, info.num_tokens)));
  shard.copy_tokens(0, first);
  std::optional<std::string> text;
  if (!flags.tokenizer.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(text, decode(flags.tokenizer, info, first));
  }
  if (flags.json) {
    nlohmann::ordered_json json = {{"tokens", info.num_tokens},
                                   {"documents", info.num_documents},
                                   {"raw_bytes", info.raw_bytes},
                                   {"vocab_size", info.vocab_size},
                                   {"vocabulary_digest", info.vocabulary_digest},
                                   {"first_tokens", first}};
    if (info.masked) json.update({{"counted_tokens", info.counted_tokens}, {"counted_bytes", info.counted_bytes}});
    if (text) json["text"] = *text;
    fmt::print("{}\n", json.dump(2));
    return {};
  }
  print_shard("shard", info);
  fmt::print("vocabulary  {} tokens, digest {}\n", info.vocab_size, info.vocabulary_digest);
  fmt::print("ids         {}\n", fmt::join(first, " "));
  if (text) fmt::print("text        {}\n", quote_text(*text, text->size()));
  return {};
}

void add_prepare(CLI::App& data, Invocation& invocation) {
  auto flags = std::make_shared<PrepareFlags>();
  flags->options.threads = 0;
  CLI::App* command = data.add_subcommand("prepare", "Tokenise text files into train.tokens and validation.tokens");
  command->footer(
      "Example:\n"
      "  engram data prepare --tokenizer tokenizer.json --output data text/*.txt\n"
      "writes data/train.tokens and data/validation.tokens, which a recipe names as data.train and data.validation.\n"
      "A line of a .jsonl file is a document: {\"text\": \"...\"}, or {\"prompt\": \"...\", \"answer\": \"...\"}, of "
      "which\n"
      "training learns the answer alone. Other keys are ignored. Text and .jsonl files may be packed (.gz, .zst).\n"
      "  engram data prepare --tokenizer gpt2/tokenizer.json --output data fineweb_train_000001.bin\n"
      "takes the ids of llm.c's .bin files, and of Megatron's .bin and .idx, as they are.");
  PrepareOptions& options = flags->options;
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json")->required();
  command->add_option("--output", options.output_directory, "Folder for the shards and prepare.json")->required();
  command->add_option("--validation-fraction", options.validation_fraction,
                      "Share of the documents kept for validation, by a hash of their text (default 0.01)");
  command->add_option("--document-separator", options.document_separator,
                      "What stands between documents: auto (a line <|endoftext|> or form feed; default), blank-line, "
                      "none (a file is a document), or the text of a line");
  command->add_option("--end-of-text", options.end_of_text_token,
                      "Token after each document (default: the tokenizer's own, such as <|endoftext|>), or none");
  command->add_option("--text-field", options.text_field, "Key of a document's text in .jsonl files (default text)");
  command->add_flag("--deduplicate", options.deduplicate, "Of documents that are equal to the byte, keep the first");
  command->add_option("--threads", options.threads, "0 for all cores (default)")->check(CLI::Range(0, 1024));
  command->add_flag("--json", flags->json, "Print the summary as JSON");
  command
      ->add_option(
          "files", options.files,
          "UTF-8 text files, .jsonl files, token files (.bin, .idx), or folders: all .txt, .md, .rst and .jsonl "
          "files below")
      ->required();
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_prepare(*flags); }; });
}

void add_token_export(CLI::App& data, Invocation& invocation) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command = data.add_subcommand("export", "Write a token shard as llm.c or Megatron-LM reads it");
  command->footer(
      "Example:\n"
      "  engram data export --format megatron --tokenizer tokenizer.json data/train.tokens text\n"
      "writes text.bin and text.idx, which Megatron names by --data-path text.");
  command->add_option("--format", flags->format, "llm.c or megatron")
      ->required()
      ->transform(CLI::CheckedTransformer(std::map<std::string, TokenFileFormat>{
          {"llm.c", TokenFileFormat::kLlmC}, {"megatron", TokenFileFormat::kMegatron}}));
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json of the shard")->required();
  command->add_option("file", flags->file, "Token shard")->required();
  command->add_option("output", flags->output, "llm.c: the file to write; megatron: its name without .bin and .idx")
      ->required();
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_export(*flags); }; });
}

void add_inspect(CLI::App& data, Invocation& invocation) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = data.add_subcommand("inspect", "Check a token shard and show its counts and first tokens");
  command->footer(
      "Example:\n"
      "  engram data inspect data/train.tokens --tokenizer tokenizer.json --tokens 100");
  command->add_option("file", flags->file, "Token shard")->required();
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json, to show text");
  command->add_option("--tokens", flags->tokens, "How many of the first tokens to show (default 64)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  command->add_flag("--json", flags->json, "Print as JSON");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_inspect(*flags); }; });
}

}  // namespace

void add_data(CLI::App& app, Invocation& invocation) {
  CLI::App* data = app.add_subcommand("data", "Prepare, inspect and export training text");
  data->require_subcommand(1);
  data->footer("Example:\n  engram data prepare --tokenizer tokenizer.json --output data text/*.txt");
  add_prepare(*data, invocation);
  add_inspect(*data, invocation);
  add_token_export(*data, invocation);
  add_data_ruler(*data, invocation);
}

}  // namespace engram::apps
