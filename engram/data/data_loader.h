// DataLoader: token shards -> batches that already carry their row ids.
//
// The stream is the shards' tokens in order, cut into windows of sequence_length + 1 tokens that overlap by one
// (inputs and next-token targets); a last window that is not full is left out. Or windows hold whole documents
// (data/packing.h). A shard's mask takes targets away. Each window is a separate sequence: it starts without look-back.
// One pass over all windows is an epoch; each epoch has its own seeded permutation, so batch i is a pure function of
// (shards, options, i): resuming is seek(i), and two models given the same options see identical data in identical
// order. Several sources give windows in turn (data/mixture.h), each with its epochs and permutations. Worker threads
// assemble and hash ahead, `prefetch` batches at most.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/data/packing.h"
#include "engram/data/token_shard.h"
#include "engram/hash/memory_hasher.h"

namespace engram {

struct DataLoaderOptions {
  int64_t batch_size = 8;         // B, sequences
  int64_t sequence_length = 256;  // T, tokens
  Packing packing = Packing::kStream;
  int64_t seed = 0;
  bool shuffle = true;    // false: one pass over the windows in order, for validation
  bool drop_last = true;  // without shuffle: leave out a last batch of fewer than batch_size windows
  int threads = 1;        // 0: assemble in next()
  int prefetch = 4;       // batches held ahead
  // Of each `batches_per_step` batches, this loader makes `num_batches` from the `first_batch`th on: those of one rank.
  // REQUIRES: with shuffle where it is not all of them.
  int64_t batches_per_step = 1, first_batch = 0, num_batches = 1;
};

// Shards that are one stream, and the share of all windows that come from it.
struct DataSource {
  std::vector<const TokenShard*> shards;
  double share = 1;
};

struct Batch {
  int64_t index = 0;  // global batch number, 0-based
  int64_t batch_size = 0, sequence_length = 0;
  std::vector<int32_t> tokens;               // [B, T] raw ids
  std::vector<int32_t> targets;              // [B, T] the next token; -1: none to learn
  std::vector<std::vector<int32_t>> starts;  // [B] each row's document starts in [1, T), ascending (0 is implied)
  RowIds row_ids;                            // of the B * T tokens, document boundaries respected
};

// next() and seek() belong to one caller thread.
class DataLoader {
 public:
  // The shards must outlive the loader. kInvalidArgument: an option out of range, shares that are none, several sources
  // without shuffle, a source of fewer tokens than one window (without shuffle: than one batch) or whose mask leaves no
  // target, shards of different vocabularies. kResourceExhausted: the system gives no more threads.
  static Result<std::unique_ptr<DataLoader>> create(std::vector<DataSource> sources, MemoryHasher hasher,
                                                    const DataLoaderOptions& options);
  static Result<std::unique_ptr<DataLoader>> create(std::vector<const TokenShard*> shards, MemoryHasher hasher,
                                                    const DataLoaderOptions& options);
  virtual ~DataLoader() = default;  // stops and joins the workers
  // The next batch. With shuffle it never ends; without, kOutOfRange after the last batch. A batch that a worker
  // could not make (kInvalidArgument: an id outside the hasher's vocabulary; kResourceExhausted: memory) gives its
  // error here, again until seek().
  virtual Result<Batch> next() = 0;
  // Continue at global batch number `index`. REQUIRES: 0 <= index <= 2^62; a multiple of batches_per_step.
  virtual void seek(int64_t index) = 0;
  virtual int64_t windows_per_epoch(size_t source = 0) const = 0;
};

}  // namespace engram
