// What the fused operators share: when a kernel applies, contiguous fp32 views, and sums over parts of the rows.
// Internal to engram/model/ops_*.cc.
#pragma once
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "engram/kernels/gemv.h"
#include "engram/model/ops/parallel.h"

namespace engram::internal {

// Kernels compute in fp32 on the CPU; bf16 tensors are widened. Double and other devices take the plain form.
inline bool has_kernel(const torch::Tensor& x) {
  return x.device().is_cpu() && (x.scalar_type() == torch::kFloat || x.scalar_type() == torch::kBFloat16);
}

inline bool is_plain(const torch::Tensor& x) { return x.scalar_type() == torch::kFloat && x.is_contiguous(); }

inline torch::Tensor to_fp32(const torch::Tensor& x) { return is_plain(x) ? x : x.to(torch::kFloat).contiguous(); }

inline const float* floats(const torch::Tensor& x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }
inline const uint16_t* halves(const torch::Tensor& x) {
  return reinterpret_cast<const uint16_t*>(x.const_data_ptr<at::BFloat16>());
}
inline float* mutable_floats(const torch::Tensor& x) { return x.defined() ? x.mutable_data_ptr<float>() : nullptr; }

// Rows per parallel piece, so that a piece is worth waking a thread for.
inline int64_t row_grain(int64_t floats_per_row) { return std::max<int64_t>(1, 16384 / (floats_per_row + 1)); }

// Outputs per parallel piece of a product of few rows with weights [.., k] (few_rows_product).
inline int64_t output_grain(int64_t rows, int64_t k) { return takes_columns(rows, k) ? 96 : row_grain(k); }

// A function's forward pass alone where no backward pass can follow: apply() takes microseconds. forward() then gets no
// context.
template <typename Function, typename... Arguments>
torch::Tensor apply_function(const Arguments&... arguments) {
  if (c10::InferenceMode::is_enabled()) return Function::forward(nullptr, arguments...);
  return Function::apply(arguments...);
}

// A gradient that sums over rows: work(begin, end, partial) adds a part's rows to partial [size], which starts at zero;
// partials are added in order. The number of parts depends on rows alone, so the result does not depend on threads.
template <typename Work>
torch::Tensor sum_over_rows(int64_t rows, int64_t size, const Work& work) {
  constexpr int64_t kParts = 16, kRowsPerPart = 64;
  const int64_t parts = std::clamp<int64_t>(rows / kRowsPerPart, 1, kParts);
  torch::Tensor partials = torch::zeros({parts, size}, torch::kFloat);
  float* data = partials.mutable_data_ptr<float>();
  parallel_tasks(parts, [&](int64_t i) { work(rows * i / parts, rows * (i + 1) / parts, data + i * size); });
  for (int64_t i = 1; i < parts; ++i) {
    for (int64_t at = 0; at < size; ++at) data[at] += data[i * size + at];
  }
  return partials.select(0, 0);
}

// The gates [N, G] and what the pages keep of each new token [N, d + 2 G] (kernels/paged_engram.h). Tokens without
// memory have gates of 0.
struct PagedRow {
  torch::Tensor gates, row;
};
inline PagedRow page_rows(const torch::Tensor& projected, torch::Tensor gates, const torch::Tensor& inv_value,
                          const torch::Tensor& memory_off, int64_t dim) {
  if (memory_off.defined()) gates = gates.masked_fill(memory_off.unsqueeze(1), 0.0);
  torch::Tensor value = projected.narrow(1, projected.size(1) - dim, dim);
  return {gates, at::cat({value, gates, gates * inv_value}, 1)};
}

}  // namespace engram::internal
