// ServedTables: where the tables of a served model are. StepMemory: the rows of one step, while they are read.
//
// Row ids depend on tokens alone, so begin() starts every read before the model runs; rows() waits only where a layer
// needs its rows. How long it waited is measured.
// Edited rows in front of them (overlays) hold for the sequences that name them.
//
// A placement says where a layer's table is:
//   resident       in this process, as the checkpoint has it
//   constant       nowhere: every token gets the same row. Shows what the arithmetic costs without the reads
//   TIER:FILE?...  a RowStore (engram/store/open.h) over a row file of `engram table convert`
#pragma once
#include <torch/types.h>

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engram/hash/row_ids.h"
#include "engram/kernels/row_format.h"
#include "engram/model/io/checkpoint.h"
#include "engram/model/memory/memory_source.h"
#include "engram/model/memory/served_overlay.h"
#include "engram/store/row_store.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

// New tokens of one sequence: row_ids's tokens [first, first + count).
struct StepRows {
  const RowIds* row_ids = nullptr;  // of the sequence; null: its memory is off, and rows() has zeros there
  int64_t first = 0, count = 0;
  std::vector<const ServedOverlay*> overlays;  // of two that edit one row the later counts
};

// kInvalidArgument: the file hashes tokens to other rows of one of these layers than the model does.
Status check_row_file(const RowFileInfo& info, const LoadedModel& model, std::span<const int> layer_ids);

class ServedTables;

// Returns false if no layer can be resident under these placements, so the tables need not be loaded
// (load_model(), with_tables).
bool may_be_resident(std::span<const std::string> placements);

// Move-only; one thread; waits for its reads when destroyed. ServedTables and the sequences' RowIds outlive it.
class StepMemory {
 public:
  // [N, R*d_row] on the model's device and in its dtype; on the CPU in fp32. Once per layer. A sequence whose rows
  // cannot be read gets zeros, and its entry of failures() says why.
  torch::Tensor rows(int layer);
  // One per sequence, ok unless a read of it failed.
  const std::vector<Status>& failures() const { return failures_; }
  double stall_seconds() const { return stall_seconds_; }  // so far, in rows() (or in begin() without overlap)
  int64_t bytes() const { return bytes_; }                 // of stored rows asked for, all layers

 private:
  friend class ServedTables;
  torch::Tensor finish(int layer);
  void apply_overlays(int layer, const torch::Tensor& rows) const;
  torch::Tensor reread(int layer);

  const ServedTables* tables_ = nullptr;
  std::vector<StepRows> sequences_;
  int64_t num_tokens_ = 0, num_read_ = 0;           // N; those with memory
  std::vector<std::unique_ptr<MemoryRead>> reads_;  // [layers]
  std::vector<Status> failures_;
  double stall_seconds_ = 0;
  int64_t bytes_ = 0;
};

// Immutable after open(). `model` outlives it.
class ServedTables {
 public:
  // placements: none is "resident" for all layers; one without a layer is for all; "LAYER_ID=PLACEMENT" for one.
  // kInvalidArgument: a layer without memory, a row file that holds other tables than the model's (its hash, rows, or
  // width), an overlay without a table in a row file; kFailedPrecondition: an overlay of another table; and what
  // opening a store says.
  static Result<std::unique_ptr<ServedTables>> open(Env& env, const LoadedModel& model,
                                                    std::span<const std::string> placements,
                                                    std::span<const NamedOverlay> overlays = {});
  // The same over stores that the caller made, one per memory layer, in `formats`; `placement` is what they are called.
  static Result<std::unique_ptr<ServedTables>> create(const LoadedModel& model, const std::string& placement,
                                                      std::vector<std::unique_ptr<RowStore>> stores,
                                                      std::vector<RowFormat> formats);

  // upcoming: a hint, after the step's own reads, that these tokens may follow.
  // overlap false: waits for all reads here, as an engine without prefetching would.
  StepMemory begin(std::span<const StepRows> sequences, std::span<const StepRows> upcoming = {},
                   bool overlap = true) const;
  MemorySource& source(int layer) const { return *sources_[static_cast<size_t>(layer)]; }

  const std::vector<ServedOverlay>& overlays() const { return overlays_; }
  const ServedOverlay* find_overlay(const std::string& name) const;  // null: there is none

  // "resident", "constant", or the tiers' URIs, as given.
  const std::string& placement(int layer) const { return placements_[static_cast<size_t>(layer)]; }
  // Per layer with a store: its block id and what it has counted.
  std::vector<std::pair<int, StoreStats>> stats() const;

 private:
  friend class StepMemory;
  explicit ServedTables(const LoadedModel& model);
  MemorySource* own(std::unique_ptr<MemorySource> source);
  using RowFiles = std::map<std::string, RowFileInfo>;  // by URI
  Status open_stores(Env& env, const std::string& uri, RowFiles& files);
  Status open_overlays(Env& env, std::span<const NamedOverlay> overlays, const RowFiles& files);
  Status add_overlay(const NamedOverlay& named, const Overlay& overlay, const std::string& uri, const RowFileInfo& info,
                     std::vector<EditedRows>& edited);

  const LoadedModel* model_;
  torch::Device device_;                 // of the model
  torch::Dtype dtype_;                   // of the model's weights
  std::optional<c10::Stream> staging_;   // of copies and decoding; none on the CPU
  std::vector<std::string> placements_;  // [layers]
  std::vector<MemorySource*> sources_;   // [layers] the model's, or owned_'s
  std::vector<std::unique_ptr<MemorySource>> owned_;
  std::vector<ServedOverlay> overlays_;
};

}  // namespace engram
