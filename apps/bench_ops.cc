// engram bench ops: every kernel beside the best call of libtorch for its work.
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

using Json = nlohmann::ordered_json;

Json row_json(const bench::OpsBenchRow& row) {
  Json rivals = Json::array();
  for (const auto& [name, time] : row.rivals) {
    rivals.push_back({{"name", name}, {"us", time.least_us}, {"median_us", time.median_us}});
  }
  return {{"kernel", row.kernel},
          {"case", row.work},
          {"shape", row.shape},
          {"us", row.ours.least_us},
          {"median_us", row.ours.median_us},
          {"rival", row.rivals[0].first},
          {"rival_us", row.rivals[0].second.least_us},
          {"rival_median_us", row.rivals[0].second.median_us},
          {"ratio", row.ratio()},
          {row.arithmetic ? "gflops" : "gb_per_second", row.rate},
          {"share_of_limit", row.share_of_limit()},
          {"rivals", rivals}};
}

void print_json(const bench::OpsBenchResult& result) {
  Json object = {{"benchmark", "ops"},
                 {"machine", machine_description()},
                 {"commit", build_commit()},
                 {"date", today()},
                 {"threads", result.threads},
                 {"copy_gb_per_second", result.copy_gb},
                 {"fp32_gflops", result.fp32_gflops},
                 {"bf16_gflops", result.bf16_gflops},
                 {"kernels", result.kernels},
                 {"rows", Json::array()}};
  for (const auto& row : result.rows) object["rows"].push_back(row_json(row));
  fmt::print("{}\n", object.dump());
}

std::string time_text(double us) { return fmt::format("{:.{}f}", us, us < 100 ? 1 : 0); }

void print_table(const bench::OpsBenchResult& result) {
  fmt::print("{}, commit {}, {}\n", machine_description(), build_commit(), today());
  fmt::print("threads: {}; copy {:.1f} GB/s, multiply-adds {:.0f} GFLOP/s in fp32, {:.0f} in bf16\n", result.threads,
             result.copy_gb, result.fp32_gflops, result.bf16_gflops);
  fmt::print("us: least (median); limit: this share of the copy or multiply-add rate\n\n");
  fmt::print("  {:<15} {:<31} {:<5} {:>18} {:>18} {:>6} {:>11} {:>6}  {}\n", "kernel", "case", "shape", "us",
             "rival us", "ratio", "rate", "limit", "rival");
  for (const auto& row : result.rows) {
    const auto both = [](const bench::OpsTime& time) {
      return fmt::format("{} ({})", time_text(time.least_us), time_text(time.median_us));
    };
    fmt::print("  {:<15} {:<31} {:<5} {:>18} {:>18} {:>6.2f} {:>11} {:>4.0f} %  {}\n", row.kernel, row.work, row.shape,
               both(row.ours), both(row.rivals[0].second), row.ratio(),
               fmt::format("{:.1f} {}", row.rate, row.arithmetic ? "GF/s" : "GB/s"), 100 * row.share_of_limit(),
               row.rivals[0].first);
  }
}

Status bench_ops(const bench::OpsBenchOptions& options, bool json) {
  ENGRAM_ASSIGN_OR_RETURN(const bench::OpsBenchResult result, bench::run_ops_bench(options));
  json ? print_json(result) : print_table(result);
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
      "  engram bench ops --only moe --shape d512");
  command->add_option("--only", flags->options.only, "One kernel, named as its file in engram/kernels");
  command->add_option("--shape", flags->options.shape, "demo, xs or d512; default: all");
  command->add_option("--threads", flags->options.threads, "Threads; 0: all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--seconds", flags->options.seconds, "Time for each case, all sides")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  command->add_flag("--quick", flags->options.quick, "One round at the demo's shape: does every case run?");
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback(
      [flags, &invocation] { invocation.run = [flags] { return bench_ops(flags->options, flags->json); }; });
}

}  // namespace engram::apps
