#include "engram/model/layers/norm.h"

#include <cmath>

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

LowRankImpl::LowRankImpl(int64_t in, int64_t rows, int64_t rank, double scale, torch::TensorOptions options)
    : scale_(scale) {
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  a_ = register_parameter("lora_A", torch::empty({rank, in}).uniform_(-bound, bound).to(options));
  b_ = register_parameter("lora_B", torch::zeros({rows, rank}, options));
}

torch::Tensor LowRankImpl::forward(const torch::Tensor& x) { return torch::linear(torch::linear(x, a_), b_) * scale_; }

LinearImpl::LinearImpl(int64_t in, int64_t out, double std, bool with_bias) {
  weight = register_parameter("weight", initial_weight({out, in}, std));
  if (with_bias) bias = register_parameter("bias", torch::zeros({out}));
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  torch::Tensor y = linear_rows(x, weight);
  if (!changes_.empty()) {
    std::vector<torch::Tensor> parts;
    int64_t done = 0;
    const auto keep = [&](int64_t end) {
      if (end > done) parts.push_back(y.narrow(-1, done, end - done));
      done = end;
    };
    for (const auto& [rows, change] : changes_) {
      keep(rows.begin);
      parts.push_back(y.narrow(-1, rows.begin, rows.size()) + change->forward(x));
      done = rows.end;
    }
    keep(y.size(-1));
    y = parts.size() == 1 ? parts[0] : at::cat(parts, -1);
  }
  return bias.defined() ? y + bias.to(y.scalar_type()) : y;
}

void LinearImpl::add_low_rank(const std::string& name, Range rows, int64_t rank, double scale) {
  auto change = std::make_shared<LowRankImpl>(weight.size(1), rows.size(), rank, scale, weight.options());
  changes_.emplace_back(rows, register_module(name, change));
}

}  // namespace engram
