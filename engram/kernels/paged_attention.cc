#include "engram/kernels/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engram/kernels/gemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/paged_attention.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/softmax-inl.h"

#ifndef ENGRAM_KERNELS_PAGED_ATTENTION_ONCE
#define ENGRAM_KERNELS_PAGED_ATTENTION_ONCE
namespace engram {
namespace {

constexpr int64_t kKeys = 256;  // keys of one tile

// Scores [keys, columns] of the keys from `key` on. Column c sees the keys up to positions[c].
struct PagedTile {
  int64_t key = 0, keys = 0, columns = 0;
  const int32_t* positions = nullptr;                                                     // [columns], ascending
  int64_t plain() const { return std::clamp<int64_t>(positions[0] + 1 - key, 0, keys); }  // rows that all columns see
};

}  // namespace
}  // namespace engram
#endif

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

void PagedSoftmaxTile(const PagedTile& tile, float* scores, float* maxima, float* sums, float* factors) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const int64_t plain = tile.plain();
  for (int64_t c = 0; c < tile.columns; c += lanes()) {
    const auto position = hn::LoadU(di, tile.positions + c);
    const auto masked = [&](const auto& visit) HWY_ATTR {
      for (int64_t r = plain; r < tile.keys; ++r) {
        visit(r, hn::RebindMask(d, hn::Not(hn::Gt(hn::Set(di, static_cast<int32_t>(tile.key + r)), position))));
      }
    };
    softmax_step(scores + c, tile.columns, 0, plain, masked, maxima + c, sums + c, factors + c);
  }
}

void PagedScaleColumns(float* rows, int64_t n, int64_t columns, const float* factors) {
  scale_columns(rows, n, columns, factors);
}

int64_t PagedLanes() { return lanes(); }

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {
namespace {

HWY_EXPORT(PagedSoftmaxTile);
HWY_EXPORT(PagedScaleColumns);
HWY_EXPORT(PagedLanes);

int64_t slot_of(const PagedSequence& sequence, int64_t token) {
  return int64_t{sequence.blocks[token / sequence.block_size]} * sequence.block_size + token % sequence.block_size;
}

// Calls work(offset from `begin`, slot, length) for the tokens [begin, end), cut where their slots are not adjacent.
template <typename Work>
void for_each_run(const PagedSequence& sequence, int64_t begin, int64_t end, const Work& work) {
  for (int64_t token = begin; token < end;) {
    const int64_t slot = slot_of(sequence, token);
    int64_t next = token + sequence.block_size - token % sequence.block_size;
    while (next < end && slot_of(sequence, next) == slot + (next - token)) next += sequence.block_size;
    next = std::min(next, end);
    work(token - begin, slot, next - token);
    token = next;
  }
}

}  // namespace

void paged_attention(const PagedAttentionShape& shape, const PagedSequence& sequence, const QueryRows& query,
                     const PagedRows& keys, const PagedRows& values, int64_t begin, int64_t end, float* out,
                     int64_t out_token_stride) {
  const int64_t width = shape.key_width, count = end - begin, lane = HWY_DYNAMIC_DISPATCH(PagedLanes)();
  const int64_t columns = (count + lane - 1) / lane * lane;
  int32_t positions[kPagedColumns];
  std::vector<float> rows(static_cast<size_t>(columns * width)), transposed(rows.size());
  for (int64_t c = 0; c < columns; ++c) {
    const int64_t column = begin + std::min(c, count - 1), token = column / shape.heads;
    positions[c] = static_cast<int32_t>(sequence.position + token);
    const float* from = query.data + token * query.token_stride + column % shape.heads * query.head_stride;
    for (int64_t i = 0; i < width; ++i) rows[static_cast<size_t>(c * width + i)] = from[i] * shape.scale;
  }
  transpose(rows.data(), columns, width, transposed.data(), columns);

  const int64_t visible = positions[columns - 1] + 1;
  std::vector<float> scores(static_cast<size_t>(std::min(kKeys, visible) * columns));
  std::vector<float> sum(static_cast<size_t>(shape.value_width * columns));
  float maxima[kPagedColumns], sums[kPagedColumns] = {}, factors[kPagedColumns];
  std::fill_n(maxima, columns, kLowestScore);
  for (int64_t key = 0; key < visible; key += kKeys) {
    const PagedTile tile{key, std::min(kKeys, visible - key), columns, positions};
    for_each_run(sequence, key, key + tile.keys, [&](int64_t at, int64_t slot, int64_t length) {
      gemm(length, columns, width, {keys.data + slot * keys.row_stride, keys.row_stride, 1}, transposed.data(), columns,
           scores.data() + at * columns, columns, /*accumulate=*/false);
    });
    HWY_DYNAMIC_DISPATCH(PagedSoftmaxTile)(tile, scores.data(), maxima, sums, factors);
    if (key > 0) HWY_DYNAMIC_DISPATCH(PagedScaleColumns)(sum.data(), shape.value_width, columns, factors);
    for_each_run(sequence, key, key + tile.keys, [&](int64_t at, int64_t slot, int64_t length) {
      gemm(shape.value_width, columns, length, {values.data + slot * values.row_stride, 1, values.row_stride},
           scores.data() + at * columns, columns, sum.data(), columns, /*accumulate=*/key > 0 || at > 0);
    });
  }
  for (int64_t c = 0; c < count; ++c) {
    const int64_t column = begin + c;
    float* to = out + column / shape.heads * out_token_stride + column % shape.heads * shape.value_width;
    const float inverse = 1.0f / sums[c];
    for (int64_t i = 0; i < shape.value_width; ++i) to[i] = sum[static_cast<size_t>(i * columns + c)] * inverse;
  }
}

void paged_attention_plain(const PagedAttentionShape& shape, const PagedSequence& sequence, const QueryRows& query,
                           const PagedRows& keys, const PagedRows& values, float* out, int64_t out_token_stride) {
  for (int64_t column = 0; column < sequence.queries * shape.heads; ++column) {
    const int64_t token = column / shape.heads, head = column % shape.heads;
    const float* q = query.data + token * query.token_stride + head * query.head_stride;
    std::vector<double> weights, mixed(static_cast<size_t>(shape.value_width));
    double total = 0;
    for (int64_t key = 0; key <= sequence.position + token; ++key) {
      const float* k = keys.data + slot_of(sequence, key) * keys.row_stride;
      double score = 0;
      for (int64_t i = 0; i < shape.key_width; ++i) score += double{q[i]} * k[i];
      weights.push_back(score * shape.scale);
    }
    const double most = *std::max_element(weights.begin(), weights.end());
    for (double& w : weights) total += w = std::exp(w - most);
    for (size_t key = 0; key < weights.size(); ++key) {
      const float* v = values.data + slot_of(sequence, static_cast<int64_t>(key)) * values.row_stride;
      for (size_t i = 0; i < mixed.size(); ++i) mixed[i] += weights[key] / total * v[i];
    }
    float* to = out + token * out_token_stride + head * shape.value_width;
    for (size_t i = 0; i < mixed.size(); ++i) to[i] = static_cast<float>(mixed[i]);
  }
}

}  // namespace engram
#endif  // HWY_ONCE
