#include "engram/kernels/rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/rows.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

#include <algorithm>

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

void Gather(const float* rows, int64_t width, const int64_t* index, int64_t begin, int64_t end, float* out) {
  for (int64_t i = begin; i < end; ++i) {
    const float* from = rows + index[i] * width;
    for (int64_t c = 0; c < width; c += lanes()) {
      const int64_t n = valid_lanes(c, width);
      store(load(from + c, n), out + i * width + c, n);
    }
  }
}

void ScatterAdd(const float* gradient, int64_t width, const int64_t* index, const int64_t* positions, int64_t count,
                float* out) {
  for (int64_t k = 0; k < count; ++k) {
    const int64_t i = positions == nullptr ? k : positions[k];
    float* to = out + index[i] * width;
    for (int64_t c = 0; c < width; c += lanes()) {
      const int64_t n = valid_lanes(c, width);
      store(hn::Add(load(to + c, n), load(gradient + i * width + c, n)), to + c, n);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(Gather);
HWY_EXPORT(ScatterAdd);

void gather_rows(const float* rows, int64_t width, const int64_t* index, int64_t begin, int64_t end, float* out) {
  HWY_DYNAMIC_DISPATCH(Gather)(rows, width, index, begin, end, out);
}

void scatter_add_rows(const float* gradient, int64_t width, const int64_t* index, const int64_t* positions,
                      int64_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(ScatterAdd)(gradient, width, index, positions, count, out);
}

void gather_rows_plain(const float* rows, int64_t width, const int64_t* index, int64_t begin, int64_t end, float* out) {
  for (int64_t i = begin; i < end; ++i) std::copy_n(rows + index[i] * width, width, out + i * width);
}

void scatter_add_rows_plain(const float* gradient, int64_t width, const int64_t* index, const int64_t* positions,
                            int64_t count, float* out) {
  for (int64_t k = 0; k < count; ++k) {
    const int64_t i = positions == nullptr ? k : positions[k];
    for (int64_t c = 0; c < width; ++c) out[index[i] * width + c] += gradient[i * width + c];
  }
}

}  // namespace engram
#endif  // HWY_ONCE
