// engram bench distributed: several processes that train one model, beside as many that do not talk to each other.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "bench/distributed_bench.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"

namespace engram::apps {
namespace {

using Json = nlohmann::ordered_json;

std::string show(const Json& spread, bool ratio) {
  const auto number = [&](const char* key) {
    const double value = spread.at(key).get<double>();
    return ratio ? fmt::format("{:.3f}", value) : format_count(value);
  };
  return fmt::format("{} ({} to {})", number("median"), number("min"), number("max"));
}

void print_worlds(const Json& worlds) {
  fmt::print(
      "  larger worlds on paper: a rank's work stays, nothing overlaps\n  {:<8}{:<12}{:>10}{:>12}{:>12}{:>12}"
      "{:>12}  {}\n",
      "ranks", "link", "step ms", "efficiency", "messages", "MB out", "sum MiB", "largest part");
  for (const Json& world : worlds) {
    const auto number = [&](const char* key) { return world.at(key).get<double>(); };
    const std::string largest = world.at("largest_part");
    fmt::print("  {:<8}{:<12}{:>10.1f}{:>12.3f}{:>12.0f}{:>12.1f}{:>12.1f}  {}, {:.1f} ms", number("ranks"),
               world.at("link").get<std::string>(), 1e3 * number("seconds"), number("efficiency"), number("messages"),
               number("bytes") / 1e6, number("sum_buffer_bytes") / (1 << 20), largest,
               1e3 * world.at("parts").at(largest).get<double>());
    if (world.contains("measured_seconds")) fmt::print("; measured: {:.1f} ms", 1e3 * number("measured_seconds"));
    fmt::print("\n");
  }
}

void print_cell(const Json& cell, int ranks) {
  fmt::print("\n{}: {} tokens a step, {} dense parameters\n", cell["title"].get<std::string>(),
             cell["tokens_per_step"].get<double>(), format_count(cell["dense_parameters"].get<double>()));
  const auto line = [&](const std::string& name, const char* key, bool ratio) {
    fmt::print("  {:<44}{}\n", name, show(cell[key], ratio));
  };
  line("tokens/s, 1 process", "alone", false);
  line(fmt::format("tokens/s, {} processes side by side", ranks), "side_by_side", false);
  line(fmt::format("tokens/s, {} ranks", ranks), "ranks", false);
  line("efficiency: ranks / side by side", "efficiency", true);
  line("speed-up: ranks / 1 process", "speed_up", true);
  for (const char* key : {"waited_share", "bytes_per_step", "exchanges_per_step"}) {
    fmt::print("  {:<44}", key == std::string_view("waited_share")     ? "share of the step waited, rank 0"
                           : key == std::string_view("bytes_per_step") ? "bytes sent a step by rank 0"
                                                                       : "exchanges a step");
    for (const auto& [channel, value] : cell[key].items()) fmt::print("{} {:.4g}  ", channel, value.get<double>());
    fmt::print("\n");
  }
  if (cell.contains("rows"))
    fmt::print("  {:<44}{} looked up, {} asked for, {} distinct; busiest owner {:.3f} of the mean\n", "rows of a step",
               cell["rows"]["looked_up"].get<double>(), cell["rows"]["asked"].get<double>(),
               cell["rows"]["distinct"].get<double>(), cell["busiest_owner"].get<double>());
  if (cell.contains("peer")) {
    fmt::print("  {:<44}{}\n  {:<44}{}\n", cell["peer"]["name"].get<std::string>() + ", tokens/s",
               show(cell["peer"]["tokens_per_second"], false), "ours / that", show(cell["peer"]["ratio"], true));
  }
  if (cell.contains("hosts")) line("tokens/s, 2 hosts", "hosts", false);
  print_worlds(cell["larger_worlds"]);
}

Status run(const bench::DistributedBenchOptions& options, bool json) {
  ENGRAM_ASSIGN_OR_RETURN(const Json measured, bench::run_distributed_bench(Env::posix(), options));
  Json result = {
      {"benchmark", "distributed"}, {"machine", machine_description()}, {"commit", build_commit()}, {"date", today()}};
  result.update(measured);
  if (json) {
    fmt::print("{}\n", result.dump());
    return {};
  }
  fmt::print("{} ranks of one thread, {} rounds, median (min to max); text: {}; {}, commit {}, {}\n", options.ranks,
             options.rounds, result["text"].get<std::string>(), machine_description(), build_commit(), today());
  fmt::print("a message takes {:.0f} us, {:.2f} GB/s\n", 1e6 * result["exchange"]["latency_seconds"].get<double>(),
             result["exchange"]["bytes_per_second"].get<double>() / 1e9);
  for (const Json& cell : result["cells"]) print_cell(cell, options.ranks);
  if (result.contains("peer_missing")) fmt::print("\npeer left out: {}\n", result["peer_missing"].get<std::string>());
  return {};
}

}  // namespace

void add_bench_distributed(CLI::App& bench, Invocation& invocation) {
  struct Flags {
    bench::DistributedBenchOptions options = bench::default_distributed_bench_options();
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  bench::DistributedBenchOptions& options = flags->options;
  CLI::App* command = bench.add_subcommand("distributed", "Training in several processes, beside independent ones");
  command->footer(
      "Example:\n"
      "  engram bench distributed --ranks 2 --rounds 3 --cell engram --peer");
  command->add_option("--ranks", options.ranks, "Processes that share a model")
      ->check(CLI::Range(2, 64))
      ->capture_default_str();
  command->add_option("--rounds", options.rounds, "Rounds; the sides take turns")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command->add_option("--steps", options.steps, "Measured steps of each process")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command->add_option("--cell", options.cells, "moe, engram, wide, table, experts; several are fine; all")
      ->check(CLI::IsMember({"moe", "engram", "wide", "table", "experts"}));
  command->add_option("--recipes", options.recipes, "Folder of the demo's recipes")->capture_default_str();
  command->add_option("--text", options.text, "Folder with tokenizer.json and train.tokens; without it, invented text")
      ->capture_default_str();
  command->add_flag("--peer", options.peer, "Also PyTorch's DistributedDataParallel on the MoE");
  command->add_option("--python", options.python, "Its interpreter")->capture_default_str();
  command
      ->add_option("--link", options.link_megabits,
                   "Also two hosts (network namespaces) with a link of so many Mbit/s; needs root")
      ->check(CLI::Range(1, 1000000));
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run(flags->options, flags->json); }; });
}

}  // namespace engram::apps
