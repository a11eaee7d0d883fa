// Vectors made by tests/golden/make/*.py: tensors by name, our fused parameters filled from the oracle's single ones,
// and the comparison every parity test uses.
#pragma once
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "engram/formats/safetensors.h"

namespace engram::parity {

using Tensors = std::map<std::string, torch::Tensor>;

inline Tensors load(const std::string& name) {
  const std::string path = std::string(ENGRAM_SOURCE_DIR) + "/tests/parity/" + name + ".safetensors";
  const SafetensorsFile file = value_or_throw(SafetensorsFile::open(Env::posix(), path));
  const std::map<DType, torch::Dtype> dtypes = {
      {DType::kF64, torch::kDouble}, {DType::kF32, torch::kFloat}, {DType::kI64, torch::kLong}};
  Tensors tensors;
  for (const auto& [key, view] : file.tensors()) {
    torch::Tensor tensor = torch::empty(view.shape, dtypes.at(view.dtype));
    std::memcpy(tensor.data_ptr(), view.bytes.data(), view.bytes.size());
    tensors[key] = tensor;
  }
  return tensors;
}

// A vector as a fresh leaf that collects a gradient.
inline torch::Tensor leaf(const torch::Tensor& vector, torch::Dtype dtype) {
  return vector.to(dtype, /*non_blocking=*/false, /*copy=*/true).requires_grad_();
}

// max|a - b| <= relative * max|b|.
inline void expect_close(const torch::Tensor& actual, const torch::Tensor& expected, double relative,
                         const std::string& what) {
  ASSERT_TRUE(actual.defined()) << what;
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const torch::Tensor a = actual.detach().to(torch::kDouble), b = expected.detach().to(torch::kDouble);
  const double error = (a - b).abs().max().item<double>(), limit = relative * b.abs().max().item<double>();
  EXPECT_LE(error, limit) << what;
}

// The oracle's names of what we keep in one tensor, top rows first.
inline std::vector<std::string> oracle_names(const std::string& name, const Tensors& vectors) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> fused = {
      {"q_kv_a_proj.", {"q_proj.", "kv_a_proj_with_mqa."}}, {"q_kv_a_proj.", {"q_a_proj.", "kv_a_proj_with_mqa."}},
      {"qkv_proj.", {"q_proj.", "k_proj.", "v_proj."}},     {"gate_up_proj.", {"gate_proj.", "up_proj."}},
      {"experts.gate_up", {"experts.gate_up_proj"}},        {"experts.down", {"experts.down_proj"}},
  };
  for (const auto& [ours, theirs] : fused) {
    const size_t at = name.find(ours);
    if (at == std::string::npos) continue;
    std::vector<std::string> names;
    for (const std::string& part : theirs) names.push_back(std::string(name).replace(at, ours.size(), part));
    if (vectors.contains("param." + names[0])) return names;
  }
  return {name};
}

inline torch::Tensor oracle_tensor(const std::string& prefix, const std::string& name, const Tensors& vectors) {
  std::vector<torch::Tensor> parts;
  for (const std::string& part : oracle_names(name, vectors)) parts.push_back(vectors.at(prefix + part));
  return torch::cat(parts);
}

inline void fill_parameters(torch::nn::Module& module, const Tensors& vectors) {
  torch::NoGradGuard no_grad;
  for (auto& item : module.named_parameters()) item.value().copy_(oracle_tensor("param.", item.key(), vectors));
  for (auto& item : module.named_buffers()) item.value().copy_(oracle_tensor("param.", item.key(), vectors));
}

inline void expect_gradients(const torch::nn::Module& module, const Tensors& vectors, double relative) {
  for (const auto& item : module.named_parameters())
    expect_close(item.value().grad(), oracle_tensor("grad.", item.key(), vectors), relative, "grad." + item.key());
}

// fp32 against the float64 oracle, and float64, where only the order of sums differs.
struct Precision {
  torch::Dtype dtype;
  double relative;
};
inline const std::vector<Precision>& precisions() {
  static const std::vector<Precision> all = {{torch::kFloat, 1e-5}, {torch::kDouble, 1e-9}};
  return all;
}

}  // namespace engram::parity
