// engram generate: continues a prompt with a trained checkpoint.
#include "engram/serve/generate_text.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "apps/torch_process.h"
#include "engram/core/machine.h"

namespace engram::apps {
namespace {

struct GenerateFlags {
  std::string checkpoint, prompt, memory = "on", dtype = "auto";
  GenerateOptions options;
  bool json = false;
};

// The prompt and what follows on stdout, as it comes; Ctrl-C ends the text, not the program's output.
Status run_generate(const GenerateFlags& flags) {
  ENGRAM_RETURN_IF_ERROR(flags.options.validate());
  set_up_torch();
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model,
                          load_model(Env::posix(), flags.checkpoint, {.dtype = parse_weights(flags.dtype)}));
  GenerateOptions options = flags.options;
  options.memory_off = flags.memory == "off";
  std::string text;
  bool prompt_shown = flags.json;
  const auto show_prompt = [&] {
    if (!prompt_shown) std::fwrite(flags.prompt.data(), 1, flags.prompt.size(), stdout);
    prompt_shown = true;
  };
  const auto on_text = [&, &stop = stop_on_signals()](std::string_view piece) {
    show_prompt();
    text += piece;
    if (!flags.json) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    }
    return !stop;
  };
  GenerationTimes times;
  Result<std::vector<int32_t>> tokens = generate_text(Env::posix(), model, flags.prompt, options, on_text, &times);
  if (!tokens.ok()) return tokens.status();
  if (flags.json) {
    nlohmann::ordered_json out = {{"prompt", flags.prompt},
                                  {"text", text},
                                  {"token_ids", *tokens},
                                  {"first_token_seconds", times.first_token},
                                  {"tokens_per_second", times.tokens_per_second},
                                  {"peak_rss_bytes", peak_rss_bytes()}};
    std::printf("%s\n", out.dump().c_str());
  } else {
    show_prompt();
    std::printf("\n");
  }
  return std::fflush(stdout) == 0 ? Status() : Status(StatusCode::kUnavailable, "stdout: cannot be written");
}

}  // namespace

void add_generate(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", torch_command_help("", "generate"));
  command->footer(
      "Example:\n"
      "  engram generate demo/engram --prompt 'The President of' --max-tokens 50 --temperature 0.8 --top-p 0.95");
  command->add_option("checkpoint", flags->checkpoint, "checkpoint directory, or a training output (its latest)")
      ->required();
  command->add_option("--prompt", flags->prompt, "the text to continue")->required();
  command->add_option("--max-tokens", flags->options.max_tokens, "tokens to generate at most")->capture_default_str();
  command->add_option("--temperature", flags->options.sampler.temperature, "0: always the likeliest token")
      ->capture_default_str();
  command->add_option("--top-k", flags->options.sampler.top_k, "keep the k likeliest tokens; 0: all")
      ->capture_default_str();
  command->add_option("--top-p", flags->options.sampler.top_p, "keep the likeliest tokens that make up this share")
      ->capture_default_str();
  command->add_option("--seed", flags->options.sampler.seed, "the same seed gives the same text")
      ->capture_default_str();
  command->add_flag("--ignore-eos", flags->options.ignore_eos, "go on to --max-tokens where the text ends");
  add_dtype_option(*command, flags->dtype);
  command->add_option("--memory", flags->memory, "off: knock the rows out, Engram blocks add nothing")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  command->add_flag("--json", flags->json,
                    "print text, token ids, tokens per second behind the first and peak memory as one JSON object");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_generate(*flags); }; });
}

}  // namespace engram::apps
