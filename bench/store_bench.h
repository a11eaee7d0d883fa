// store_bench: the tiers of a table against the machine's own limits and other implementations, in one run.
//
// All parts read one row file; results are medians over rounds in which the sides take turns.
//   dram    DramStore: random rows beside a plain prefetched gather loop on the same pages, at 1 and 2 threads, and
//           beside the same loop on 4 KiB pages
//   drive   NvmeStore: random rows, one page each, beside fio's io_uring random reads at the same depth, pages that
//           neither side has read before; CPU per read
//   prompt  one call: hash a prompt and read its rows from the drive, against pages / measured rate
//   text    tokens a second of real text in chunks, by cache budget, beside synchronous pread and np.memmap
//           (bench/memmap_rows.py); the drive tiers past the page cache, the others with a cold and a warm one
//   peer    DramStore beside Mooncake's EngramStore (bench/mooncake_lookup.py): 24 heads of float32 rows, in memory
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram::bench {

struct StoreBenchOptions {
  std::string table;              // row file; for the drive larger than memory
  std::string tokenizer, tokens;  // tokenizer.json and a token shard: for prompt and text
  std::string python, memmap_script, mooncake_script, fio = "fio";
  double seconds = 3.0;  // of each measurement
  int rounds = 3;
  int depth = 128;  // reads in flight
  int64_t prompt_tokens = 48000;
  int64_t chunk_tokens = 512;       // of text, one call
  int64_t warm_up_tokens = 100000;  // read before a cache is measured
};

StoreBenchOptions default_store_bench_options();

// One part, as JSON: {"measurements": [{"name", ...}]}. kNotFound names a missing program or file.
Result<nlohmann::ordered_json> run_dram_bench(Env& env, const StoreBenchOptions& options);
Result<nlohmann::ordered_json> run_drive_bench(Env& env, const StoreBenchOptions& options);
Result<nlohmann::ordered_json> run_prompt_bench(Env& env, const StoreBenchOptions& options);
Result<nlohmann::ordered_json> run_text_bench(Env& env, const StoreBenchOptions& options);
Result<nlohmann::ordered_json> run_peer_bench(Env& env, const StoreBenchOptions& options);

}  // namespace engram::bench
