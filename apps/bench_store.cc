// engram bench store: the tiers of a table beside the machine's limits and other implementations.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "bench/store_bench.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"

namespace engram::apps {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  bench::StoreBenchOptions options = bench::default_store_bench_options();
  std::vector<std::string> parts = {"dram", "drive", "prompt", "text", "peer"};
  bool json = false;
};

std::string show(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  const double number = value.get<double>();
  return number >= 1000 ? format_count(number) : fmt::format("{:.4g}", number);
}

void print_part(const std::string& name, const Json& part) {
  fmt::print("{}", name);
  for (const auto& [key, value] : part.items())
    if (key != "measurements") fmt::print("  {} {}", key, show(value));
  fmt::print("\n");
  for (const Json& measurement : part.at("measurements")) {
    fmt::print("  {}\n", measurement.at("name").get<std::string>());
    for (const auto& [key, value] : measurement.items())
      if (key != "name") fmt::print("    {:<42}{:>12}\n", key, show(value));
  }
  fmt::print("\n");
}

Status run_bench_store(const Flags& flags) {
  Env& env = Env::posix();
  Json out = {{"benchmark", "store"},
              {"table", flags.options.table},
              {"machine", machine_description()},
              {"commit", build_commit()},
              {"date", today()}};
  if (!flags.json) fmt::print("{}, commit {}, {}\n\n", machine_description(), build_commit(), today());
  for (const std::string& name : flags.parts) {
    auto run = name == "dram"    ? bench::run_dram_bench
               : name == "drive" ? bench::run_drive_bench
               : name == "text"  ? bench::run_text_bench
               : name == "peer"  ? bench::run_peer_bench
                                 : bench::run_prompt_bench;
    ENGRAM_ASSIGN_OR_RETURN(const Json part, run(env, flags.options));
    if (!flags.json) print_part(name, part);
    out[name] = part;
  }
  out["peak_rss_bytes"] = peak_rss_bytes();
  if (flags.json)
    fmt::print("{}\n", out.dump());
  else
    fmt::print("peak RSS {} B\n", format_count(static_cast<double>(peak_rss_bytes())));
  return {};
}

}  // namespace

void add_bench_store(CLI::App& bench, Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand("store", "Rows from memory and from a drive, beside the machine's limits");
  command->footer(
      "Example:\n"
      "  engram table create t.rows --synthetic --size 26GiB --tokenizer demo/data/tokenizer.json\n"
      "  engram bench store --table t.rows --part drive --part text");
  bench::StoreBenchOptions& options = flags->options;
  command->add_option("--table", options.table, "Row file; for the drive parts larger than memory")->required();
  command->add_option("--part", flags->parts, "dram, drive, prompt, text, peer; several are fine; all")
      ->check(CLI::IsMember({"dram", "drive", "prompt", "text", "peer"}));
  command->add_option("--tokenizer", options.tokenizer, "tokenizer.json that the table was made for")
      ->capture_default_str();
  command->add_option("--tokens", options.tokens, "Token shard with real text")->capture_default_str();
  command->add_option("--seconds", options.seconds, "Time of each measurement")
      ->check(CLI::Range(0.05, 600.0))
      ->capture_default_str();
  command->add_option("--rounds", options.rounds, "Rounds; the sides take turns")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command->add_option("--depth", options.depth, "Reads in flight")->check(CLI::Range(1, 256))->capture_default_str();
  command->add_option("--prompt-tokens", options.prompt_tokens, "Length of the prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--warm-up-tokens", options.warm_up_tokens, "Text read before a cache is measured")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_option("--python", options.python, "Interpreter that has numpy")->capture_default_str();
  command->add_option("--fio", options.fio, "The fio program")->capture_default_str();
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_bench_store(*flags); }; });
}

}  // namespace engram::apps
