// engram eval: the loss and bits per byte of a text under a checkpoint.
#include <csignal>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "engram/core/progress.h"
#include "engram/data/token_shard.h"
#include "engram/model/evaluate.h"

namespace engram::apps {
namespace {

volatile std::sig_atomic_t interrupted = 0;
void on_interrupt(int) { interrupted = 1; }

struct EvalFlags {
  std::string checkpoint, file, tokens, memory = "on";
  int64_t batch_size = 8;
  bool json = false;
};

// A text file is one document, as it stands.
Result<TokenText> read_text(const std::string& path, const Tokenizer& tokenizer) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, Env::posix().read_file(path));
  Result<std::vector<int32_t>> ids = tokenizer.encode(text);
  if (!ids.ok()) return ids.status().with_context(path);
  if (ids->size() < 2) return invalid_argument("{}: got {} tokens, wanted at least 2", path, ids->size());
  return TokenText{std::move(ids).value(), {0}, static_cast<int64_t>(text.size())};
}

Result<TokenText> read_shard(const std::string& path, const Tokenizer& tokenizer) {
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(Env::posix(), path));
  if (shard.info().vocabulary_digest != tokenizer.vocabulary_digest()) {
    return invalid_argument("{}: got tokens of the vocabulary {}, wanted the checkpoint's {}", path,
                            shard.info().vocabulary_digest, tokenizer.vocabulary_digest());
  }
  if (shard.info().num_tokens < 2) {
    return invalid_argument("{}: got {} tokens, wanted at least 2", path, shard.info().num_tokens);
  }
  return read_shards({&shard, 1});
}

Status run_eval(const EvalFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, load_model(Env::posix(), flags.checkpoint));
  ENGRAM_ASSIGN_OR_RETURN(const TokenText text, flags.file.empty() ? read_shard(flags.tokens, *model.tokenizer)
                                                                   : read_text(flags.file, *model.tokenizer));
  EvaluateOptions options;
  options.batch_size = flags.batch_size;
  options.memory_off = flags.memory == "off";
  Progress progress("eval", static_cast<int64_t>(text.token_ids.size()) - 1, "tokens");
  int64_t shown = 0;
  options.on_progress = [&](int64_t done, int64_t) {
    progress.advance(done - shown);
    shown = done;
    return interrupted == 0;
  };
  std::signal(SIGINT, on_interrupt);
  Result<EvaluateResult> result = evaluate(model, text.token_ids, text.document_starts, text.bytes, options);
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

}  // namespace

void add_eval(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", "Loss and bits per byte of a text under a checkpoint");
  command->add_option("checkpoint", flags->checkpoint, "checkpoint directory, or a training output (its latest)")
      ->required();
  CLI::Option_group* source = command->add_option_group("source");
  source->add_option("--file", flags->file, "UTF-8 text, read as one document");
  source->add_option("--tokens", flags->tokens, "token shard of `engram data prepare`");
  source->require_option(1);
  command->add_option("--memory", flags->memory, "off: knock the rows out, Engram blocks add nothing")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  command->add_option("--batch-size", flags->batch_size, "windows per forward pass")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag("--json", flags->json, R"(print {"tokens", "bytes", "loss", "bits_per_byte", "memory"})");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_eval(*flags); }; });
}

}  // namespace engram::apps
