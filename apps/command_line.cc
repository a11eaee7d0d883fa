#include "apps/command_line.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/port/process.h"
#include "engram/text/unicode.h"

namespace engram::apps {
namespace {

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!sub->get_name().empty()) names.push_back(sub->get_name());
  }
  return names;
}

void collect_flags(const CLI::App& app, std::vector<std::string>& flags) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;  // hidden
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (sub->get_name().empty()) collect_flags(*sub, flags);  // an option group
  }
}

// "engram table create" of the innermost command that was named.
const CLI::App* innermost(const CLI::App& app, std::string& path) {
  const CLI::App* command = &app;
  path = app.get_name();
  while (true) {
    const auto named = command->get_subcommands();
    if (named.empty() || named.back()->get_name().empty()) return command;
    command = named.back();
    path += " " + command->get_name();
  }
}

// What is wrong with the arguments, in words that name the nearest right one.
std::string usage_error(const CLI::App& app, const CLI::ParseError& error) {
  std::string path;
  const CLI::App* command = innermost(app, path);
  const std::string see = fmt::format(" (see {} --help)", path);
  if (dynamic_cast<const CLI::ValidationError*>(&error) != nullptr) return error.what() + see;
  const std::vector<std::string> subcommands = subcommand_names(*command);
  const std::vector<std::string> unknown = app.remaining(true);
  if (!unknown.empty()) {
    const std::string& word = unknown.front();
    if (word.starts_with("-")) {
      std::vector<std::string> flags;
      collect_flags(*command, flags);
      const std::string name = word.substr(0, word.find('='));
      const bool known = std::find(flags.begin(), flags.end(), name) != flags.end();  // behind a lone "--"
      if (known) return fmt::format("{}: {} is one argument too many{}", path, quote_text(name), see);
      return fmt::format("{} has no flag {}{}{}", path, quote_text(name), suggest(name, flags), see);
    }
    if (!subcommands.empty()) {
      return fmt::format("{} has no subcommand {}{}{}", path, quote_text(word), suggest(word, subcommands), see);
    }
    if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
      return fmt::format("{}: {} is one argument too many{}", path, quote_text(word), see);
    }
  }
  if (!subcommands.empty() && command->get_require_subcommand_min() > 0 &&
      dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    return fmt::format("{} needs a subcommand: {}", path, fmt::join(subcommands, ", "));
  }
  return fmt::format("{}{}", error.what(), see);
}

// The one place where output leaves: a full disk behind stdout is an error of the command, whatever it printed.
int flush_output(int code) {
  const bool good = std::cout.flush().good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (good || code != 0) return code;
  print_error("stdout: cannot be written");
  return 1;
}

}  // namespace

void start_program(int argc, char** argv) {
  port::remember_arguments(argc, argv);
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) == -1) (void)::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
  }
}

std::string suggest(const std::string& word, const std::vector<std::string>& words) {
  const std::string* nearest = nearest_word(word, words);
  return nearest == nullptr ? "" : fmt::format("; did you mean '{}'?", *nearest);
}

void describe_program(CLI::App& app) {
  app.name("engram");
  app.description("Engram: conditional memory for language models. Train, study and serve models with n-gram tables.");
  app.footer("Example:\n  engram train recipes/smoke.toml");
  app.set_version_flag("--version", [] { return fmt::format("engram {} ({})", build_version(), build_commit()); });
}

void print_error(std::string message) {
  // Exceptions of libtorch carry a stack trace after the first line; people get the first line only.
  for (const char* trace : {"\nException raised from", "\nframe #0: "})
    if (auto end = message.find(trace); end != std::string::npos) message.resize(end);
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  }
  std::fprintf(stderr, "error: %s\n", utf8_lossy(message).c_str());
}

int run_command_line(CLI::App& app, Invocation& invocation, int argc, char** argv) {
  try {
    if (argc < 2) {
      fmt::print("{}", app.help());
      return flush_output(0);
    }
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return flush_output(app.exit(error));  // --help, --version
    print_error(usage_error(app, error));
    return 2;
  } catch (const std::exception& error) {  // of a conversion
    print_error(error.what());
    return 2;
  }
  try {
    if (Status status = invocation.run(); !status.ok()) {
      if (!status.message().empty()) print_error(status.message());
      return 1;
    }
  } catch (const std::exception& error) {
    print_error(error.what());
    return 1;
  }
  return flush_output(0);
}

}  // namespace engram::apps
