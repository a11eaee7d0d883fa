#include "engram/train/shuffled_table.h"

#include <algorithm>
#include <numeric>

namespace engram {

void ShuffledTable::begin(int64_t stream) {
  // A large odd factor keeps the streams of neighbouring seeds apart.
  random_ = NumpyRandom((static_cast<uint64_t>(seed_) * 1'000'003 + static_cast<uint64_t>(stream)));
}

std::unique_ptr<MemoryRead> ShuffledTable::submit(std::span<const int64_t> row_ids, bool overlap) {
  const int64_t positions = std::ssize(row_ids) / rows_per_token_;
  order_.resize(static_cast<size_t>(positions));
  std::iota(order_.begin(), order_.end(), int64_t{0});
  for (int64_t i = positions - 1; i > 0; --i) std::swap(order_[i], order_[random_.integers(0, i + 1)]);
  permuted_.resize(row_ids.size());
  for (int64_t i = 0; i < positions; ++i)
    std::copy_n(row_ids.begin() + order_[i] * rows_per_token_, rows_per_token_,
                permuted_.begin() + i * rows_per_token_);
  return table_->submit(permuted_, overlap);
}

}  // namespace engram
