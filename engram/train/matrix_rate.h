// MatrixRate: what a device can do at most in matrix products; a step is measured against it.
#pragma once
#include <torch/types.h>

#include <optional>
#include <string>
#include <string_view>

namespace engram {

struct MatrixRate {
  double flops = 0;    // operations a second, a multiply-add being two
  std::string source;  // "measured, 2 threads"; "stated"
};

// For factors of bf16 (with fp32 ones as well, where those are faster) or of fp32. Of a CPU: the best of some products
// that torch computes with as many threads as it has now, in a tenth of a second or two, once for each process. Of a
// GPU: what its maker states, or a measurement where the model is not known.
MatrixRate matrix_rate(torch::Device device, bool bf16);

// Of dense products, by what names the GPU (machine_description()); absent: not known here.
std::optional<double> stated_matrix_rate(std::string_view machine, bool bf16);

}  // namespace engram
