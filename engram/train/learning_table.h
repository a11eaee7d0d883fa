// LearningTable: a MemorySource whose rows learn.
//
// A step: the rows of all ids that it uses are read; backward leaves a gradient at them; the table collects it, and
// apply_gradient() updates. Where the rows are all here that is submit() and collect_gradient() of TrainableTable;
// where they lie with several ranks it is a RowRequest. submit() alone evaluates.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "engram/model/io/streamed_tensor.h"
#include "engram/model/memory/memory_source.h"

namespace engram {

// Not thread-safe.
class LearningTable : public MemorySource {
 public:
  // Distinct rows kept here that the last step used.
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
