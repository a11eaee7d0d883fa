#include <cstdio>
#include <exception>
#include <string>

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

}  // namespace

int main(int argc, char** argv) {
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
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    if (engram::Status status = invocation.run(); !status.ok()) return fail(status.message());
  } catch (const std::exception& error) {
    return fail(error.what());
  }
  return 0;
}
