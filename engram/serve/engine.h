// Engine: what a front end needs of a running model. The HTTP layer knows only this; LLMEngine's thread implements it.
#pragma once
#include <array>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/serve/request.h"
#include "engram/store/stats.h"

namespace engram {

// Edited rows that a request may ask for by name.
struct OverlayInfo {
  std::string name;
  int64_t rows = 0, bytes = 0;
};

struct EngineInfo {
  std::string model;    // its public name
  int64_t created = 0;  // seconds since 1970
  int vocab_size = 0;
  int max_context = 0;  // prompt and generated tokens together
  int32_t bos = -1, eos = -1;
  std::vector<int> layer_ids;  // Engram layers; empty: a model without memory
  int streams = 1;             // M gates per layer
  int max_ngram_size = 0;
  int n_heads = 0;        // rows per n-gram order
  std::string placement;  // where the tables are: the URI's tier, or "resident"
  std::vector<OverlayInfo> overlays;
};

// Cumulative counts of durations in seconds under fixed bounds, Prometheus' histogram.
struct DurationHistogram {
  static constexpr std::array<double, 14> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                     0.25,  0.5,    1,     2.5,  5,     10,   60};
  std::array<uint64_t, 15> counts{};  // per bucket, not yet summed; the last is above all bounds
  double sum = 0;
  void record(double seconds);
  uint64_t total() const;
};

// One moment's values; counters since start.
struct EngineMetrics {
  int64_t running = 0, waiting = 0;  // sequences
  int64_t kv_blocks_used = 0, kv_blocks_total = 0;
  uint64_t steps = 0, preemptions = 0;
  uint64_t prompt_tokens = 0, cached_prompt_tokens = 0, generated_tokens = 0;
  uint64_t draft_tokens = 0, accepted_draft_tokens = 0;  // checked; of these right
  uint64_t finished = 0, cancelled = 0, failed = 0;      // requests
  double step_seconds = 0, stall_seconds = 0;            // in steps; in waiting for rows
  uint64_t row_bytes = 0;                                // of rows asked for from stores
  double tokens_per_second = 0;                          // generated, over the last seconds
  int64_t last_batch = 0;                                // sequences of the last step
  DurationHistogram time_to_first_token, inter_token, request;
  std::vector<std::pair<int, StoreStats>> stores;  // per layer id, when the tables are behind a RowStore
};

// Thread-safe.
class Engine {
 public:
  virtual ~Engine() = default;
  // Called from the engine's thread for every event of a request, in order, the last has finish != kNone. Must be
  // short and may not call the engine.
  using OnEvent = std::function<void(const GenerationEvent&)>;
  // Queues a request; its id.
  //   kInvalidArgument    cannot be served: parameters, ids, prompt + max_tokens beyond max_context
  //   kResourceExhausted  the queue is full
  //   kUnavailable        draining
  virtual Result<uint64_t> submit(GenerationRequest request, OnEvent on_event) = 0;
  // Ends a request soon, with an event kCancelled unless it ended before. Unknown ids are ignored.
  virtual void cancel(uint64_t id) = 0;
  // Refuses new requests and returns when all others have ended.
  virtual void drain() = 0;
  virtual EngineMetrics metrics() const = 0;
  // Ok, or the last failure that is likely to come again: unreadable rows, a model that fails. Other requests go on.
  virtual Status health() const { return Status(); }
  virtual const EngineInfo& info() const = 0;
};

// What an exception says to the client whose request it ended: its first line, without libtorch's stack trace.
Status internal_error(const std::exception& error);

}  // namespace engram
