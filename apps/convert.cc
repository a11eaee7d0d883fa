// engram import, engram export: models of other programs, in and out.
#include "engram/model/convert/convert_model.h"

#include <memory>

#include "apps/commands.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "engram/core/progress.h"
#include "engram/text/chat_template.h"

namespace engram::apps {
namespace {

struct ConvertFlags {
  std::string source, destination, dtype = "as-stored";
};

Status run_convert(const ConvertFlags& flags, bool import) {
  Env& env = Env::posix();
  std::unique_ptr<Progress> progress;
  ConvertOptions options;
  options.bf16 = flags.dtype == "bf16";
  options.on_progress = [&, shown = int64_t{0}, &stop = stop_on_signals()](int64_t done, int64_t total) mutable {
    if (!progress) progress = std::make_unique<Progress>(import ? "import" : "export", total, "B");
    progress->advance(done - shown);
    shown = done;
    return !stop;
  };
  if (!import) return export_hf_folder(env, flags.source, flags.destination, options);
  ENGRAM_ASSIGN_OR_RETURN(const SourceModel source, open_source_model(env, flags.source));
  ENGRAM_RETURN_IF_ERROR(import_model(env, source, flags.destination, options));
  if (const auto chat = ChatTemplate::parse(source.file.chat_template); !chat.ok())
    fmt::print(stderr, "warning: {}: `engram serve` will refuse chats with this model\n", chat.status().message());
  return Status();
}

void add_convert(CLI::App& command, Invocation& invocation, bool import, const char* source, const char* destination) {
  auto flags = std::make_shared<ConvertFlags>();
  command.add_option("source", flags->source, source)->required();
  command.add_option("destination", flags->destination, destination)->required();
  command.add_option("--dtype", flags->dtype, "of the weights; bf16 rounds them")
      ->check(CLI::IsMember({"as-stored", "bf16"}))
      ->capture_default_str();
  command.callback(
      [flags, import, &invocation] { invocation.run = [flags, import] { return run_convert(*flags, import); }; });
}

}  // namespace

void add_import(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("import", torch_command_help("", "import"));
  command->footer(
      "Reads Hugging Face folders of Llama, SmolLM2, Qwen2, Qwen3, Mistral without a sliding window and DeepSeek-V3, "
      "and\n"
      "GGUF files of the architecture llama. What the model would need and Engram lacks is an error that names the "
      "key.\n"
      "docs/models.md has the list.\n"
      "Examples:\n"
      "  engram import SmolLM2-135M-Instruct.Q4_1.gguf smollm2\n"
      "  engram import Qwen3-0.6B qwen3 --dtype bf16\n"
      "  engram serve smollm2");
  add_convert(*command, invocation, true, "a folder with config.json, tokenizer.json and safetensors; or a GGUF file",
              "the checkpoint's folder, which must not be there yet");
}

void add_export(CLI::App& app, Invocation& invocation) {
  CLI::App* group = app.add_subcommand("export", torch_command_help("", "export"));
  group->require_subcommand(1);
  CLI::App* command = group->add_subcommand("hf", "A folder that transformers loads");
  command->footer(
      "The model is written as Llama, Qwen2, Qwen3 or DeepSeek-V3, whichever computes it. Another one, as with a\n"
      "memory, brings modeling_engram.py, which transformers runs under trust_remote_code.\n"
      "Example:\n"
      "  engram export hf runs/dense dense-hf");
  add_convert(*command, invocation, false, "checkpoint directory, or a training output (its latest)",
              "the folder, which must not be there yet");
}

}  // namespace engram::apps
