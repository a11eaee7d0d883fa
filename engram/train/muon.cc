#include "engram/train/muon.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engram/kernels/newton_schulz.h"
#include "engram/model/ops/parallel.h"

namespace engram {
namespace {

// Elements of one batch of the iteration: bounds its temporary memory (four such tensors at most).
constexpr int64_t kMaxBatchElements = int64_t{1} << 24;

// From this many rows on a library's blocking is worth more than the caches that one matrix fits into.
constexpr int64_t kMostColumns = 256;

// Matrix by matrix, in place.
void orthogonalize(torch::Tensor& matrices, int64_t steps) {
  const int64_t rows = matrices.size(1), columns = matrices.size(2);
  float* data = matrices.mutable_data_ptr<float>();
  parallel_ranges(matrices.size(0), /*grain=*/1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(newton_schulz_scratch(rows, columns)));
    for (int64_t i = begin; i < end; ++i)
      newton_schulz(data + i * rows * columns, rows, columns, steps, scratch.data());
  });
}

}  // namespace

torch::Tensor newton_schulz(torch::Tensor matrices, int64_t steps) {
  if (matrices.is_cpu() && matrices.scalar_type() == torch::kFloat && matrices.size(2) <= kMostColumns) {
    matrices = matrices.contiguous();
    orthogonalize(matrices, steps);
    return matrices;
  }
  constexpr double kA = NewtonSchulz::kA, kB = NewtonSchulz::kB, kC = NewtonSchulz::kC;
  torch::Tensor x = matrices / matrices.norm(2, {1, 2}, /*keepdim=*/true).clamp_min(NewtonSchulz::kNormEps);
  torch::Tensor next = torch::empty_like(x);
  torch::Tensor gram = torch::empty({x.size(0), x.size(2), x.size(2)}, x.options());
  torch::Tensor polynomial = torch::empty_like(gram);
  for (int64_t i = 0; i < steps; ++i) {
    at::bmm_out(gram, x.transpose(1, 2), x);
    at::baddbmm_out(polynomial, gram, gram, gram, /*beta=*/kB, /*alpha=*/kC);
    at::baddbmm_out(next, x, x, polynomial, /*beta=*/kA, /*alpha=*/1);
    std::swap(x, next);
  }
  return x;
}

Muon::Muon(std::vector<MuonParameter> parameters, const MuonOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    MuonParameter& p = parameters_[i];
    TORCH_CHECK(p.parameter.dim() >= 2, p.name, ": Muon wants at least 2 dimensions, got ", p.parameter.dim());
    const int64_t rows = p.parameter.size(-2), columns = p.parameter.size(-1);
    if (p.row_splits.empty()) p.row_splits = {rows};
    const int64_t total = std::accumulate(p.row_splits.begin(), p.row_splits.end(), int64_t{0});
    TORCH_CHECK(total == rows, p.name, ": splits add up to ", total, ", wanted ", rows, " rows");
    momentum_.push_back(torch::zeros(
        p.parameter.sizes(), p.parameter.options().device(p.owned ? p.parameter.device() : torch::Device("meta"))));

    int64_t row_begin = 0;
    for (const int64_t split : p.row_splits) {
      Piece piece{i, row_begin, split, p.parameter.numel() / (rows * columns), split < columns};
      row_begin += split;
      const int64_t short_side = std::min(split, columns), long_side = std::max(split, columns);
      // A full bucket is closed by starting another of the same shape, which is the one found from then on.
      auto bucket = std::find_if(buckets_.rbegin(), buckets_.rend(), [&](const Bucket& b) {
        return b.short_side == short_side && b.long_side == long_side;
      });
      int64_t held = 0;
      if (bucket != buckets_.rend())
        for (const Piece& other : bucket->pieces) held += other.matrices;
      if (bucket == buckets_.rend() || (held + piece.matrices) * short_side * long_side > kMaxBatchElements) {
        buckets_.push_back({short_side, long_side, {piece}});
      } else {
        bucket->pieces.push_back(piece);
      }
    }
  }
}

torch::Tensor Muon::piece_view(const torch::Tensor& tensor, const Piece& piece) {
  const torch::Tensor matrices =
      tensor.view({-1, tensor.size(-2), tensor.size(-1)}).narrow(1, piece.row_begin, piece.rows);
  return piece.transposed ? matrices.transpose(1, 2) : matrices;
}

void Muon::step(double lr) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const torch::Tensor& grad = parameters_[i].parameter.grad();
    if (!grad.defined()) continue;
    momentum_[i].lerp_(grad, 1 - options_.momentum);
    parameters_[i].parameter.detach().mul_(1 - lr * parameters_[i].lr_factor * options_.weight_decay);
  }
  for (const Bucket& bucket : buckets_) step_bucket(bucket, lr);
}

void Muon::step_bucket(const Bucket& bucket, double lr) {
  std::vector<const Piece*> live;
  int64_t matrices = 0;
  for (const Piece& piece : bucket.pieces) {
    if (!parameters_[piece.parameter].parameter.grad().defined()) continue;
    live.push_back(&piece);
    matrices += piece.matrices;
  }
  if (live.empty()) return;

  torch::Tensor batch =
      torch::empty({matrices, bucket.long_side, bucket.short_side}, parameters_[0].parameter.options());
  int64_t begin = 0;
  for (const Piece* piece : live) {
    const torch::Tensor grad = parameters_[piece->parameter].parameter.grad().contiguous();
    torch::Tensor slot = batch.narrow(0, begin, piece->matrices);
    at::lerp_out(slot, piece_view(grad, *piece), piece_view(momentum_[piece->parameter], *piece), options_.momentum);
    begin += piece->matrices;
  }
  const torch::Tensor updates = newton_schulz(batch.to(options_.ns_dtype), options_.ns_steps);

  const double scale = -lr * 0.2 * std::sqrt(static_cast<double>(bucket.long_side));
  begin = 0;
  for (const Piece* piece : live) {
    piece_view(parameters_[piece->parameter].parameter.detach(), *piece)
        .add_(updates.narrow(0, begin, piece->matrices), scale * parameters_[piece->parameter].lr_factor);
    begin += piece->matrices;
  }
}

std::vector<std::pair<std::string, torch::Tensor>> Muon::state() const {
  std::vector<std::pair<std::string, torch::Tensor>> state;
  for (size_t i = 0; i < parameters_.size(); ++i)
    state.emplace_back("muon.momentum." + parameters_[i].name, momentum_[i]);
  return state;
}

}  // namespace engram
