#include "bench/store_bench.h"

namespace engram::bench {

StoreBenchOptions default_store_bench_options() {
  StoreBenchOptions options;
  options.python = ENGRAM_SOURCE_DIR "/.venv-oracles/bin/python";
  options.memmap_script = ENGRAM_SOURCE_DIR "/bench/memmap_rows.py";
  options.mooncake_script = ENGRAM_SOURCE_DIR "/bench/mooncake_lookup.py";
  options.tokenizer = "demo/data/tokenizer.json";
  options.tokens = "demo/data/train.tokens";
  return options;
}

}  // namespace engram::bench
