#include "engram/model/layers/norm.h"

#include "engram/model/ops/ops.h"

namespace engram {

torch::Tensor initial_rows(torch::IntArrayRef sizes, double std, Range rows) {
  if (rows.size() == sizes[0]) return initial_weight(sizes, std);
  std::vector<int64_t> own = sizes.vec();
  own[0] = rows.size();
  torch::Tensor kept = torch::empty(own);
  if (std == 0) return kept;
  // torch draws 16 normal numbers at a time, and the last 16 of a tensor once more where it ends within such a group.
  constexpr int64_t kPiece = 1 << 16, kGroup = 16;
  const int64_t all = c10::multiply_integers(sizes), row = all / sizes[0];
  const int64_t first = rows.begin * row, last = rows.end * row;
  for (int64_t done = 0; done < all;) {
    const int64_t left = all - done, count = left < kPiece + kGroup ? left : kPiece;
    const torch::Tensor piece = initial_weight({count}, std);
    const int64_t begin = std::max(done, first), end = std::min(done + count, last);
    if (begin < end)
      kept.view({-1}).narrow(0, begin - first, end - begin).copy_(piece.narrow(0, begin - done, end - begin));
    done += count;
  }
  return kept;
}

RmsNormImpl::RmsNormImpl(int64_t size, double eps) : eps_(eps) {
  weight = register_parameter("weight", torch::ones({size}));
}

torch::Tensor RmsNormImpl::forward(const torch::Tensor& x) { return rms_norm(x, weight, eps_); }

LinearImpl::LinearImpl(int64_t in, int64_t out, double std, bool with_bias) {
  weight = register_parameter("weight", initial_weight({out, in}, std));
  if (with_bias) bias = register_parameter("bias", torch::zeros({out}));
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  const torch::Tensor y = linear_rows(x, weight);
  return bias.defined() ? y + bias.to(y.scalar_type()) : y;
}

}  // namespace engram
