// engram bench ops: the fused operators beside their plain forms.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/torch_commands.h"
#include "bench/ops_bench.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"

namespace engram::apps {
namespace {

Status bench_ops(const bench::OpsBenchOptions& options, bool json) {
  const std::vector<bench::OpsBenchRow> rows = bench::run_ops_bench(options);
  if (json) {
    nlohmann::ordered_json object = {{"benchmark", "ops"},
                                     {"machine", machine_description()},
                                     {"commit", build_commit()},
                                     {"date", today()},
                                     {"threads", options.threads}};
    for (const auto& row : rows) {
      object["operators"].push_back(
          {{"name", row.name}, {"fused_us", row.fused_us}, {"composed_us", row.plain_us}, {"ratio", row.ratio()}});
    }
    fmt::print("{}\n", object.dump());
    return {};
  }
  fmt::print("forward and backward, B {} T {} d {} M {} V {}, {} threads (0: all)\n", options.batch, options.length,
             options.hidden_size, options.streams, options.vocabulary, options.threads);
  fmt::print("{}, commit {}, {}\n\n", machine_description(), build_commit(), today());
  fmt::print("  {:<28}{:>12}{:>14}{:>8}\n", "", "fused us", "plain us", "ratio");
  for (const auto& row : rows) {
    fmt::print("  {:<28}{:>12.0f}{:>14.0f}{:>8.2f}\n", row.name, row.fused_us, row.plain_us, row.ratio());
  }
  return {};
}

}  // namespace

void add_bench_ops(CLI::App& bench, Invocation& invocation) {
  struct Flags {
    bench::OpsBenchOptions options;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand("ops", torch_command_help("bench", "ops"));
  command->footer(
      "Example:\n"
      "  engram bench ops --threads 1 --seconds 1");
  auto count = [&](const char* name, int64_t& value, const char* help) {
    command->add_option(name, value, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  count("--batch", flags->options.batch, "Sequences");
  count("--length", flags->options.length, "Tokens per sequence");
  count("--hidden-size", flags->options.hidden_size, "Hidden width");
  count("--streams", flags->options.streams, "Residual streams of the Engram module");
  count("--vocabulary", flags->options.vocabulary, "Vocabulary of the head");
  command->add_option("--threads", flags->options.threads, "Threads; 0: all")->check(CLI::Range(0, 1024));
  command->add_option("--seconds", flags->options.seconds, "Time for each operator")->check(CLI::Range(0.01, 600.0));
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback(
      [flags, &invocation] { invocation.run = [flags] { return bench_ops(flags->options, flags->json); }; });
}

}  // namespace engram::apps
