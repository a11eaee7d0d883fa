// LearningTable: a MemorySource whose rows learn.
//
// A step: submit() of all row ids that the step uses; backward, which leaves a gradient at the read's unique_rows;
// collect_gradient(); apply_gradient(). submit() alone evaluates.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "engram/dist/exact_sum.h"
#include "engram/model/io/streamed_tensor.h"
#include "engram/model/memory/memory_source.h"

namespace engram {

// Not thread-safe.
class LearningTable : public MemorySource {
 public:
  // `gradient` [U, d_row], fp32, of the unique_rows of the last submit(); undefined: none reached them. Returns the sum
  // of its squares over the rows that are kept here.
  virtual ExactSum collect_gradient(torch::Tensor gradient) = 0;
  // Distinct rows of the last submit(): those that this process asked for, and those asked of it by all.
  virtual int64_t asked_rows() const = 0;
  virtual int64_t touched_rows() const = 0;
  // One step of row-sparse Adam with the collected gradient times `scale`, which is dropped afterwards.
  virtual void apply_gradient(double lr, double scale) = 0;

  // What a checkpoint holds: the rows in fp32, and Adam's state by name. The table outlives them.
  virtual StreamedTensor stored_rows() = 0;
  virtual std::vector<StreamedTensor> stored_state() = 0;
};

// The rows of a bf16 table as fp32: exact, and back it is exact for values that came from there.
inline StreamedTensor as_fp32(StreamedTensor rows) {
  rows.dtype = torch::kFloat32;
  rows.read = [read = std::move(rows.read)](int64_t begin, int64_t end) {
    const torch::Tensor piece = read(begin, end);
    return piece.defined() ? piece.to(torch::kFloat32) : piece;
  };
  return rows;  // write() copies into the table, which converts
}

}  // namespace engram
