// The program `engram-train`: the commands with libtorch that scripts/demo.sh runs, so that the demo waits for no more
// than these to compile. People call it as `engram`, which becomes it.
#include "apps/command_line.h"

int main(int argc, char** argv) {
  using namespace engram::apps;
  start_program(argc, argv);
  CLI::App app;
  Invocation invocation;
  describe_program(app);
  app.require_subcommand(1);
  add_demo(app, invocation);
  add_train(app, invocation);
  add_watch(app, invocation);
  return run_command_line(app, invocation, argc, argv);
}
