// The commands that compute with libtorch. They are in a separate program, engram-torch, which `engram` becomes
// (exec) when one of them is asked for: loading libtorch costs half a second, and the other commands do without it.
#pragma once
#include <array>
#include <string_view>

#include "apps/commands.h"
#include "engram/core/status.h"

namespace engram::apps {

struct TorchCommand {
  const char* group;  // "" or the command that it belongs to
  const char* name;
  const char* help;
};

inline constexpr std::array kTorchCommands = {
    TorchCommand{"", "demo", "Train a pure-MoE and an Engram model on the same text and compare them"},
    TorchCommand{"", "eval", "Loss and bits per byte of a text under a checkpoint, or its answers to a suite"},
    TorchCommand{"", "generate", "Continue a prompt with a trained checkpoint"},
    TorchCommand{"", "lab", "Run a study (many training runs, one page), or ask a question about checkpoints"},
    TorchCommand{"", "serve", "Serve a checkpoint over HTTP: OpenAI's API, metrics, and a page"},
    TorchCommand{"", "train", "Train a model from a recipe"},
    TorchCommand{"bench", "ops", "Fused operators beside libtorch's own, forward and backward"},
    TorchCommand{"bench", "serve", "Throughput of the engine with its table in each tier, by the paper's protocol"},
    TorchCommand{"bench", "train", "Training steps per second, beside plain PyTorch"},
};

// What `engram --help` says about a command of the table. REQUIRES: it is there.
const char* torch_command_help(std::string_view group, std::string_view name);
// Lists the commands of the table in `app`'s help, without their flags.
void add_torch_command_names(CLI::App& app);
// The arguments ask for a command of the table.
bool wants_torch(int argc, char** argv);
// Replaces this process by engram-torch, which is beside this program; returns only when that fails.
Status become_torch_program(char** argv);

}  // namespace engram::apps
