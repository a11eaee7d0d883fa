// StreamedTensor: a tensor of a checkpoint that may not be whole in any process.
//
// It passes in pieces of consecutive rows (places along the first dimension). Where several ranks hold parts of it, all
// of them walk the same tensors in the same order with the same pieces, and rank 0 has the file.
#pragma once
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace engram {

struct StreamedTensor {
  std::string name;
  torch::Dtype dtype = torch::kFloat;
  std::vector<int64_t> shape;
  // Rows [begin, end), contiguous, on the CPU; at other ranks than 0 an undefined tensor.
  std::function<torch::Tensor(int64_t begin, int64_t end)> read;
  // The way back; other ranks than 0 give an undefined tensor.
  std::function<void(int64_t begin, int64_t end, const torch::Tensor& rows)> write;

  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  // Calls piece(begin, end) over all rows, at most 8 MiB at a time.
  template <typename Piece>
  void pieces(const Piece& piece) const {
    int64_t row_bytes = static_cast<int64_t>(torch::elementSize(dtype));
    for (size_t i = 1; i < shape.size(); ++i) row_bytes *= shape[i];
    const int64_t step = std::max<int64_t>((int64_t{8} << 20) / std::max<int64_t>(row_bytes, 1), 1);
    for (int64_t begin = 0; begin < rows(); begin += step) piece(begin, std::min(begin + step, rows()));
  }
};

// A tensor that is whole in this process; it is read and written in place.
inline StreamedTensor whole_tensor(std::string name, const torch::Tensor& tensor) {
  const auto part = [tensor](int64_t begin, int64_t end) {
    return (tensor.dim() == 0 ? tensor.view({1}) : tensor).detach().narrow(0, begin, end - begin);
  };
  return {std::move(name), tensor.scalar_type(), tensor.sizes().vec(),
          [part](int64_t begin, int64_t end) { return part(begin, end).to(torch::kCPU).contiguous(); },
          [part](int64_t begin, int64_t end, const torch::Tensor& rows) { part(begin, end).copy_(rows); }};
}

// At ranks without the file: gives the parts that are here to rank 0, and takes them from it.
inline void follow_reads(const std::vector<StreamedTensor>& tensors) {
  for (const StreamedTensor& tensor : tensors)
    tensor.pieces([&](int64_t begin, int64_t end) { tensor.read(begin, end); });
}
inline void follow_writes(const std::vector<StreamedTensor>& tensors) {
  for (const StreamedTensor& tensor : tensors)
    tensor.pieces([&](int64_t begin, int64_t end) { tensor.write(begin, end, {}); });
}

}  // namespace engram
