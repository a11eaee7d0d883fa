#include "apps/torch_commands.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "engram/port/process.h"

namespace engram::apps {

const char* torch_command_help(std::string_view group, std::string_view name) {
  for (const TorchCommand& command : kTorchCommands) {
    if (group == command.group && name == command.name) return command.help;
  }
  ENGRAM_CHECK(false, "group={} name={}", group, name);
}

CLI::App* add_bench_group(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Measure, beside other implementations, in one run");
  command->require_subcommand(1);
  command->footer("Example:\n  engram bench hash --seconds 2");
  return command;
}

void add_torch_command_names(CLI::App& app) {
  for (const TorchCommand& command : kTorchCommands) {
    CLI::App* parent = *command.group == '\0' ? &app : app.get_subcommand(command.group);
    parent->add_subcommand(command.name, command.help);
  }
}

const TorchCommand* find_torch_command(int argc, char** argv) {
  for (const TorchCommand& command : kTorchCommands) {
    const bool grouped = *command.group != '\0';
    if (argc < (grouped ? 3 : 2) || (grouped && std::strcmp(argv[1], command.group) != 0)) continue;
    if (std::strcmp(argv[grouped ? 2 : 1], command.name) == 0) return &command;
  }
  return nullptr;
}

Status become_torch_program(const TorchCommand& command, char** argv) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::weakly_canonical(port::program_path(), error);
  if (error || self.empty())
    return make_status(StatusCode::kUnavailable, "cannot find this program's folder: {}", error.message());
  const std::string program = self.parent_path() / command.program;
  execv(program.c_str(), argv);
  if (errno == ENOENT)
    return not_found("engram {}{}{}: needs the program {}, which is not there; scripts/build.sh makes it",
                     command.group, *command.group == '\0' ? "" : " ", command.name, program);
  return make_status(StatusCode::kUnavailable, "{}: cannot be started: {}", program, std::strerror(errno));
}

}  // namespace engram::apps
