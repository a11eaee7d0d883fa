// What a batch of sequences keeps from step to step, in pages of `block_size` tokens that a block table lists.
//
// Per block of the model one row a token: MLA caches the normalised latent and the shared rotary key
// [kv_lora_rank + rope], GQA the rotated keys and the values of all key-value heads. Per Engram layer one row a token:
// the value, the gates and what the convolution's norm makes of them (kernels/paged_engram.h), so that a prefix found
// in the cache, a preempted sequence and a chunk of a prompt need only their pages. Which sequence owns a page is
// decided elsewhere (serve/block_manager.h).
// Shapes: N new tokens of all sequences of a step, back to back; S slots = num_blocks * block_size.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "engram/model/model_config.h"

namespace engram {

// The new tokens of one sequence in a step.
struct StepSequence {
  int64_t position = 0;         // of the first new token, in the sequence
  int64_t count = 0;            // new tokens, >= 1
  std::vector<int32_t> blocks;  // of the tokens [0, position + count)
  bool memory_off = false;      // knock-out: Engram blocks add nothing
};

// Where attention finds the keys of all sequences of a step, on the model's device: K tokens so far, back to back.
struct PagedKeys {
  torch::Tensor slots;                 // [K] int64
  torch::Tensor query_ends, key_ends;  // [sequences + 1] int32: where each sequence's new tokens and keys end, from 0
  int64_t longest_query = 0, longest_key = 0;
};

// A step's layout, immutable. Throws c10::Error where blocks and positions do not fit.
class PagedStep {
 public:
  // device: the model's. On another than the CPU what the layers need there is copied once, without waiting.
  PagedStep(std::vector<StepSequence> sequences, int64_t block_size, torch::Device device = torch::kCPU);

  const std::vector<StepSequence>& sequences() const { return sequences_; }
  int64_t first_token(size_t sequence) const { return first_[sequence]; }  // of its new ones, among N
  int64_t num_tokens() const { return first_.back(); }                     // N
  int64_t block_size() const { return block_size_; }
  // All on the step's device.
  const torch::Tensor& positions() const { return positions_; }  // [N] int64
  const torch::Tensor& slots() const { return slots_; }          // [N] int64
  // [N] bool: tokens without memory; undefined when there are none.
  const torch::Tensor& memory_off() const { return memory_off_; }
  const PagedKeys& keys() const { return keys_; }  // undefined tensors on the CPU, whose kernels read block tables
  bool all_memory_off() const { return all_memory_off_; }
  // [N, taps] int64: the slot that each tap of the convolution reads, the token's own first; -1: before the
  // sequence's start.
  torch::Tensor tap_slots(int64_t taps, int64_t dilation) const;
  // [K] int64, CPU: the slots of all tokens so far, one sequence after another.
  torch::Tensor key_slots() const;
  int64_t slot_of(size_t sequence, int64_t position) const;

 private:
  std::vector<StepSequence> sequences_;
  int64_t block_size_;
  void find_keys();

  std::vector<int64_t> first_;  // [sequences + 1]
  torch::Device device_;
  torch::Tensor positions_, slots_, memory_off_;
  PagedKeys keys_;
  bool all_memory_off_ = true;
};

// The pages. Plain tensors; one thread. dtype: of attention's rows; an Engram layer's are fp32 always.
class PagedCache {
 public:
  PagedCache(const ModelConfig& config, int64_t num_blocks, int64_t block_size, torch::Device device = torch::kCPU,
             torch::Dtype dtype = torch::kFloat);

  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return block_size_; }
  torch::Tensor& attention(int block) { return attention_[static_cast<size_t>(block)]; }          // [S, width]
  torch::Tensor& memory(int memory_layer) { return memory_[static_cast<size_t>(memory_layer)]; }  // [S, d + 2 G]
  // Of one token over all layers.
  static int64_t bytes_per_token(const ModelConfig& config, torch::Dtype dtype = torch::kFloat);

 private:
  int64_t num_blocks_, block_size_;
  std::vector<torch::Tensor> attention_, memory_;
};

// Of attention's pages for a model with this weight: its own on a GPU; the CPU's kernels read fp32.
inline torch::Dtype page_dtype(const torch::Tensor& weight) {
  return weight.is_cpu() ? torch::kFloat : weight.scalar_type();
}

// To the step's device from memory that it can read while the CPU continues; a CPU tensor is returned unchanged.
torch::Tensor copy_ahead(const torch::Tensor& host, torch::Device device);

// Columns of a cached attention row.
int64_t attention_row_width(const ModelConfig& config);
// Columns of a cached Engram row; 0 where the memory keeps nothing (none, or at the input).
int64_t memory_row_width(const ModelConfig& config);

}  // namespace engram
