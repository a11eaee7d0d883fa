#include "engram/model/memory/row_decoding.h"

namespace engram {
namespace {

// codes [n, width] times one scale [n, num_scales] for every `block` columns.
torch::Tensor scaled(const RowFormat& format, const torch::Tensor& codes, const torch::Tensor& scales) {
  if (format.width % format.block == 0) {
    return (codes.unflatten(1, {-1, format.block}) * scales.unsqueeze(2)).flatten(1);
  }
  return codes * scales.repeat_interleave(format.block, 1).narrow(1, 0, format.width);
}

torch::Tensor nibbles(const torch::Tensor& packed) {
  const torch::Tensor pairs = at::stack({packed.bitwise_and(0xF), packed.bitwise_right_shift(4)}, 2).flatten(1);
  return pairs.to(torch::kFloat) - pairs.ge(8).to(torch::kFloat) * 16;
}

// fp8 with power-of-two scales has no more digits than bf16: its product is rounded once there too.
torch::Dtype work_dtype(const RowFormat& format, torch::Dtype dtype) {
  const bool exact = format.type == RowType::kFP8 && format.block > 0 && dtype == torch::kBFloat16;
  return exact ? torch::kBFloat16 : torch::kFloat;
}

torch::Tensor decoded(const RowFormat& format, const torch::Tensor& bytes, torch::Dtype work) {
  const torch::Tensor codes = bytes.narrow(1, 0, format.code_bytes());
  const torch::Tensor rest = bytes.narrow(1, format.code_bytes(), format.row_bytes() - format.code_bytes());
  const auto floats = [&rest] { return rest.contiguous().view(torch::kFloat); };
  switch (format.type) {
    case RowType::kFP32: return codes.view(torch::kFloat);
    case RowType::kBF16: return codes.view(torch::kBFloat16);
    case RowType::kFP8: {
      const torch::Tensor values = codes.view(torch::kFloat8_e4m3fn).to(work);
      if (format.block == 0) return values * format.table_scale;
      return scaled(format, values, rest.view(torch::kFloat8_e8m0fnu).to(work));
    }
    case RowType::kInt8: return scaled(format, codes.view(torch::kChar).to(torch::kFloat), floats());
    case RowType::kInt4: return scaled(format, nibbles(codes), floats());
  }
  TORCH_CHECK(false, "decode_rows_plain: unknown row type");
}

}  // namespace

torch::Tensor decode_rows_plain(const RowFormat& format, const torch::Tensor& bytes, torch::Dtype dtype) {
  TORCH_CHECK(bytes.dim() == 2 && bytes.size(1) == format.row_bytes() && bytes.scalar_type() == torch::kUInt8,
              "decode_rows_plain: got ", bytes.sizes(), ' ', bytes.scalar_type(), ", wanted [n, ", format.row_bytes(),
              "] uint8");
  return decoded(format, bytes.contiguous(), work_dtype(format, dtype)).to(dtype);
}

}  // namespace engram
