// What the programs engram, engram-train and engram-torch share: parsing, usage errors, exit codes.
#pragma once
#include "apps/commands.h"

namespace engram::apps {

// First in main(). A standard stream that the caller closed would give its number, and our output, to the first file we
// open. A descriptor that cannot be used that way takes its place: what is written to it then fails, and
// run_command_line() says so.
void start_program(int argc, char** argv);
// Sets the program's name, its description and --version.
void describe_program(CLI::App& app);
// Parses and runs. Returns the exit code: 0 done; 1 failed, one line `error: ...` on stderr (none where the
// error has no message: another process of the run prints it); 2 wrong usage, one such
// line that names the nearest word where one is near.
int run_command_line(CLI::App& app, Invocation& invocation, int argc, char** argv);
// "; did you mean 'train'?" for the nearest of `words`, empty where none is near.
std::string suggest(const std::string& word, const std::vector<std::string>& words);
// Prints `error: MESSAGE` in one line.
void print_error(std::string message);

}  // namespace engram::apps
