#include "engram/model/io/tensor_file.h"

#include <cstring>

namespace engram {

torch::Dtype torch_type(DType dtype) {
  return dtype == DType::kBF16 ? torch::kBFloat16 : dtype == DType::kF16 ? torch::kHalf : torch::kFloat;
}

Status append_tensor(const StreamedTensor& tensor, torch::Dtype dtype, SafetensorsWriter& writer) {
  Status status;
  tensor.pieces([&](int64_t begin, int64_t end) {
    if (!status.ok()) return;
    const torch::Tensor rows = tensor.read(begin, end).to(dtype).contiguous();
    status = writer.append({static_cast<const std::byte*>(rows.const_data_ptr()), rows.nbytes()});
  });
  return status;
}

void fill_tensor(const TensorView& view, const StreamedTensor& tensor) {
  const torch::NoGradGuard no_grad;
  const bool is_weight = view.dtype == DType::kF32 || view.dtype == DType::kBF16 || view.dtype == DType::kF16;
  const torch::Dtype type = is_weight ? torch_type(view.dtype) : tensor.dtype;
  const size_t row_bytes = tensor.rows() == 0 ? 0 : view.bytes.size() / static_cast<size_t>(tensor.rows());
  tensor.pieces([&](int64_t begin, int64_t end) {
    std::vector<int64_t> shape = view.shape;
    if (shape.empty()) shape = {1};
    shape[0] = end - begin;
    torch::Tensor rows = torch::empty(shape, type);
    if (rows.nbytes() > 0)
      std::memcpy(rows.mutable_data_ptr(), view.bytes.data() + static_cast<size_t>(begin) * row_bytes, rows.nbytes());
    tensor.write(begin, end, rows.to(tensor.dtype));
  });
}

}  // namespace engram
