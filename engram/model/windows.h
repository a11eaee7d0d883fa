// Windows: how a long token sequence is read by a model of limited length.
//
// The sequence is cut into windows of `length` tokens that overlap by one, as in training, so that every token after
// the first is predicted exactly once; the last window may be shorter. Windows of one length travel together.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace engram {

// `count` windows of `length` tokens; window w reads tokens [begin + w * length, begin + (w + 1) * length) and predicts
// those one further on.
struct WindowBatch {
  int64_t begin = 0, count = 0, length = 0;
  std::vector<int32_t> tokens;               // [count * length]
  std::vector<std::vector<int32_t>> starts;  // [count] document starts inside the window, its first token left out
  torch::Tensor targets;                     // [count, length] int64, CPU
};

// Calls visit for every batch of at most batch_size windows, in order; false stops, and is returned.
// REQUIRES: at least 2 tokens, length and batch_size at least 1, document_starts ascending.
bool for_each_window(std::span<const int32_t> token_ids, std::span<const int64_t> document_starts, int64_t length,
                     int64_t batch_size, const std::function<bool(const WindowBatch&)>& visit);

}  // namespace engram
