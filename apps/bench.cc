// engram bench: measurements against other implementations and against the machine's limits, in one run.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "bench/hash_bench.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"

namespace engram::apps {
namespace {

Status bench_hash(const bench::HashBenchOptions& options, bool json) {
  ENGRAM_ASSIGN_OR_RETURN(bench::HashBenchResult result, bench::run_hash_bench(options));
  if (json) {
    nlohmann::ordered_json object = {{"benchmark", "hash"},
                                     {"rule", hash_rule_name(options.rule)},
                                     {"tokens_per_second", result.tokens_per_second},
                                     {"ratio_to_numpy", result.ratio_to_numpy},
                                     {"threads", result.threads},
                                     {"batch", options.batch},
                                     {"sequence", options.sequence},
                                     {"numpy_tokens_per_second", result.numpy_tokens_per_second},
                                     {"bytes_written_per_second", result.bytes_written_per_second},
                                     {"stream_bytes_per_second", result.stream_bytes_per_second},
                                     {"share_of_stream", result.share_of_stream},
                                     {"target", result.target},
                                     {"numpy", result.numpy_version},
                                     {"machine", machine_description()},
                                     {"commit", build_commit()},
                                     {"date", today()}};
    fmt::print("{}\n", object.dump());
    return {};
  }
  fmt::print("n-gram hashing, rule {}, {} row ids a token, batches of {} x {}, {} thread ({})\n",
             hash_rule_name(options.rule), result.row_ids_per_token, options.batch, options.sequence, result.threads,
             result.target);
  fmt::print("{}, commit {}, {}\n\n", machine_description(), build_commit(), today());
  fmt::print("  {:<28}{:>12} tokens/s\n", "engram", format_count(result.tokens_per_second));
  fmt::print("  {:<28}{:>12} tokens/s\n", "numpy " + result.numpy_version,
             format_count(result.numpy_tokens_per_second));
  fmt::print("  {:<28}{:>12.1f} x\n", "ratio to numpy", result.ratio_to_numpy);
  fmt::print("  {:<28}{:>12} B/s\n", "row ids written", format_count(result.bytes_written_per_second));
  fmt::print("  {:<28}{:>12} B/s\n", "memset of the same buffer", format_count(result.stream_bytes_per_second));
  fmt::print("  {:<28}{:>12.0f} %\n", "share of that", 100 * result.share_of_stream);
  return {};
}

void add_bench_hash(CLI::App& bench, Invocation& invocation) {
  struct Flags {
    bench::HashBenchOptions options = bench::default_hash_bench_options();
    std::string rule = "engram";
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand("hash", "Row ids per second of one thread, beside numpy");
  command->footer(
      "Example:\n"
      "  engram bench hash --seconds 2 --python .venv-oracles/bin/python");
  command->add_option("--rule", flags->rule, "engram, qwen4exp or longcat, each in its published size")
      ->check(CLI::IsMember({"engram", "qwen4exp", "longcat"}))
      ->capture_default_str();
  command->add_option("--python", flags->options.python, "Interpreter that has numpy")->capture_default_str();
  command->add_option("--script", flags->options.script, "The numpy side")->capture_default_str();
  command->add_option("--seconds", flags->options.seconds, "Time for each side")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  command->add_option("--batch", flags->options.batch, "Sequences of a batch, a power of two")->capture_default_str();
  command->add_option("--sequence", flags->options.sequence, "Tokens of a sequence, a power of two")
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &invocation] {
    invocation.run = [flags]() -> Status {
      ENGRAM_ASSIGN_OR_RETURN(flags->options.rule, parse_hash_rule(flags->rule));
      return bench_hash(flags->options, flags->json);
    };
  });
}

}  // namespace

void add_bench(CLI::App& app, Invocation& invocation) {
  CLI::App* command = add_bench_group(app);
  add_bench_distributed(*command, invocation);
  add_bench_hash(*command, invocation);
  add_bench_store(*command, invocation);
}

}  // namespace engram::apps
