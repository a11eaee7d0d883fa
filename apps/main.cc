// The program `engram`: the commands that need no libtorch, and the way to those that do.
#include "apps/command_line.h"
#include "apps/torch_commands.h"

int main(int argc, char** argv) {
  using namespace engram::apps;
  start_program(argc, argv);
  if (const TorchCommand* command = find_torch_command(argc, argv)) {
    print_error(become_torch_program(*command, argv).message());
    return 1;
  }
  CLI::App app;
  Invocation invocation;
  describe_program(app);
  app.require_subcommand(1);
  add_bench(app, invocation);
  add_data(app, invocation);
  add_hash(app, invocation);
  add_plan(app, invocation);
  add_table(app, invocation);
  add_tokenizer(app, invocation);
  add_torch_command_names(app);
  return run_command_line(app, invocation, argc, argv);
}
