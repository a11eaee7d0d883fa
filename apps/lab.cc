// engram lab: studies and probes.
#include "apps/commands.h"

namespace engram::apps {

void add_lab(CLI::App& app, Invocation& invocation) {
  CLI::App* lab = app.add_subcommand("lab", "Ask one question about trained checkpoints; each answer is a page");
  lab->require_subcommand(1);
  add_probes(*lab, invocation);
}

}  // namespace engram::apps
