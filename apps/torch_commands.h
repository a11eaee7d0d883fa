// The commands that compute with libtorch. They are in separate programs, which `engram` becomes (exec) when one of
// them is asked for: loading libtorch costs half a second, and the other commands do without it.
#pragma once
#include <array>
#include <string_view>

#include "apps/commands.h"
#include "engram/core/status.h"

namespace engram::apps {

struct TorchCommand {
  const char* group;  // "" or the command that it belongs to
  const char* name;
  const char* program;  // where it is, beside `engram`
  const char* help;
};

inline constexpr std::array kTorchCommands = {
    TorchCommand{"", "audit", "engram-torch", "Is a checkpoint, and the run that wrote it, what it says it is?"},
    TorchCommand{"", "demo", "engram-train", "Train a pure-MoE and an Engram model on the same text and compare them"},
    TorchCommand{"", "eval", "engram-torch",
                 "Loss and bits per byte of a text under a checkpoint, or its answers to a suite"},
    TorchCommand{"", "export", "engram-torch", "Write a checkpoint as a folder that transformers loads"},
    TorchCommand{"", "generate", "engram-torch", "Continue a prompt with a trained checkpoint"},
    TorchCommand{"", "import", "engram-torch", "Make a checkpoint of a Hugging Face folder or a GGUF file"},
    TorchCommand{"", "lab", "engram-torch",
                 "Run a study (many training runs, one page), or ask a question about checkpoints"},
    TorchCommand{"", "score", "engram-torch", "The log probability of every token of a text under a checkpoint"},
    TorchCommand{"", "serve", "engram-torch", "Serve a checkpoint over HTTP: OpenAI's API, metrics, and a page"},
    TorchCommand{"", "train", "engram-train", "Train a model from a recipe"},
    TorchCommand{"", "watch", "engram-train", "Make a page of training runs, running or finished"},
    TorchCommand{"bench", "exchange", "engram-torch",
                 "Exchanges between processes: latency, bandwidth, the rows of a training step"},
    TorchCommand{"bench", "ops", "engram-torch", "Every kernel beside the best call of libtorch for its work"},
    TorchCommand{"bench", "serve", "engram-torch",
                 "Throughput of the engine with its table in each tier, by the paper's protocol"},
    TorchCommand{"bench", "train", "engram-torch", "Training steps per second, beside plain PyTorch"},
};

// What `engram --help` says about a command of the table. REQUIRES: it is there.
const char* torch_command_help(std::string_view group, std::string_view name);
// Lists the commands of the table in `app`'s help, without their flags.
void add_torch_command_names(CLI::App& app);
// The command of the table that the arguments ask for, or null.
const TorchCommand* find_torch_command(int argc, char** argv);
// Replaces this process by the command's program, which is beside this one; returns only when that fails.
Status become_torch_program(const TorchCommand& command, char** argv);

}  // namespace engram::apps
