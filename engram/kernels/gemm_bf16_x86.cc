#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "engram/kernels/gemm_bf16.h"
#include "engram/port/process.h"

namespace engram {

// Highway 1.0 has no bf16 dot product, hence intrinsics here and nowhere else in the room.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
namespace {

constexpr int kRows = 6;
constexpr int64_t kLanes = 16;

__mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>(n >= kLanes ? 0xffff : (1u << n) - 1); }

// As gemm.cc: kTileRows x kVectors accumulators stay in registers; the mask covers the last vector's valid lanes.
template <int kTileRows, int kVectors>
inline __attribute__((always_inline)) void tile(int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride,
                                                float* c, int64_t c_stride, __mmask16 mask, bool accumulate) {
  __m512 acc[kTileRows][kVectors];
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 valid = v + 1 < kVectors ? __mmask16{0xffff} : mask;
      acc[r][v] = accumulate ? _mm512_maskz_loadu_ps(valid, c + r * c_stride + v * kLanes) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    __m512bh columns[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 valid = v + 1 < kVectors ? __mmask16{0xffff} : mask;
      columns[v] = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi32(valid, b + i * b_stride + v * kLanes));
    }
    const uint32_t* a_column = a.data + i * a.column_stride;
    for (int r = 0; r < kTileRows; ++r) {
      const auto scale = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a_column[r * a.row_stride])));
      for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], scale, columns[v]);
    }
  }
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 valid = v + 1 < kVectors ? __mmask16{0xffff} : mask;
      _mm512_mask_storeu_ps(c + r * c_stride + v * kLanes, valid, acc[r][v]);
    }
  }
}

template <int kVectors>
void strip(int64_t m, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c, int64_t c_stride,
           __mmask16 mask, bool accumulate) {
  StridedWords rows = a;
  int64_t r = 0;
  for (; r + kRows <= m; r += kRows) {
    rows.data = a.data + r * a.row_stride;
    tile<kRows, kVectors>(k, rows, b, b_stride, c + r * c_stride, c_stride, mask, accumulate);
  }
  for (; r + 2 <= m; r += 2) {
    rows.data = a.data + r * a.row_stride;
    tile<2, kVectors>(k, rows, b, b_stride, c + r * c_stride, c_stride, mask, accumulate);
  }
  if (r < m) {
    rows.data = a.data + r * a.row_stride;
    tile<1, kVectors>(k, rows, b, b_stride, c + r * c_stride, c_stride, mask, accumulate);
  }
}

void gemm_avx512(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
                 int64_t c_stride, bool accumulate) {
  int64_t column = 0;
  for (; column + 4 * kLanes <= n; column += 4 * kLanes) {
    strip<4>(m, k, a, b + column, b_stride, c + column, c_stride, 0xffff, accumulate);
  }
  for (; column < n; column += kLanes) {
    strip<1>(m, k, a, b + column, b_stride, c + column, c_stride, first_lanes(n - column), accumulate);
  }
}

}  // namespace
#pragma GCC pop_options

// AMX: 16 x 16 sums of 16 words each in one instruction, on whole tiles; what sticks out is left to AVX-512.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12, bug 105593: of its own _mm512_undefined_epi32()
namespace {

constexpr int64_t kTile = 16;  // rows of a tile, and words in each

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

// out[r][i] = in[i][r]
void transpose_tile(const uint32_t* in, int64_t in_stride, uint32_t* out, int64_t out_stride) {
  __m512i row[16], pair[16];
  for (int i = 0; i < 16; ++i) row[i] = _mm512_loadu_si512(in + i * in_stride);
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // lane l of row[i + j]: column 4 l + j of rows i .. i + 3
    row[i] = _mm512_unpacklo_epi64(pair[i], pair[i + 2]);
    row[i + 1] = _mm512_unpackhi_epi64(pair[i], pair[i + 2]);
    row[i + 2] = _mm512_unpacklo_epi64(pair[i + 1], pair[i + 3]);
    row[i + 3] = _mm512_unpackhi_epi64(pair[i + 1], pair[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512i even_low = _mm512_shuffle_i32x4(row[j], row[4 + j], 0x88);
    const __m512i even_high = _mm512_shuffle_i32x4(row[8 + j], row[12 + j], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(row[j], row[4 + j], 0xdd);
    const __m512i odd_high = _mm512_shuffle_i32x4(row[8 + j], row[12 + j], 0xdd);
    _mm512_storeu_si512(out + j * out_stride, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
    _mm512_storeu_si512(out + (4 + j) * out_stride, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
    _mm512_storeu_si512(out + (8 + j) * out_stride, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
    _mm512_storeu_si512(out + (12 + j) * out_stride, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
  }
}

// Sums of kDown x kAcross tiles (tmm0 .. 3); a has unit column stride.
template <int kDown, int kAcross>
void tiles(int64_t k, const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, float* c,
           int64_t c_stride, bool accumulate) {
  const int64_t a_bytes = a_stride * 4, b_bytes = b_stride * 4, c_bytes = c_stride * 4;
  float* below = c + kTile * c_stride;
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    if constexpr (kAcross > 1) _tile_loadd(1, c + kTile, c_bytes);
    if constexpr (kDown > 1) _tile_loadd(2, below, c_bytes);
    if constexpr (kDown > 1 && kAcross > 1) _tile_loadd(3, below + kTile, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t i = 0; i < k; i += kTile) {
    _tile_loadd(4, a + i, a_bytes);
    _tile_loadd(6, b + i * b_stride, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kAcross > 1) {
      _tile_loadd(7, b + i * b_stride + kTile, b_bytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kDown > 1) {
      _tile_loadd(5, a + kTile * a_stride + i, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kDown > 1 && kAcross > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_bytes);
  if constexpr (kAcross > 1) _tile_stored(1, c + kTile, c_bytes);
  if constexpr (kDown > 1) _tile_stored(2, below, c_bytes);
  if constexpr (kDown > 1 && kAcross > 1) _tile_stored(3, below + kTile, c_bytes);
}

template <int kDown>
void tile_rows(int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
               int64_t c_stride, bool accumulate) {
  static thread_local std::vector<uint32_t> packed;
  const uint32_t* rows = a.data;
  int64_t row_stride = a.row_stride;
  if (a.column_stride != 1) {
    packed.resize(static_cast<size_t>(kDown * kTile * k));
    for (int64_t r = 0; r < kDown * kTile; r += kTile) {
      for (int64_t i = 0; i < k; i += kTile) {
        uint32_t* out = packed.data() + r * k + i;
        const uint32_t* in = a.data + r * a.row_stride + i * a.column_stride;
        if (a.row_stride == 1) {
          transpose_tile(in, a.column_stride, out, k);
          continue;
        }
        for (int64_t x = 0; x < kTile; ++x) {
          for (int64_t y = 0; y < kTile; ++y) out[x * k + y] = in[x * a.row_stride + y * a.column_stride];
        }
      }
    }
    rows = packed.data();
    row_stride = k;
  }
  asm volatile("" ::: "memory");  // the intrinsics' loads do not say that they read memory
  int64_t column = 0;
  for (; column + 2 * kTile <= n; column += 2 * kTile) {
    tiles<kDown, 2>(k, rows, row_stride, b + column, b_stride, c + column, c_stride, accumulate);
  }
  if (column < n) tiles<kDown, 1>(k, rows, row_stride, b + column, b_stride, c + column, c_stride, accumulate);
}

void gemm_amx(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
              int64_t c_stride, bool accumulate) {
  const int64_t whole_m = m / kTile * kTile, whole_n = n / kTile * kTile, whole_k = k / kTile * kTile;
  const auto moved = [&a](int64_t row, int64_t column) {
    return StridedWords{a.data + row * a.row_stride + column * a.column_stride, a.row_stride, a.column_stride};
  };
  const TileConfig config;
  _tile_loadconfig(&config);
  int64_t row = 0;
  for (; row + 2 * kTile <= whole_m; row += 2 * kTile) {
    tile_rows<2>(whole_n, whole_k, moved(row, 0), b, b_stride, c + row * c_stride, c_stride, accumulate);
  }
  if (row < whole_m) {
    tile_rows<1>(whole_n, whole_k, moved(row, 0), b, b_stride, c + row * c_stride, c_stride, accumulate);
  }
  _tile_release();
  if (whole_k < k) {
    gemm_avx512(whole_m, whole_n, k - whole_k, moved(0, whole_k), b + whole_k * b_stride, b_stride, c, c_stride, true);
  }
  if (whole_n < n) {
    gemm_avx512(whole_m, n - whole_n, k, a, b + whole_n, b_stride, c + whole_n, c_stride, accumulate);
  }
  if (whole_m < m) {
    gemm_avx512(m - whole_m, n, k, moved(whole_m, 0), b, b_stride, c + whole_m * c_stride, c_stride, accumulate);
  }
}

// Asked for the permission once.
bool has_tiles() {
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && port::allow_matrix_tiles();
}

}  // namespace
#pragma GCC diagnostic pop
#pragma GCC pop_options

bool bf16_gemm_supported() {
  static const bool supported = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return supported;
}

void gemm_bf16(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
               int64_t c_stride, bool accumulate) {
  static const bool tiled = has_tiles();
  const bool whole_tile = m >= kTile && n >= kTile && k >= kTile;
  return (tiled && whole_tile ? gemm_amx : gemm_avx512)(m, n, k, a, b, b_stride, c, c_stride, accumulate);
}

}  // namespace engram
