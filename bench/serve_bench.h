// serve_bench: what a table off the device costs an engine, by the paper's protocol, in one run.
//
// Two dense backbones whose cost per token differs by about two, with one Engram layer in the second block, serve the
// same requests: prompts and outputs of uniform lengths, output ids given, so that every variant does the same work.
// "no-memory" is the model whose Engram layer is fed one constant row: the arithmetic stays, the table traffic goes.
//   bare              the same model with its memory off
//   no-memory         the reference of all ratios
//   resident          the table beside the weights, bf16
//   dram-prefetched   DramStore, read where the step begins;   dram-synchronous   the step waits for it first
//   drive-prefetched  NvmeStore past the page cache;           drive-synchronous
//   drive-cached      the same behind 5 % of the table in memory: half a hot set, chosen from other text of the same
//                     shard, half a cache of recent rows
// On a GPU (scale gpu: dense 4B and 8B in bf16) the table is as large as host memory takes, without a file: bare,
// no-memory and the two of DRAM.
// Each on random ids, and, with "-real-text" after its name, on real text: random ids defeat every cache. Variants take
// turns step by step; a ratio is taken within a round.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram::bench {

struct ServeBenchOptions {
  std::string scale = "cpu";          // smoke, cpu, cpu-small, gpu, gpu-smoke
  std::string tokenizer, tokens;      // tokenizer.json and a token shard: the real text
  std::string folder;                 // where the table is made, and removed at the end
  std::string python, llama_script;   // interpreter with xllamacpp and gguf; bench/llama_peer.py
  std::vector<std::string> variants;  // of the names above, "no-memory" added; empty: all
  std::vector<std::string> texts;     // random, real; empty: both
  int rounds = 5;
  int sequences = 0;        // requests of a round; 0: the scale's
  int64_t table_bytes = 0;  // 0: the scale's
  int threads = 0;          // 0: all cores
};
ServeBenchOptions default_serve_bench_options();

// {"backbones": [{"name", "p_act", "variants": [{"name", "tokens_per_second" (generated ones, median), "low", "high",
//  "ratio_to_no_memory", "ratio_low", "ratio_high", "stall_share", "bytes_per_token", "hit_rate"}]}],
//  "variants": those of the first backbone}. kNotFound names a missing file and what makes it.
Result<nlohmann::ordered_json> run_serve_bench(Env& env, const ServeBenchOptions& options);

// Continuous batching and the memory's speed on the first backbone, on CPUs: {"clients": [{"clients",
//  "tokens_per_second"}], "ratio_of_32_clients", "share_of_matrix_rate", "largest_possible_ratio" (32 clients at the
//  matrix rate), "active_weight_bytes", "decode_seconds", "weight_read_seconds" (of the same bytes where they lie),
//  "decode_over_weight_read", "ratio_low", "ratio_high", "moe": the last six and "experts", "active_experts" of a
//  mixture of experts with as many active weights}.
Result<nlohmann::ordered_json> run_serve_clients_bench(Env& env, const ServeBenchOptions& options);

// One client on the first backbone that writes real text, with drafts and without, step by step in turn: {"rows":
//  [{"draft_tokens", "tokens_per_second", "ratio" to none, "ratio_low", "ratio_high", "tokens_per_step",
//  "accepted" (share of the drafts)}]}.
Result<nlohmann::ordered_json> run_serve_drafts_bench(Env& env, const ServeBenchOptions& options);

// Eight sequences on the first backbone, greedy and sampled, step by step in turn:
// {"sequences", "vocab_size", "rounds",
//  "rows": [{"name", "temperature", "top_p", "tokens_per_second", "time_over_greedy", "ratio_low", "ratio_high"}]}.
Result<nlohmann::ordered_json> run_serve_sampling_bench(Env& env, const ServeBenchOptions& options);

// A model of SmolLM2-135M's shape beside llama.cpp, in F32 and in BF16, and ours in BF16 beside its Q8_0: {"peer" (its
// version and the instructions that it was built for),
// "rows":
//  [{"name": what is done and in which weights (prefill, decode, decode of 8 sequences), "ours", "llama_cpp" in tokens
//  per second, "ratio", "ratio_low", "ratio_high"}]}. kNotFound.
Result<nlohmann::ordered_json> run_serve_peer_bench(Env& env, const ServeBenchOptions& options);

}  // namespace engram::bench
