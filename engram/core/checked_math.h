// Products of sizes that users give, none of them negative: past int64 they are INT64_MAX, never a wrong number.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace engram {

// INT64_MAX where the exact number is larger. For comparisons with a limit. REQUIRES: no factor or term is negative.
constexpr int64_t saturating_product(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  bool overflow = false;
  for (const int64_t factor : factors) {
    if (factor == 0) return 0;
    overflow = __builtin_mul_overflow(product, factor, &product) || overflow;
  }
  return overflow ? INT64_MAX : product;
}
constexpr int64_t saturating_sum(std::initializer_list<int64_t> terms) {
  int64_t sum = 0;
  for (const int64_t term : terms)
    if (__builtin_add_overflow(sum, term, &sum)) return INT64_MAX;
  return sum;
}

}  // namespace engram
