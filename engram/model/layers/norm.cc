#include "engram/model/layers/norm.h"

#include "engram/model/ops/ops.h"

namespace engram {

RmsNormImpl::RmsNormImpl(int64_t size, double eps) : eps_(eps) {
  weight = register_parameter("weight", torch::ones({size}));
}

torch::Tensor RmsNormImpl::forward(const torch::Tensor& x) { return rms_norm(x, weight, eps_); }

LinearImpl::LinearImpl(int64_t in, int64_t out, double std) {
  weight = register_parameter("weight", initial_weight({out, in}, std));
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) { return linear_rows(x, weight); }

}  // namespace engram
