// engram bench serve: what a table off the device costs an engine.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/torch_commands.h"
#include "bench/serve_bench.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"

namespace engram::apps {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  bench::ServeBenchOptions options = bench::default_serve_bench_options();
  std::vector<std::string> parts = {"table", "clients", "sampling"};
  bool json = false;
};

void print_table(const Json& part) {
  fmt::print("{} sequences, {} at once, prompts and outputs of {} to {} tokens, {} rounds, {} threads\n",
             part.at("sequences").get<int>(), part.at("at_once").get<int>(), part.at("lengths")[0].get<int>(),
             part.at("lengths")[1].get<int>(), part.at("rounds").get<int>(), part.at("threads").get<int>());
  for (const Json& backbone : part.at("backbones")) {
    fmt::print("\n{}: {} active parameters, a table of {} rows, {} bytes\n", backbone.at("name").get<std::string>(),
               format_count(backbone.at("p_act").get<double>()), format_count(backbone.at("table_rows").get<double>()),
               format_count(backbone.at("table_bytes").get<double>()));
    fmt::print("  {:<30}{:>10}{:>20}{:>26}{:>8}{:>9}{:>7}\n", "", "tokens/s", "(lowest, highest)", "ratio to no-memory",
               "stall", "B/token", "hits");
    for (const Json& v : backbone.at("variants")) {
      const auto number = [&v](const char* key) { return v.at(key).get<double>(); };
      fmt::print("  {:<30}{:>10.1f}{:>20}{:>9.3f}{:>17}{:>7.1f}%{:>9.0f}{:>6.0f}%\n", v.at("name").get<std::string>(),
                 number("tokens_per_second"), fmt::format("({:.1f}, {:.1f})", number("low"), number("high")),
                 number("ratio_to_no_memory"),
                 fmt::format("({:.3f}, {:.3f})", number("ratio_low"), number("ratio_high")),
                 100 * number("stall_share"), number("bytes_per_token"), 100 * number("hit_rate"));
    }
  }
}

void print_clients(const Json& part) {
  fmt::print("\n");
  for (const Json& row : part.at("clients")) {
    fmt::print("  {:>3} clients {:>10.1f} tokens/s\n", row.at("clients").get<int>(),
               row.at("tokens_per_second").get<double>());
  }
  fmt::print(
      "  32 clients have {:.2f} times the tokens/s of one: {:.0f} % of the machine's {} FLOP/s in matrix products,\n"
      "  which would be {:.2f} times\n",
      part.at("ratio_of_32_clients").get<double>(), 100 * part.at("share_of_matrix_rate").get<double>(),
      format_count(part.at("matrix_flops").get<double>()), part.at("largest_possible_ratio").get<double>());
  fmt::print(
      "  a decode step of one sequence takes {:.2f} ms; reading its {} bytes of weights once {:.2f} ms: {:.2f} x\n",
      1e3 * part.at("decode_seconds").get<double>(), format_count(part.at("active_weight_bytes").get<double>()),
      1e3 * part.at("weight_read_seconds").get<double>(), part.at("decode_over_weight_read").get<double>());
  const Json& moe = part.at("moe");
  fmt::print(
      "  with {} experts, {} of them active, a decode step takes {:.2f} ms; reading its {} bytes once {:.2f} ms: {:.2f}"
      " x\n",
      moe.at("experts").get<int>(), moe.at("active_experts").get<int>(), 1e3 * moe.at("decode_seconds").get<double>(),
      format_count(moe.at("active_weight_bytes").get<double>()), 1e3 * moe.at("weight_read_seconds").get<double>(),
      moe.at("decode_over_weight_read").get<double>());
}

void print_sampling(const Json& part) {
  fmt::print("\n{} sequences, vocabulary {}, {} rounds\n", part.at("sequences").get<int>(),
             part.at("vocab_size").get<int>(), part.at("rounds").get<int>());
  for (const Json& row : part.at("rows")) {
    fmt::print("  {:<14}{:>10.1f} tokens/s, time over greedy {:.3f} ({:.3f}, {:.3f})\n",
               row.at("name").get<std::string>(), row.at("tokens_per_second").get<double>(),
               row.at("time_over_greedy").get<double>(), row.at("ratio_low").get<double>(),
               row.at("ratio_high").get<double>());
  }
}

void print_peer(const Json& part) {
  fmt::print("\nbeside {}\n", part.at("peer").get<std::string>());
  for (const Json& row : part.at("rows")) {
    fmt::print("  {:<32}{:>8.1f} tokens/s, llama.cpp {:>8.1f}, ratio {:.2f} ({:.2f}, {:.2f})\n",
               row.at("name").get<std::string>(), row.at("ours").get<double>(), row.at("llama_cpp").get<double>(),
               row.at("ratio").get<double>(), row.at("ratio_low").get<double>(), row.at("ratio_high").get<double>());
  }
}

void print_drafts(const Json& part) {
  fmt::print("\none client that writes {} tokens of real text behind {}, {} rounds\n", part.at("output").get<int>(),
             part.at("prompt").get<int>(), part.at("rounds").get<int>());
  for (const Json& row : part.at("rows")) {
    fmt::print(
        "  drafts of {} {:>10.1f} tokens/s, ratio to none {:.2f} ({:.2f}, {:.2f}), {:.2f} tokens a step, {:.0f} %"
        " of the drafts right\n",
        row.at("draft_tokens").get<int>(), row.at("tokens_per_second").get<double>(), row.at("ratio").get<double>(),
        row.at("ratio_low").get<double>(), row.at("ratio_high").get<double>(), row.at("tokens_per_step").get<double>(),
        100 * row.at("accepted").get<double>());
  }
}

Status run_bench_serve(const Flags& flags) {
  Env& env = Env::posix();
  Json out = {
      {"benchmark", "serve"}, {"machine", machine_description()}, {"commit", build_commit()}, {"date", today()}};
  if (!flags.json) fmt::print("{}, commit {}, {}\n", machine_description(), build_commit(), today());
  for (const std::string& part : flags.parts) {
    if (part == "table") {
      ENGRAM_ASSIGN_OR_RETURN(const Json result, bench::run_serve_bench(env, flags.options));
      out.update(result);
      if (!flags.json) print_table(result);
    } else if (part == "sampling") {
      ENGRAM_ASSIGN_OR_RETURN(const Json result, bench::run_serve_sampling_bench(env, flags.options));
      out["sampling"] = result;
      if (!flags.json) print_sampling(result);
    } else if (part == "drafts") {
      ENGRAM_ASSIGN_OR_RETURN(const Json result, bench::run_serve_drafts_bench(env, flags.options));
      out["drafts"] = result;
      if (!flags.json) print_drafts(result);
    } else if (part == "peer") {
      ENGRAM_ASSIGN_OR_RETURN(const Json result, bench::run_serve_peer_bench(env, flags.options));
      out["peer"] = result;
      if (!flags.json) print_peer(result);
    } else {
      ENGRAM_ASSIGN_OR_RETURN(const Json result, bench::run_serve_clients_bench(env, flags.options));
      out["continuous_batching"] = result;
      if (!flags.json) print_clients(result);
    }
  }
  if (flags.json) fmt::print("{}\n", out.dump());
  return {};
}

}  // namespace

void add_bench_serve(CLI::App& bench, Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand("serve", torch_command_help("bench", "serve"));
  command->footer(
      "Example:\n"
      "  engram bench serve --scale smoke --part table");
  bench::ServeBenchOptions& options = flags->options;
  command
      ->add_option("--scale", options.scale,
                   "smoke; cpu: two backbones for two cores, about ten minutes; cpu-small: half as deep; gpu: dense 4B "
                   "and 8B and a table of 100B parameters (104 GiB of memory); gpu-smoke")
      ->capture_default_str();
  command->add_option("--tokenizer", options.tokenizer, "tokenizer.json of the real text")->capture_default_str();
  command->add_option("--tokens", options.tokens, "token shard with the real text")->capture_default_str();
  command->add_option("--folder", options.folder, "where the table is made; it is removed at the end")
      ->capture_default_str();
  command->add_option("--rounds", options.rounds, "rounds in which the variants take turns")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--sequences", options.sequences, "requests of a round; 0: the scale's")
      ->check(CLI::Range(0, 100000));
  command->add_option("--table-bytes", options.table_bytes, "size of the table; 0: the scale's")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 50));
  command->add_option("--threads", options.threads, "0: all cores")->check(CLI::Range(0, 1024))->capture_default_str();
  command
      ->add_option("--variant", options.variants, "bare, resident, dram-prefetched, drive-cached, ... (default: all)")
      ->delimiter(',');
  command->add_option("--text", options.texts, "random, real (default: both)")
      ->delimiter(',')
      ->check(CLI::IsMember({"random", "real"}));
  command
      ->add_option(
          "--part", flags->parts,
          "table, clients, sampling (beside greedy), drafts (guesses at the next tokens), peer (llama.cpp); the "
          "first three unless given")
      ->delimiter(',')
      ->check(CLI::IsMember({"table", "clients", "sampling", "drafts", "peer"}));
  command->add_option("--python", options.python, "interpreter that has xllamacpp and gguf")->capture_default_str();
  command->add_flag("--json", flags->json, "print JSON");
  command->callback([flags, &invocation] { invocation.run = [flags] { return run_bench_serve(*flags); }; });
}

}  // namespace engram::apps
