// engram bench exchange: what the ranks of a world pay for their exchanges.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/ranks.h"
#include "apps/torch_commands.h"
#include "apps/torch_process.h"
#include "bench/exchange_bench.h"
#include "bench/process.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"

namespace engram::apps {
namespace {

struct Flags {
  bench::ExchangeBenchOptions options;
  int ranks = 2, timeout = 60;
  bool json = false;
};

void print(const nlohmann::ordered_json& result) {
  const auto milliseconds = [](const nlohmann::ordered_json& seconds) { return 1e3 * seconds.get<double>(); };
  fmt::print("{} ranks, set up in {:.0f} ms, median of {} rounds; {}, commit {}, {}\n\n", result["ranks"].get<int>(),
             milliseconds(result["set_up_seconds"]), result["rounds"].get<int>(), machine_description(), build_commit(),
             today());
  fmt::print("  {:<24}{:>12}{:>12}\n", "all-to-all, floats", "us", "GB/s out");
  for (const auto& message : result["messages"])
    fmt::print("  {:<24}{:>12.0f}{:>12.2f}\n", message["floats"].get<int64_t>(), 1e6 * message["seconds"].get<double>(),
               message["bytes_per_second"].get<double>() / 1e9);
  fmt::print("\n  {:<24}{:>12}{:>12}{:>12}{:>14}{:>12}{:>12}\n", "rows of a step", "counts ms", "ids ms", "rows ms",
             "gradients ms", "all ms", "MB out");
  for (const auto& step : result["steps"])
    fmt::print("  {:<24}{:>12.2f}{:>12.2f}{:>12.1f}{:>14.1f}{:>12.1f}{:>12.1f}\n",
               fmt::format("{} of {} bytes", step["rows"].get<int64_t>(), step["row_bytes"].get<int64_t>()),
               milliseconds(step["counts_seconds"]), milliseconds(step["ids_seconds"]),
               milliseconds(step["rows_seconds"]), milliseconds(step["gradients_seconds"]),
               milliseconds(step["seconds"]), step["bytes_sent"].get<double>() / 1e6);
}

Status run(const Flags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const World world, world_from_environment(launcher_environment()));
  if (world.size == 1 && flags.ranks > 1) return run_in_ranks(flags.ranks);
  set_up_torch(1);
  const double start = bench::now_seconds();
  const Hello hello = {fmt::format("{} ({})", build_version(), build_commit()),
                       fmt::format("{} rounds, {} rows", flags.options.rounds, flags.options.rows)};
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> communicator,
                          Communicator::connect(world, hello, std::chrono::seconds(flags.timeout)));
  const double seconds = bench::now_seconds() - start;
  try {
    nlohmann::ordered_json result = {{"benchmark", "exchange"}, {"set_up_seconds", seconds}};
    result.update(bench::run_exchange_bench(*communicator, flags.options));
    if (world.rank > 0) return {};
    result.update({{"machine", machine_description()}, {"commit", build_commit()}, {"date", today()}});
    if (flags.json)
      fmt::print("{}\n", result.dump());
    else
      print(result);
    return {};
  } catch (const ExchangeFailed& failed) {
    return failed.status();
  }
}

}  // namespace

void add_bench_exchange(CLI::App& bench, Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand("exchange", torch_command_help("bench", "exchange"));
  command->footer(
      "Examples:\n"
      "  engram bench exchange --ranks 2\n"
      "  mpirun -n 2 engram bench exchange");
  command->add_option("--ranks", flags->ranks, "Processes on this machine, unless a launcher has started several")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--rounds", flags->options.rounds, "Rounds, of which the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--rows", flags->options.rows, "Distinct rows of a training step on each rank")
      ->check(CLI::Range(int64_t{1}, int64_t{100} << 20))
      ->capture_default_str();
  command->add_option("--timeout", flags->timeout, "Seconds after which a rank that does not answer is given up")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run(*flags); }; });
}

}  // namespace engram::apps
