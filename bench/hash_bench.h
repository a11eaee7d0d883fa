// hash_bench: row ids per second of one thread, beside numpy and beside the machine's stream rate.
//
// The configuration is the rule's published one. engram, the paper's: layers 1 and 14, N = 3, K = 8, 2,262,400 rows per
// head; 129,280 raw ids that map to 99,092 canonical ones. qwen4exp, Qwen3.8-Flash-Next's: one layer, N = 3, K = 8,
// 20,000,000 rows per head, 248,320 raw ids. longcat, LongCat-2.0's: N = 5, K = 4, 100.567 rows per head and id,
// 163,840 raw ids. Both sides hash the same 2^20 ids, one batch [B, T] a round. Ours go to one buffer of a batch, as in
// the data loader, whose next step reads the row ids; numpy allocates its result, as numpy does. The default batch is a
// training batch and stays in the core's cache; with a large one (--batch 16 --sequence 4096, 16 MiB of row ids)
// memory's write rate is the limit. bench/numpy_hash.py runs in between, and its checksum over all row ids must equal
// ours.
#pragma once
#include <cstdint>
#include <string>

#include "engram/core/status.h"
#include "engram/hash/layout.h"

namespace engram::bench {

struct HashBenchOptions {
  HashRule rule = HashRule::kEngram;
  std::string python;    // interpreter that has numpy
  std::string script;    // bench/numpy_hash.py
  double seconds = 2.0;  // for each side
  size_t batch = 8;      // B, T: powers of two, B * T <= 2^20
  size_t sequence = 256;
};

struct HashBenchResult {
  int threads = 1;
  int row_ids_per_token = 0;  // of all layers
  std::string target;         // vector instructions that ran
  std::string numpy_version;
  double tokens_per_second = 0;        // median over rounds
  double numpy_tokens_per_second = 0;  // median over rounds
  double ratio_to_numpy = 0;
  double bytes_written_per_second = 0;  // row ids only
  double stream_bytes_per_second = 0;   // memset over the same buffer, median
  double share_of_stream = 0;
};

// The defaults: .venv-oracles and bench/ of the source tree that the program was built from.
HashBenchOptions default_hash_bench_options();
// kInvalidArgument: batch or sequence. kNotFound: no interpreter or script. kInternal: the two sides' row ids differ.
Result<HashBenchResult> run_hash_bench(const HashBenchOptions& options);

}  // namespace engram::bench
