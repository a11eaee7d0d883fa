#include "engram/kernels/gemm.h"

#include <hwy/cache_control.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/gemm.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// A tile keeps kRows x kVectors accumulators in registers: 24 of 32 with AVX-512, 12 of 16 elsewhere.
constexpr int kRows = 6;
constexpr int64_t kLineFloats = 16;
constexpr int kWide = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

// One tile of c. With kVectors = 1 the last vector may be partial (n < lanes).
template <int kTileRows, int kVectors>
HWY_INLINE void tile(int64_t k, const StridedMatrix& a, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                     int64_t n, bool accumulate) {
  Floats acc[kTileRows][kVectors];
  const int64_t width = lanes();
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t valid = kVectors == 1 ? n : width;
      acc[r][v] = accumulate ? load(c + r * c_stride + v * width, valid) : splat(0);
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    // Rows of a matrix that comes from memory: the next tile's lines are on their way while this one is summed.
    if (a.column_stride == 1 && i % kLineFloats < kTileRows) {
      hwy::Prefetch(a.data + (kTileRows + i % kLineFloats) * a.row_stride + i - i % kLineFloats);
    }
    Floats columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = load(b + i * b_stride + v * width, kVectors == 1 ? n : width);
    const float* a_column = a.data + i * a.column_stride;
    for (int r = 0; r < kTileRows; ++r) {
      const Floats scale = splat(a_column[r * a.row_stride]);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(scale, columns[v], acc[r][v]);
    }
  }
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      store(acc[r][v], c + r * c_stride + v * width, kVectors == 1 ? n : width);
    }
  }
}

// All rows of one column strip.
template <int kVectors>
HWY_NOINLINE void strip(int64_t m, int64_t k, const StridedMatrix& a, const float* b, int64_t b_stride, float* c,
                        int64_t c_stride, int64_t n, bool accumulate) {
  int64_t r = 0;
  StridedMatrix rows = a;
  for (; r + kRows <= m; r += kRows) {
    rows.data = a.data + r * a.row_stride;
    tile<kRows, kVectors>(k, rows, b, b_stride, c + r * c_stride, c_stride, n, accumulate);
  }
  rows.data = a.data + r * a.row_stride;
  c += r * c_stride;
  switch (m - r) {
    case 1: return tile<1, kVectors>(k, rows, b, b_stride, c, c_stride, n, accumulate);
    case 2: return tile<2, kVectors>(k, rows, b, b_stride, c, c_stride, n, accumulate);
    case 3: return tile<3, kVectors>(k, rows, b, b_stride, c, c_stride, n, accumulate);
    case 4: return tile<4, kVectors>(k, rows, b, b_stride, c, c_stride, n, accumulate);
    case 5: return tile<5, kVectors>(k, rows, b, b_stride, c, c_stride, n, accumulate);
    default: return;
  }
}

void Gemm(int64_t m, int64_t n, int64_t k, const StridedMatrix& a, const float* b, int64_t b_stride, float* c,
          int64_t c_stride, bool accumulate) {
  const int64_t width = lanes();
  int64_t column = 0;
  for (; column + kWide * width <= n; column += kWide * width) {
    strip<kWide>(m, k, a, b + column, b_stride, c + column, c_stride, 0, accumulate);
  }
  if constexpr (kWide > 2) {
    for (; column + 2 * width <= n; column += 2 * width) {
      strip<2>(m, k, a, b + column, b_stride, c + column, c_stride, 0, accumulate);
    }
  }
  for (; column < n; column += width) {
    strip<1>(m, k, a, b + column, b_stride, c + column, c_stride, valid_lanes(column, n), accumulate);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(Gemm);

void gemm(int64_t m, int64_t n, int64_t k, const StridedMatrix& a, const float* b, int64_t b_stride, float* c,
          int64_t c_stride, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(Gemm)(m, n, k, a, b, b_stride, c, c_stride, accumulate);
}

void gemm_plain(int64_t m, int64_t n, int64_t k, const StridedMatrix& a, const float* b, int64_t b_stride, float* c,
                int64_t c_stride, bool accumulate) {
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double total = accumulate ? c[r * c_stride + j] : 0;
      for (int64_t i = 0; i < k; ++i) {
        total += double{a.data[r * a.row_stride + i * a.column_stride]} * b[i * b_stride + j];
      }
      c[r * c_stride + j] = static_cast<float>(total);
    }
  }
}

void transpose(const float* in, int64_t rows, int64_t columns, float* out, int64_t out_stride) {
  // Blocks keep the strided side within a few cache lines.
  constexpr int64_t kBlock = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const int64_t r1 = r0 + kBlock < rows ? r0 + kBlock : rows;
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = r0; r < r1; ++r) out[c * out_stride + r] = in[r * columns + c];
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
