// Drawing without replacement, by numpy's generator.
#pragma once
#include <iterator>
#include <utility>

#include "engram/hash/numpy_random.h"

namespace engram {

// Moves `count` of the items to the front, in the order in which they are drawn. REQUIRES: count <= items.size().
template <class Items>
void draw_to_front(NumpyRandom& random, Items& items, int64_t count) {
  for (int64_t i = 0; i < count; ++i) std::swap(items.begin()[i], items.begin()[random.integers(i, std::ssize(items))]);
}

}  // namespace engram
