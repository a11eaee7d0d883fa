// What the parts of serve_bench share: models of random weights, requests, and the time an engine takes for them.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bench/serve_bench.h"
#include "engram/serve/llm_engine.h"
#include "engram/store/rowfile/row_file.h"

namespace engram::bench {

struct BackboneShape {
  int hidden, intermediate, heads, kv_heads, head_dim, blocks;
};

// The paper: 512 sequences, both lengths uniform in [100, 1024], dense backbones of 4B and 8B.
struct Scale {
  const char* name;
  const char* device;
  BackboneShape backbones[2];
  int sequences, at_once;  // requests of a round; those that run at the same time
  int shortest, longest;
  int row_dim;
  int64_t table_bytes;
  int64_t kv_cache_bytes;  // of each engine
  bool on_gpu() const { return std::string_view(device) == "cuda"; }
};

// A prompt and what is generated after it.
struct Job {
  std::vector<int32_t> prompt, output;
};

struct Workload {
  Scale scale;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> sample, text;  // real ids: what a profile may know, and what is served

  // `count` jobs: the same lengths in every round and for both kinds of text; other ids in each.
  std::vector<Job> jobs(bool real, int round, size_t count) const;
};
Result<Workload> read_workload(Env& env, const ServeBenchOptions& options);

// A dense model of the scale. engram: null for the backbone alone.
ModelConfig backbone_config(const Workload& work, const BackboneShape& shape, const EngramConfig* engram);
// Random weights, on the scale's device. resident: a row file whose rows become the model's table, in bf16; "" for
// none.
Result<LoadedModel> make_model(Env& env, const Workload& work, const ModelConfig& config,
                               const std::string& resident = "");

struct Measurement {
  double seconds = 0, step_seconds = 0;  // of all steps, and their median
  double tokens_per_second = 0;          // generated
  double stall_share = 0, bytes_per_token = 0;
};
// An engine, and what its requests ask for: with the memory knocked out or not, how tokens are sampled.
struct Server {
  LLMEngine* engine;
  bool memory_off = false;
  double temperature = 0, top_p = 1;
};
// Each engine serves all jobs at once. Engines take turns step by step, and the time of each is that of its steps: what
// slows the machine for a while slows all of them.
Result<std::vector<Measurement>> serve(const std::vector<Server>& servers, const std::vector<Job>& jobs);

}  // namespace engram::bench
