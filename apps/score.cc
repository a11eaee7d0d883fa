// engram score: the log probability of every token of a text under a checkpoint.
#include "engram/lab/text/score.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>

#include "apps/commands.h"
#include "apps/integers.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "apps/torch_process.h"
#include "engram/core/file_kind.h"
#include "engram/core/progress.h"

namespace engram::apps {
namespace {

struct ScoreFlags {
  std::string checkpoint, memory = "on";
  std::vector<std::string> texts, files, ids;
  ScoreOptions options;
  bool json = false;
};

struct ScoredText {
  std::vector<int32_t> tokens;
  int64_t bytes = 0;
};

Result<std::vector<ScoredText>> read_texts(const ScoreFlags& flags, const LoadedModel& model) {
  std::vector<ScoredText> texts;
  const auto add = [&](std::string_view text) -> Status {
    ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model.tokenizer->encode(text, /*add_special=*/true));
    if (text.empty()) return invalid_argument("text {}: got an empty one, wanted at least one byte", texts.size());
    texts.push_back({std::move(tokens), std::ssize(text)});
    return {};
  };
  for (const std::string& text : flags.texts) ENGRAM_RETURN_IF_ERROR(add(text));
  for (const std::string& path : flags.files) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(Env::posix(), path));
    ENGRAM_RETURN_IF_ERROR(add(text).with_context(path));
  }
  for (const std::string& list : flags.ids) {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, parse_integers<int32_t>("--ids", list));
    if (tokens.empty()) return invalid_argument("--ids: got none, wanted at least one token");
    for (const int32_t token : tokens)
      if (token < 0 || token >= model.config.vocab_size)
        return invalid_argument("--ids: got {}, wanted 0 to {}", token, model.config.vocab_size - 1);
    ENGRAM_ASSIGN_OR_RETURN(const std::string text, model.tokenizer->decode(tokens));
    texts.push_back({tokens, std::ssize(text)});
  }
  return texts;
}

// Every token after the first, in windows that overlap by one token, as `engram eval` reads a text.
std::vector<Continuation> windows_of(const std::vector<ScoredText>& texts, size_t window) {
  std::vector<Continuation> out;
  for (const ScoredText& text : texts) {
    for (size_t begin = 0; begin + 1 < text.tokens.size(); begin += window) {
      const size_t end = std::min(text.tokens.size(), begin + window + 1);
      const auto at = text.tokens.begin() + static_cast<std::ptrdiff_t>(begin);
      out.push_back({{*at}, {at + 1, text.tokens.begin() + static_cast<std::ptrdiff_t>(end)}});
    }
  }
  return out;
}

void print_text(const ScoredText& text, const std::vector<float>& nats, bool json) {
  double sum = 0;
  for (const float value : nats) sum += value;
  const double bits_per_byte = text.bytes > 0 ? sum / (std::numbers::ln2 * static_cast<double>(text.bytes)) : 0;
  if (!json) {
    fmt::print("{:.4f} nats per token, {:.4f} bits per byte over {} tokens, {} bytes\n",
               nats.empty() ? 0 : sum / static_cast<double>(nats.size()), bits_per_byte, nats.size(), text.bytes);
    return;
  }
  nlohmann::ordered_json logprobs = {nullptr};
  for (const float value : nats) logprobs.push_back(-value);
  const nlohmann::ordered_json out = {
      {"tokens", text.tokens}, {"logprobs", logprobs}, {"bytes", text.bytes}, {"bits_per_byte", bits_per_byte}};
  std::printf("%s\n", out.dump().c_str());
}

Status run_score(const ScoreFlags& flags) {
  set_up_torch();
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, load_model(Env::posix(), flags.checkpoint));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<ScoredText> texts, read_texts(flags, model));
  const std::vector<Continuation> windows =
      windows_of(texts, static_cast<size_t>(model.config.max_position_embeddings));
  Progress progress("score", std::ssize(windows), "windows");
  ScoreOptions options = flags.options;
  options.memory_off = flags.memory == "off";
  options.on_progress = [&, shown = int64_t{0}, &stop = stop_on_signals()](int64_t done, int64_t) mutable {
    progress.advance(done - shown);
    shown = done;
    return !stop;
  };
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Score> scores, score_continuations(model, windows, options));
  progress.finish();
  auto score = scores.begin();
  for (const ScoredText& text : texts) {
    std::vector<float> nats;
    for (; nats.size() + 1 < text.tokens.size(); ++score)
      nats.insert(nats.end(), score->nats.begin(), score->nats.end());
    print_text(text, nats, flags.json);
  }
  return {};
}

}  // namespace

void add_score(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<ScoreFlags>();
  CLI::App* command = app.add_subcommand("score", torch_command_help("", "score"));
  command->footer(
      "The first token is given, each other one is predicted from those before it. A text that is longer than the "
      "model's\n"
      "context is read in windows, as `engram eval` reads it. Several texts are read in batches; each has its line.\n"
      "Examples:\n"
      "  engram score smollm2 --text 'The capital of France is Paris.' --json\n"
      "  engram score smollm2 --file a.txt --file b.txt");
  command->add_option("checkpoint", flags->checkpoint, "checkpoint directory, or a training output (its latest)")
      ->required();
  CLI::Option_group* source = command->add_option_group("source");
  source->add_option("--text", flags->texts, "a text; may be given several times")->allow_extra_args(false);
  source->add_option("--file", flags->files, "a file of UTF-8 text")->allow_extra_args(false);
  source->add_option("--ids", flags->ids, "token ids: \"1 2 3\"")->allow_extra_args(false);
  source->require_option(1, 3);
  command->add_option("--memory", flags->memory, "off: knock the rows out, Engram blocks add nothing")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  command->add_option("--batch-size", flags->options.batch_size, "sequences per forward pass")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag(
      "--json", flags->json,
      R"(a line {"tokens", "logprobs", "bytes", "bits_per_byte"} for each text; the first logprob is null)");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_score(*flags); }; });
}

}  // namespace engram::apps
