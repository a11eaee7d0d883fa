#include "engram/dist/partition.h"

#include <numeric>

namespace engram {

int64_t RowPartition::count(int rank) const {
  const int64_t whole = rows_ / kBlock, last = rows_ % kBlock;  // whole blocks, and the rows of the last one
  return (whole / ranks_ + (rank < whole % ranks_)) * kBlock + (rank == whole % ranks_ ? last : 0);
}

Range even_range(int64_t items, int parts, int part) {
  const auto begin = [&](int64_t index) { return items / parts * index + items % parts * index / parts; };
  return {begin(part), begin(part + 1)};
}

std::vector<int> balance(std::span<const int64_t> sizes, int parts) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes[a] > sizes[b]; });
  std::vector<int64_t> sums(parts, 0);
  std::vector<int> part_of(sizes.size());
  for (const size_t item : order) {
    const auto least = std::min_element(sums.begin(), sums.end());
    *least += sizes[item];
    part_of[item] = static_cast<int>(least - sums.begin());
  }
  return part_of;
}

std::vector<int> weight_owners(std::span<const Weight> weights, int ranks) {
  int64_t all = 0;
  for (const Weight& weight : weights) all += weight.size;
  const auto divided = [&](const Weight& weight) { return weight.divisible && weight.size > all / ranks; };
  std::vector<int64_t> costs;
  for (const Weight& weight : weights) costs.push_back(divided(weight) ? 0 : weight.cost);
  std::vector<int> owners = balance(costs, ranks);
  for (size_t i = 0; i < weights.size(); ++i)
    if (ranks > 1 && divided(weights[i])) owners[i] = kDivided;
  return owners;
}

}  // namespace engram
