// The program `engram-torch`: the commands that compute with libtorch and that scripts/demo.sh does not run.
// People call it as `engram`, which becomes it.
#include "apps/command_line.h"

int main(int argc, char** argv) {
  using namespace engram::apps;
  start_program(argc, argv);
  CLI::App app;
  Invocation invocation;
  describe_program(app);
  app.require_subcommand(1);
  add_audit(app, invocation);
  add_eval(app, invocation);
  add_export(app, invocation);
  add_generate(app, invocation);
  add_import(app, invocation);
  add_lab(app, invocation);
  add_score(app, invocation);
  add_serve(app, invocation);
  add_train(app, invocation);
  CLI::App* bench = add_bench_group(app);
  add_bench_exchange(*bench, invocation);
  add_bench_ops(*bench, invocation);
  add_bench_serve(*bench, invocation);
  add_bench_train(*bench, invocation);
  return run_command_line(app, invocation, argc, argv);
}
