// Who owns what: the same answer on every rank, from sizes alone.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace engram {

// Rows of a table over ranks, block-cyclic: block b of 256 rows belongs to rank b % ranks, and an owner keeps its
// blocks one after another. So every rank has a share of each head's rows, the shares differ by one block at most, and
// a checkpoint is read and written in runs of 256 rows.
class RowPartition {
 public:
  static constexpr int64_t kBlock = 256;
  // REQUIRES: rows >= 0, ranks >= 1.
  RowPartition(int64_t rows, int ranks) : rows_(rows), ranks_(ranks) {}

  int64_t rows() const { return rows_; }
  int ranks() const { return ranks_; }
  // REQUIRES: 0 <= row < rows().
  int owner(int64_t row) const { return static_cast<int>(row / kBlock % ranks_); }
  int64_t local(int64_t row) const { return row / kBlock / ranks_ * kBlock + row % kBlock; }  // index at its owner
  int64_t global(int rank, int64_t local) const {                                             // the way back
    return (local / kBlock * ranks_ + rank) * kBlock + local % kBlock;
  }
  int64_t count(int rank) const;  // rows that `rank` owns

  // Calls run(owner, row, local, count) for each run of rows [row, row + count) of one owner in [begin, end), in order.
  template <typename Run>
  void ranges(int64_t begin, int64_t end, const Run& run) const {
    for (int64_t row = begin; row < end;) {
      const int64_t next = ranks_ == 1 ? end : std::min(end, (row / kBlock + 1) * kBlock);
      run(owner(row), row, local(row), next - row);
      row = next;
    }
  }

 private:
  int64_t rows_;
  int ranks_;
};

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};
// Part `part` of `items` in `parts` contiguous parts; sizes differ by one at most, and some are empty where there are
// fewer items than parts.
Range even_range(int64_t items, int parts, int part);

// The part of each item such that the parts' sums are close: largest first, each to the part with the least so far
// (ties: the lower index).
std::vector<int> balance(std::span<const int64_t> sizes, int parts);

// A weight of a model: its floats, what an update of it costs, and whether its rows may lie with several ranks.
struct Weight {
  int64_t size = 0, cost = 0;
  bool divisible = false;
};
// The rank that sums and updates each weight: close sums of costs. kDivided: every rank a part of the rows, alike,
// which is for weights that are larger than a rank's share of all.
constexpr int kDivided = -1;
std::vector<int> weight_owners(std::span<const Weight> weights, int ranks);

}  // namespace engram
