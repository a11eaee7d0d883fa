// LLMEngine: requests in, tokens out, one step at a time.
//
// A step: the scheduler chooses tokens, the runner starts their reads and runs them, every sequence whose last token
// ran gets a new one, and its client is told. Greedy output equals `engram generate`'s, token for token, for any
// batch, chunking, preemption and drafts (except for ties closer than rounding).
// A draft is kept when it is the token that is sampled anyway, so drafts change when tokens come, and never which.
// EngineThread puts it behind the Engine interface, on its own thread.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engram/serve/engine.h"
#include "engram/serve/model_runner.h"
#include "engram/serve/output_text.h"

namespace engram {

struct EngineOptions {
  std::string model_name = "engram";
  std::vector<std::string> tables;            // placements (model/step_memory.h); none: resident
  int64_t kv_cache_bytes = int64_t{1} << 30;  // of pages; fewer are made when every sequence fits into fewer
  int64_t block_size = 16;                    // tokens of a page
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
  // sequence of max_position_embeddings.
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
  void step();
  EngineMetrics metrics() const;                                                            // without `stores`
  std::vector<std::pair<int, StoreStats>> store_stats() const { return tables_->stats(); }  // any thread
  const EngineInfo& info() const { return info_; }
  const EngineOptions& options() const { return options_; }

 private:
  struct Running;  // what the engine knows of a request besides its Sequence
  LLMEngine(const LoadedModel& model, const EngineOptions& options, std::shared_ptr<const ServedTables> tables,
            int64_t num_blocks);
  // A chunk has run: its tokens are computed, new ones are accepted. How many.
  int64_t finish(const ScheduledChunk& chunk, std::span<const NextToken> next);
  // Chooses a sequence's next token and tells the client. False: with this the sequence has ended.
  bool accept(Sequence& sequence, const NextToken& next);
  int32_t sample(Running& running, std::span<float> logits, GenerationEvent& event);
  // Takes a sequence out and tells its client why.
  void end(uint64_t id, FinishReason reason, const Status& error);
  void emit(Running& running, GenerationEvent event);
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
  std::deque<std::pair<std::chrono::steady_clock::time_point, int64_t>> recent_;  // tokens of the last steps
  int64_t recent_tokens_ = 0;                                                     // their sum
};

// The engine on its own thread, which sleeps while there is nothing to do. Thread-safe. The destructor cancels what is
// left.
class EngineThread final : public Engine {
 public:
  explicit EngineThread(std::unique_ptr<LLMEngine> engine);
  ~EngineThread() override;
  Result<uint64_t> submit(GenerationRequest request, OnEvent on_event) override;
  void cancel(uint64_t id) override;
  void drain() override;
  EngineMetrics metrics() const override;
  const EngineInfo& info() const override { return info_; }

 private:
  void run();

  struct Submitted {
    uint64_t id;
    GenerationRequest request;
    OnEvent on_event;
  };
  std::unique_ptr<LLMEngine> engine_;  // run()'s alone, except what any thread may call
  const EngineInfo info_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable wake_, idle_;
  std::vector<Submitted> submitted_;
  std::vector<uint64_t> cancelled_;
  EngineMetrics metrics_;  // after the last step
  uint64_t next_id_ = 1;
  bool draining_ = false, stopping_ = false, busy_ = false;
  std::thread thread_;
};

}  // namespace engram
