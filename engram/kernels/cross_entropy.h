// The language-model head and its loss in one pass: cross-entropy of softmax(hidden * weight^T), with both gradients.
//
// Logits never exist as a whole. Tokens go in chunks of a few dozen rows, the vocabulary in shares, one per task, and
// in panels of 128 within a share. Phase 1 of a chunk: each task computes its panels, turns them into exponentials
// relative to a reference near each row's maximum, and keeps them (they stay in its cache). Phase 2: with every task's
// sums known, the panels become gradients and go straight into the two gradient products. One exp per logit.
//
// Sums run in a fixed order for a fixed number of tasks. fp32 throughout, or, where the CPU multiplies bf16
// (bf16_cross_entropy_supported), bf16 factors with fp32 sums at twice the speed.
#pragma once
#include <cstdint>
#include <functional>

namespace engram {

// Contiguous; nothing is owned.
struct CrossEntropyArguments {
  int64_t tokens = 0;
  int64_t dim = 0;
  int64_t vocabulary = 0;
  const float* hidden = nullptr;     // [tokens, dim]
  const float* weight = nullptr;     // [vocabulary, dim]
  const int64_t* targets = nullptr;  // [tokens]; negative: ignored; the caller checks that others are < vocabulary
  float gradient_scale = 1;          // of the loss whose gradients are written (1 / number of targets: the mean)
  float* dhidden = nullptr;          // [tokens, dim] out; null: no gradients
  float* dweight = nullptr;          // [vocabulary, dim] out; null: not wanted; null when dhidden is
  bool bf16 = false;                 // needs bf16_cross_entropy_supported()
};

// Calls work(i) for every i < tasks, on any threads, and returns when all are done.
using ParallelTasks = std::function<void(int64_t tasks, const std::function<void(int64_t)>& work)>;

bool bf16_cross_entropy_supported();

// The sum of -log softmax(logits)[target] over the tokens with a target, in nats.
double cross_entropy(const CrossEntropyArguments& arguments, int64_t tasks, const ParallelTasks& parallel);

// The oracle: token by token in double; ignores bf16.
double cross_entropy_plain(const CrossEntropyArguments& arguments);

}  // namespace engram
