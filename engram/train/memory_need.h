// What a run surely needs of this machine's memory, counted before any of it is allocated.
#pragma once
#include <cstdint>

#include "engram/core/status.h"
#include "engram/train/run_inputs.h"

namespace engram {

// Bytes on the host of one of `ranks` processes, each a lower bound; INT64_MAX where it is past that. With the model on
// a device, weights and activations are 0 here.
struct MemoryNeed {
  int64_t weights = 0;      // with their gradients and optimizer state
  int64_t tables = 0;       // rows and their optimizer state
  int64_t batches = 0;      // those of a step and those that the loader holds ahead
  int64_t activations = 0;  // one state for each token and block of a micro-batch
  int64_t total() const;
};
MemoryNeed memory_need(const RunInputs& inputs, int64_t batches_ahead, int ranks = 1);

// kResourceExhausted: the need is larger than `available` bytes; the message has both, and the parts.
Status check_memory(const MemoryNeed& need, int64_t available);

}  // namespace engram
