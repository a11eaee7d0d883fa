// LLMEngine: requests in, tokens out, one step at a time.
//
// A step: the scheduler chooses tokens, the runner starts their reads and runs them, every sequence whose last token
// ran gets a new one, and its client is told. Greedy output equals `engram generate`'s, token for token, for any
// batch, chunking, preemption and drafts (except for ties closer than rounding).
// A draft is kept when it is the token that is sampled anyway, so drafts change when tokens come, and never which.
// EngineThread (engine_thread.h) puts it behind the Engine interface, on its own thread.
#pragma once
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engram/serve/engine.h"
#include "engram/serve/model_runner.h"
#include "engram/serve/output_text.h"

namespace engram {

struct EngineOptions {
  std::string model_name = "engram";
  std::vector<std::string> tables;            // placements (model/memory/served_tables.h); none: resident
  std::vector<NamedOverlay> overlays;         // that requests may name
  int64_t kv_cache_bytes = int64_t{1} << 30;  // of pages; fewer are made when every sequence fits into fewer
  int64_t block_size = 16;                    // tokens of a page
  int64_t max_context = 0;                    // of a sequence, at most the model's; 0: the model's
  int64_t max_waiting = 1024;                 // requests that may queue
  bool prefix_cache = true;
  bool overlap_reads = true;  // false: every step waits for its rows before it runs
  SchedulerOptions scheduler;
  Status validate() const;  // names the field, got, wanted
};

// One thread.
class LLMEngine {
 public:
  // `model` outlives it. kInvalidArgument: options, placements; kResourceExhausted: a page cache too small for one
  // sequence of max_position_embeddings, or larger than the memory that there is.
  static Result<std::unique_ptr<LLMEngine>> create(Env& env, const LoadedModel& model, const EngineOptions& options);
  // Over tables that several engines share; options.tables says nothing.
  static Result<std::unique_ptr<LLMEngine>> create(const LoadedModel& model, const EngineOptions& options,
                                                   std::shared_ptr<const ServedTables> tables);
  ~LLMEngine();

  // kInvalidArgument: a request that cannot be served. Any thread.
  Status check(const GenerationRequest& request) const;
  // REQUIRES: check() is ok.
  void add(uint64_t id, GenerationRequest request, Engine::OnEvent on_event);
  // Ends a request with kCancelled. Unknown ids are ignored.
  void cancel(uint64_t id);
  void cancel_all();
  bool has_work() const;
  // What the model or a request's rows do wrong ends the requests it touches. Throws only where the engine itself is
  // not whole any more (no memory to schedule with): then abandon() is all that may be called.
  void step();
  // Tells every client that its request has failed.
  void abandon(const Status& error) noexcept;
  // Ok, or the last failure that is likely to come again.
  const Status& health() const { return health_; }
  EngineMetrics metrics() const;                                                            // without `stores`
  std::vector<std::pair<int, StoreStats>> store_stats() const { return tables_->stats(); }  // any thread
  const EngineInfo& info() const { return info_; }
  const EngineOptions& options() const { return options_; }

 private:
  struct Running;  // what the engine knows of a request besides its Sequence
  LLMEngine(const LoadedModel& model, const EngineOptions& options, std::shared_ptr<const ServedTables> tables,
            int64_t num_blocks);
  // What the runner says of one chunk: tokens, or why there are none. How many tokens were accepted.
  int64_t take(const ScheduledChunk& chunk, StepOutput& output, size_t index);
  // A chunk has run: its tokens are computed, new ones are accepted. How many.
  int64_t finish(const ScheduledChunk& chunk, std::span<const NextToken> next);
  // Chooses a sequence's next token and tells the client. False: with this the sequence has ended.
  bool accept(Sequence& sequence, const NextToken& next);
  int32_t sample(Running& running, std::span<float> logits, GenerationEvent& event);
  // Takes a sequence out and tells its client why.
  void end(uint64_t id, FinishReason reason, const Status& error);
  // Hands an event over. False: it was the last, and sequence and `running` are gone.
  bool emit(Running& running, GenerationEvent event);
  void count_step(const StepOutput& output, double seconds, int64_t accepted);

  const LoadedModel& model_;
  EngineOptions options_;
  EngineInfo info_;
  std::shared_ptr<const ServedTables> tables_;
  BlockManager blocks_;
  Scheduler scheduler_;
  ModelRunner runner_;
  std::unordered_map<uint64_t, std::unique_ptr<Running>> requests_;
  EngineMetrics metrics_;
  Status health_;
  std::deque<std::pair<std::chrono::steady_clock::time_point, int64_t>> recent_;  // tokens of the last steps
  int64_t recent_tokens_ = 0;                                                     // their sum
};

}  // namespace engram
