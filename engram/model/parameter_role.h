// ParameterRole: what a weight is for. Recipes freeze weights and scale learning rates by it. Torch-free.
#pragma once

namespace engram {

enum class ParameterRole {
  kEmbedding,
  kHead,  // where it is not the embedding
  kAttention,
  kFfn,     // dense ones, routed and shared experts
  kRouter,  // and the routing bias
  kNorm,
  kHyperConnection,
  kLora,
  kMemory,    // projections, gates and convolution; a table's rows are no weights
  kBackbone,  // of no weight: in a recipe it stands for all roles but kLora and kMemory
};
inline constexpr int kParameterRoles = 9;

}  // namespace engram
