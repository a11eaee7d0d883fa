// engram watch: the page of training runs.
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "apps/commands.h"
#include "apps/stop_signal.h"
#include "apps/torch_commands.h"
#include "engram/lab/pages/watch.h"

namespace engram::apps {
namespace {

struct WatchFlags {
  std::vector<std::string> runs;
  std::string output;
  int follow = 0;
};

Status write_page(const WatchFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string page, watch_page(Env::posix(), flags.runs, flags.follow));
  return write_file_atomic(Env::posix(), flags.output, page);
}

Status run_watch(const WatchFlags& flags) {
  const std::atomic<bool>* stop = flags.follow > 0 ? &stop_on_signals() : nullptr;
  ENGRAM_RETURN_IF_ERROR(write_page(flags));
  fmt::print("{}\n", flags.output);
  std::fflush(stdout);
  if (stop == nullptr) return {};
  for (int waited = 0; !stop->load();) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    waited += 100;
    if (waited < flags.follow * 1000) continue;
    waited = 0;
    ENGRAM_RETURN_IF_ERROR(write_page(flags));
  }
  return write_page({flags.runs, flags.output, 0});
}

}  // namespace

void add_watch(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<WatchFlags>();
  CLI::App* command = app.add_subcommand("watch", torch_command_help("", "watch"));
  command->footer(
      "Examples:\n"
      "  engram watch runs/smoke\n"
      "  engram watch runs/a runs/b --output both.html --follow 10");
  command->add_option("runs", flags->runs, "outputs of `engram train`, running or finished")->required();
  command->add_option("--output", flags->output, "the page; default: watch.html in the first run");
  command->add_option("--follow", flags->follow, "write the page anew every so many seconds, until Ctrl-C")
      ->check(CLI::Range(1, 86400));
  command->callback([flags, &invocation] {
    if (flags->output.empty()) flags->output = join_path(flags->runs[0], "watch.html");
    invocation.run = [flags] { return run_watch(*flags); };
  });
}

}  // namespace engram::apps
