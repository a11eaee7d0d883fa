// engram tokenizer train: a byte-level BPE tokenizer.json from text.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "engram/core/output_lock.h"
#include "engram/core/progress.h"
#include "engram/data/documents.h"
#include "engram/data/text_files.h"
#include "engram/text/bpe_trainer.h"
#include "engram/text/tokenizer.h"

namespace engram::apps {
namespace {

// What `data prepare` puts behind a document, and what fills a batch.
const std::vector<std::string> kSpecialTokens = {"<|endoftext|>", "<|pad|>"};

constexpr int kSmallestVocabulary = 256 + 2;  // bytes and special tokens

struct TrainTokenizerFlags {
  std::vector<std::string> paths;
  std::string output;
  int vocab_size = 8192;
};

// kFailedPrecondition: there is none.
Status count_words(Env& env, const std::vector<std::string>& files, BpeTrainer& trainer) {
  constexpr size_t kPieceBytes = size_t{1} << 20;
  int64_t bytes = 0;
  for (const std::string& file : files) {
    ENGRAM_ASSIGN_OR_RETURN(const int64_t size, env.file_size(file));
    bytes += size;
  }
  // Where words end is the same before and after training.
  ENGRAM_ASSIGN_OR_RETURN(const std::string untrained, trainer.train(kSmallestVocabulary));
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::parse(untrained, "untrained tokenizer"));
  const TextCuts cuts(tokenizer);
  Progress progress("count words", bytes, "B");
  bool words = false;
  for (const std::string& file : files) {
    ENGRAM_ASSIGN_OR_RETURN(const MappedText mapped, map_text_file(env, file));
    size_t counted = 0;
    std::vector<std::string_view> documents = split_documents(mapped.text, "auto");
    if (!documents.empty()) {  // the line breaks that end the file are text, as those within are
      std::string_view& last = documents.back();
      const auto rest = mapped.text.substr(static_cast<size_t>(last.data() - mapped.text.data()));
      if (rest.find_first_not_of("\r\n", last.size()) == std::string_view::npos) last = rest;
    }
    for (const std::string_view document : documents) {
      for (const std::string_view piece : split_pieces(document, kPieceBytes, cuts)) {
        ENGRAM_RETURN_IF_ERROR(trainer.add(piece).with_context(file));
        words = words || piece.find_first_not_of(" \t\r\n\v\f") != std::string_view::npos;
        progress.advance(static_cast<int64_t>(piece.size()));
        counted += piece.size();
      }
    }
    progress.advance(static_cast<int64_t>(mapped.text.size() - counted));  // separators
    ENGRAM_RETURN_IF_ERROR(mapped.file->readable());                       // it was not cut meanwhile
  }
  if (!words)
    return make_status(
        StatusCode::kFailedPrecondition, "{}: got no word, wanted text to learn from",
        files.size() == 1 ? files.front() : fmt::format("{} and {} more", files.front(), files.size() - 1));
  return Status();
}

Status run_train(const TrainTokenizerFlags& flags) {
  Env& env = Env::posix();
  ENGRAM_ASSIGN_OR_RETURN(const TextFiles found, find_text_files(env, flags.paths));
  const std::vector<std::string>& files = found.files;
  ENGRAM_RETURN_IF_ERROR(env.create_directories(parent_path(flags.output)));
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock, OutputLock::file(env, flags.output));
  ENGRAM_ASSIGN_OR_RETURN(BpeTrainer trainer, BpeTrainer::create(kSpecialTokens));
  ENGRAM_RETURN_IF_ERROR(count_words(env, files, trainer));
  std::string json;
  {
    Progress progress("merge", flags.vocab_size, "tokens");
    int shown = 0;
    ENGRAM_ASSIGN_OR_RETURN(json, trainer.train(flags.vocab_size, [&](int tokens) {
      progress.advance(tokens - shown);
      shown = tokens;
    }));
  }
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::parse(json, flags.output));
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, flags.output, json));
  if (found.skipped > 0)
    fmt::print(stderr, "note: {} file{} left out for the name, {} for one\n", found.skipped,
               found.skipped == 1 ? " was" : "s were", found.first_skipped);
  if (trainer.forgotten_words() > 0)
    fmt::print(stderr, "note: more than {} distinct words; {} of the rarest were left out\n", BpeTrainer::kMaxWords,
               trainer.forgotten_words());
  const bool fewer = tokenizer.vocab_size() < flags.vocab_size;
  fmt::print("{}: {} tokens from {} file{}{}\n", flags.output, tokenizer.vocab_size(), files.size(),
             files.size() == 1 ? "" : "s",
             fewer ? fmt::format(" (the text gives no more, {} were wanted)", flags.vocab_size) : "");
  return Status();
}

}  // namespace

void add_tokenizer_train(CLI::App& group, Invocation& invocation) {
  auto flags = std::make_shared<TrainTokenizerFlags>();
  CLI::App* command = group.add_subcommand("train", "Make a tokenizer.json from text (byte-level BPE)");
  command->footer(
      "A folder stands for the text files below it. A file without <|endoftext|> lines is one document. The same text\n"
      "gives the same file. Tokens 0 and 1 are <|endoftext|> and <|pad|>, 256 are single bytes.\n"
      "Example:\n"
      "  engram tokenizer train --vocab-size 8192 --output own/tokenizer.json mytext");
  command->add_option("--vocab-size", flags->vocab_size, "Tokens, at most: fewer where the text gives no more")
      ->check(CLI::Range(kSmallestVocabulary, 1 << 24))
      ->capture_default_str();
  command->add_option("--output", flags->output, "tokenizer.json to write")->required()->type_name("FILE");
  command->add_option("files", flags->paths, "UTF-8 text files, or folders: all .txt, .md and .rst files below")
      ->required()
      ->type_name("PATH");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_train(*flags); }; });
}

}  // namespace engram::apps
