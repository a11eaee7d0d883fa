// ServedTables: where the tables of a served model are. StepMemory: the rows of one step, while they are read.
//
// Row ids depend on tokens alone, so begin() hashes and starts every read before the model runs; rows() waits only
// where a layer needs its rows, then decodes them. How long it waited is measured.
// A model on a GPU gets its rows without waiting for the GPU. Another thread reads them into pinned memory; a second
// CUDA stream copies and decodes; the model's stream waits on an event before it uses the rows.
// A placement says where a layer's table is:
//   resident       in this process, as the checkpoint has it
//   constant       nowhere: every token gets the same row. Shows what the arithmetic costs without the reads
//   TIER:FILE?...  a RowStore (engram/store/open.h) over a row file of `engram table convert`
#pragma once
#include <torch/torch.h>

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engram/kernels/row_format.h"
#include "engram/model/io/checkpoint.h"
#include "engram/store/memory_pipeline.h"

namespace engram {

// New tokens of one sequence.
struct StepTokens {
  std::span<const int32_t> before;  // of the sequence so far, at least its last max_ngram_size - 1
  std::span<const int32_t> tokens;
  bool memory_off = false;  // nothing is hashed or read; rows() has zeros there
};

class ServedTables;

// Returns false if no layer can be resident under these placements, so the tables need not be loaded
// (load_model(), with_tables).
bool may_be_resident(std::span<const std::string> placements);

// Move-only; one thread; waits for its reads when destroyed. ServedTables outlives it.
class StepMemory {
 public:
  // [N, R*d_row] on the model's device and in its dtype; on the CPU in fp32. A sequence whose rows cannot be read
  // gets zeros, and its entry of failures() says why.
  torch::Tensor rows(int memory_layer);
  // One per sequence, ok unless a read of it failed.
  const std::vector<Status>& failures() const { return failures_; }
  double stall_seconds() const { return stall_seconds_; }  // so far, in rows() (or in begin() without overlap)
  int64_t bytes() const { return bytes_; }                 // of rows asked for, all layers

 private:
  friend class ServedTables;
  torch::Tensor stored_rows(int memory_layer, size_t store);
  torch::Tensor decode_on_host(size_t store) const;
  torch::Tensor decode_on_device(size_t store) const;
  void zero_failed(torch::Tensor& rows) const;
  void wait(int memory_layer, size_t store);
  void reread(int memory_layer, size_t store);

  const ServedTables* tables_ = nullptr;
  std::vector<StepTokens> sequences_;
  int64_t num_tokens_ = 0, num_read_ = 0;      // N; those with memory
  std::vector<std::vector<int64_t>> row_ids_;  // [layers] for resident ones
  std::vector<torch::Tensor> bytes_of_;        // [stores] uint8
  std::vector<Status> failures_;
  bool overlap_ = true;
  std::unique_ptr<MemoryRead> read_;  // declared after the buffers it writes to
  // Becomes read_. Another thread starts it, which uses the members declared above.
  struct Starting {
    Starting() = default;
    Starting(Starting&&) = default;
    ~Starting() {
      if (future.valid()) future.wait();
    }
    std::future<MemoryRead> future;
  } starting_;
  double stall_seconds_ = 0;
  int64_t bytes_ = 0;
};

// Immutable after open(). `model` outlives it.
class ServedTables {
 public:
  // placements: none is "resident" for all layers; one without a layer is for all; "LAYER_ID=PLACEMENT" for one.
  // kInvalidArgument: a layer without memory, a row file that holds other tables than the model's (its hash, rows, or
  // width); and what opening a store says.
  static Result<std::unique_ptr<ServedTables>> open(Env& env, const LoadedModel& model,
                                                    std::span<const std::string> placements);
  // The same over stores that the caller made, one per memory layer, in `formats`; `placement` is what they are called.
  static Result<std::unique_ptr<ServedTables>> create(const LoadedModel& model, const std::string& placement,
                                                      std::vector<std::unique_ptr<RowStore>> stores,
                                                      std::vector<RowFormat> formats);

  // upcoming: a hint, after the step's own reads, that these tokens may follow.
  // overlap false: waits for all reads here, as an engine without prefetching would.
  StepMemory begin(std::vector<StepTokens> sequences, std::vector<StepTokens> upcoming = {}, bool overlap = true) const;
  // Row ids of a layer [tokens, R], and the tier that would serve each now.
  std::vector<int64_t> row_ids(int memory_layer, const StepTokens& sequence) const;
  std::vector<std::string> tiers(int memory_layer, std::span<const int64_t> row_ids) const;

  // "resident", "constant", or the tiers' URIs, as given.
  const std::string& placement(int memory_layer) const { return placements_[static_cast<size_t>(memory_layer)]; }
  // Per layer with a store: its block id and what it has counted.
  std::vector<std::pair<int, StoreStats>> stats() const;

 private:
  friend class StepMemory;
  explicit ServedTables(const LoadedModel& model);
  std::vector<int32_t> canonical_before(const StepTokens& sequence) const;
  MemoryRead start_read(std::span<const StepTokens> sequences, std::span<const StepTokens> upcoming,
                        std::span<const std::span<std::byte>> out) const;
  void prefetch(std::span<const StepTokens> sequences) const;
  Status open_stores(Env& env);

  const LoadedModel* model_;
  torch::Device device_;                    // of the model
  torch::Dtype dtype_;                      // of the model's weights
  std::optional<c10::Stream> staging_;      // of copies and decoding; none on the CPU
  std::vector<std::string> placements_;     // [layers]
  std::vector<int> store_of_layer_;         // [layers] position in the pipeline, -1: none
  std::vector<RowFormat> formats_;          // [stores]
  std::unique_ptr<MemoryPipeline> stores_;  // null: no layer has a store
};

}  // namespace engram
