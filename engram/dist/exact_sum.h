// A sum of squares that does not depend on the order of its terms: 128 bits of fixed point.
//
// Each square is rounded to a multiple of 2^-80 by itself (a float's square is exact in a double), and the rest is
// integers. So any split of the values over threads, calls and processes gives the same bits. Squares below 2^-81
// count as nothing. A value that is not finite, or whose size is 2^23 or more, makes the sum infinite, and so does a
// sum of 2^45 or more.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace engram {

class ExactSum {
 public:
  // What goes over the wire: words of 32 bits, the lowest first, each in an int64. The words of up to 1024 sums are
  // added number by number; the result is the words of their sum.
  static constexpr int kWords = 4;
  using Words = std::array<int64_t, kWords>;

  void add_squares(const float* values, int64_t count) {
    for (int64_t i = 0; i < count; i += kBlock) add_block(values + i, static_cast<int>(std::min(kBlock, count - i)));
  }
  // A sum of squares made elsewhere, rounded to a multiple of 2^-80. Not a number or 2^45 or more: infinite.
  void add(double sum_of_squares) {
    if (sum_of_squares < 0x1p45) {
      total_ += static_cast<Integer>(std::nearbyint(std::ldexp(sum_of_squares, 80)));
    } else {
      infinite_ = true;
    }
    settle();
  }
  void add(const ExactSum& other) {
    total_ += other.total_;
    infinite_ |= other.infinite_;
    settle();
  }

  double value() const {
    return infinite_ ? std::numeric_limits<double>::infinity() : std::ldexp(static_cast<double>(total_), -80);
  }
  Words words() const {
    if (infinite_) return {0, 0, 0, kInfiniteWord};
    Words words;
    for (int i = 0; i < kWords; ++i) words[i] = static_cast<int64_t>((total_ >> (32 * i)) & 0xFFFFFFFF);
    return words;
  }
  static ExactSum from_words(const Words& words) {
    ExactSum sum;
    sum.infinite_ = words[kWords - 1] >= kTop;
    for (int i = kWords - 1; i >= 0 && !sum.infinite_; --i) sum.total_ = (sum.total_ << 32) + words[i];
    sum.settle();
    return sum;
  }

 private:
  __extension__ using Integer = __int128;
  static constexpr int64_t kBlock = 2048;
  static constexpr Integer kLimit = Integer{1} << 125;
  static constexpr int64_t kTop = int64_t{1} << 29;           // the last word of kLimit
  static constexpr int64_t kInfiniteWord = int64_t{1} << 50;  // 1024 of them still fit
  void add_block(const float* values, int count);
  void settle() {
    infinite_ |= total_ >= kLimit;
    if (infinite_) total_ = 0;
  }

  Integer total_ = 0;  // in units of 2^-80
  bool infinite_ = false;
};

}  // namespace engram
