#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <system_error>

#include "apps/commands.h"

namespace {

// Exceptions of libtorch carry a stack trace after the first line; people get the first line only.
int fail(std::string message) {
  if (auto end = message.find("\nException raised from"); end != std::string::npos) message.resize(end);
  for (char& c : message) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return 1;
}

// A standard stream that the caller closed would give its number, and our output, to the first file we open. A
// descriptor that cannot be used that way takes its place: writes to it fail, and flush_output() says so.
void hold_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) == -1) (void)::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
  }
}

// The one place where output leaves: a full disk behind stdout is an error of the command, whatever it printed.
int flush_output(int code) {
  errno = 0;
  const bool good = std::cout.flush().good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (good || code != 0) return code;
  return fail("cannot write the output: " + (errno != 0 ? std::generic_category().message(errno) : "a write failed"));
}

}  // namespace

int main(int argc, char** argv) {
  hold_standard_streams();
  CLI::App app{"Engram: conditional memory for language models. Train, study and serve models with n-gram tables."};
  app.name("engram");
  app.require_subcommand(1);
  engram::apps::Invocation invocation;
  engram::apps::add_bench(app, invocation);
  engram::apps::add_data(app, invocation);
  engram::apps::add_hash(app, invocation);
  engram::apps::add_plan(app, invocation);
  engram::apps::add_table(app, invocation);
  engram::apps::add_tokenizer(app, invocation);
#ifdef ENGRAM_WITH_TORCH
  engram::apps::add_demo(app, invocation);
  engram::apps::add_eval(app, invocation);
  engram::apps::add_generate(app, invocation);
  engram::apps::add_lab(app, invocation);
  engram::apps::add_serve(app, invocation);
  engram::apps::add_train(app, invocation);
#endif

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return flush_output(app.exit(error) == 0 ? 0 : 2);
  }
  try {
    if (engram::Status status = invocation.run(); !status.ok()) return fail(status.message());
  } catch (const std::exception& error) {
    return fail(error.what());
  }
  return flush_output(0);
}
