// The cases of `engram bench ops`: what each kernel of engram/kernels does for the product, beside the ways in which
// libtorch does the same work. Internal to bench/ops_*.cc.
//
// Both sides take the same inputs and return what they computed, so that the first call of each is compared: a rival
// that does other work is a failure, not a number. A rival's name says what it calls; "composed" means that no single
// call of libtorch does the work.
#pragma once
#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

namespace engram::bench {

using torch::Tensor;
using Tensors = std::vector<Tensor>;

// Sizes of one model. Both recipes' own numbers for the demo and XS; "d512" has their proportions at width 512.
struct OpsShape {
  const char* name;
  bool bf16;  // training's matrix products
  int64_t batch, length, dim;
  int64_t heads, latent, nope, rope, value;  // MLA
  int64_t experts, width;                    // two are chosen
  int64_t vocabulary;
  int64_t rows_per_token, row_dim, table_rows;  // of one Engram layer

  int64_t tokens() const { return batch * length; }
  int64_t table_row_ids() const { return tokens() * rows_per_token; }
  torch::Dtype dtype() const { return bf16 ? torch::kBFloat16 : torch::kFloat; }
};
inline constexpr int64_t kStreams = 4;     // of hyper-connections
inline constexpr int64_t kChoices = 2;     // experts of a token
inline constexpr int64_t kSequences = 8;   // of a decode step, one new token each
inline constexpr int64_t kBlockSize = 16;  // tokens of a page

struct OpsSide {
  std::string name;
  std::function<Tensors()> call;
  double tolerance = 1e-3;  // largest difference from ours, of the largest value; negative: random results
};

// The least that the work costs any program: bytes read and written once, or arithmetic.
struct OpsCost {
  double bytes = 0;
  double flops = 0;
  bool bf16 = false;  // what the arithmetic could run in
};

struct OpsCase {
  std::string work;
  std::function<Tensors()> ours;
  std::vector<OpsSide> rivals;
  OpsCost cost;
};
using OpsCases = std::vector<OpsCase>;

// A differentiable operator of leaves.
struct OpsWay {
  std::string name;
  std::function<Tensor(const Tensors&)> op;
  double tolerance = 1e-3;
};
// The cases "forward" and "forward+backward". prefix goes before both names.
void add_passes(OpsCases& cases, const std::string& prefix, const Tensors& leaves, const OpsWay& ours,
                const std::vector<OpsWay>& rivals, const OpsCost& forward, const OpsCost& both);
// `call` without a graph.
std::function<Tensors()> inference(const std::function<Tensor()>& call);

Tensor leaf(torch::IntArrayRef sizes, double scale = 1, torch::Dtype dtype = torch::kFloat);

struct OpsKernel {
  const char* name;  // of its file in engram/kernels
  void (*add_cases)(const OpsShape& shape, OpsCases& cases);
};
std::vector<OpsKernel> layer_kernels();    // ops_layer_cases.cc: blocks of the model, forward and backward
std::vector<OpsKernel> product_kernels();  // ops_product_cases.cc: matrix products and what is made of them
std::vector<OpsKernel> row_kernels();      // ops_row_cases.cc: table rows, pages and sampling

}  // namespace engram::bench
