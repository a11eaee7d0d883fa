// RowSparseAdam: Adam over the table rows that a step touched, and nothing else.
//
// Each row has its own step counter; bias correction uses it. A row that does not occur in a step neither decays nor
// counts. When every row occurs in every step this is plain Adam. No weight decay. The arithmetic is
// kernels/row_adam.h on CPU; on other devices the same formula over the touched rows in tensor operators.
//
// A table of bf16 rows, and first moments in bf16, are rounded at random: the bits are a function of (seed, layer, row,
// the row's step counter, column) alone. Only the mean of many steps then counts: to nearest, a row would stand still
// as soon as its updates are below 1/512 of it, and so would a moment that decays by less than that.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engram/train/recipe.h"

namespace engram {

// Defaults are the recipe's.
struct RowSparseAdamOptions {
  double beta1 = OptimizerRecipe().adamw_beta1, beta2 = OptimizerRecipe().adamw_beta2;
  double eps = OptimizerRecipe().adamw_eps;
  bool row_wise = false;  // second moment: one float per row instead of one per element
  TableMomentum momentum = TableMomentum::kFp32;
  uint64_t noise_key = 0;  // what the random bits of this table start from
  // The rows are those of `rank` of `ranks` (dist/partition.h), and the random bits count them in the whole table.
  int rank = 0, ranks = 1;
};

// Not thread-safe; uses torch's thread pool inside. State lives on the table's device.
class RowSparseAdam {
 public:
  RowSparseAdam(const torch::Tensor& table, const RowSparseAdamOptions& options);  // table [num_rows, d_row]
  // table fp32 or bf16, contiguous, that of the constructor; row_ids [U] int64, distinct, each in [0, num_rows);
  // gradient [U, d_row] fp32; both on the table's device.
  void update(torch::Tensor& table, const torch::Tensor& row_ids, const torch::Tensor& gradient, double lr);
  // The same in tensor operators, on any device: the oracle of the CPU kernel.
  void update_plain(torch::Tensor& table, const torch::Tensor& row_ids, const torch::Tensor& gradient, double lr);
  // Name and tensor of everything a checkpoint needs; the tensors are the state itself.
  std::vector<std::pair<std::string, torch::Tensor>> state() const;

 private:
  torch::Tensor numbers(const torch::Tensor& row_ids) const;
  torch::Tensor noise(const torch::Tensor& row_ids, const torch::Tensor& steps, int64_t columns) const;

  torch::Tensor exp_avg_;     // [num_rows, d_row] fp32 or bf16; undefined: none
  torch::Tensor exp_avg_sq_;  // [num_rows, d_row], or [num_rows]
  torch::Tensor steps_;       // [num_rows] int32, the bits of the kernel's uint32
  RowSparseAdamOptions options_;
};

}  // namespace engram
