#include "engram/kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engram/kernels/gemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/attention.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/softmax-inl.h"

#ifndef ENGRAM_KERNELS_ATTENTION_ONCE
#define ENGRAM_KERNELS_ATTENTION_ONCE
namespace engram {
namespace {

constexpr int64_t kQueries = 64;  // queries of one tile, across the vectors
constexpr int64_t kKeys = 256;    // keys of one tile, down the rows: 64 KiB of scores

// A tile of scores [keys, kQueries]. Row r is key `key + r`, column c query `query + c`.
struct Tile {
  int64_t key = 0, keys = 0, query = 0;
  const int32_t* first_key = nullptr;  // [kQueries] of this tile's queries, or null
  int64_t most_first = 0;              // the largest of them

  // Rows [0, begin) and [end, keys) hold scores that some query must not see.
  int64_t plain_begin() const { return std::clamp<int64_t>(most_first - key, 0, keys); }
  int64_t plain_end() const { return std::clamp<int64_t>(query + 1 - key, plain_begin(), keys); }
};

}  // namespace
}  // namespace engram
#endif

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// Calls visit(row, mask of the queries at `column` that see the key) for the rows that are not plain.
template <typename Visit>
HWY_INLINE void masked_rows(const Tile& tile, int64_t column, const Visit& visit) {
  const hn::RebindToSigned<FloatTag> di;
  const auto query = hn::Iota(di, static_cast<int32_t>(tile.query + column));
  const auto first = tile.first_key ? hn::LoadU(di, tile.first_key + column) : hn::Zero(di);
  const auto rows = [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t r = begin; r < end; ++r) {
      const auto key = hn::Set(di, static_cast<int32_t>(tile.key + r));
      visit(r, hn::RebindMask(FloatTag(), hn::Not(hn::Or(hn::Gt(key, query), hn::Gt(first, key)))));
    }
  };
  rows(0, tile.plain_begin());
  rows(tile.plain_end(), tile.keys);
}

// One step of the running softmax: scores become exp(score - maximum); maxima and sums [kQueries] are updated, and
// factors [kQueries] says what earlier sums must be multiplied by.
void SoftmaxTile(const Tile& tile, float* scores, float* maxima, float* sums, float* factors) {
  for (int64_t c = 0; c < kQueries; c += lanes()) {
    softmax_step(
        scores + c, kQueries, tile.plain_begin(), tile.plain_end(),
        [&](const auto& visit) HWY_ATTR { masked_rows(tile, c, visit); }, maxima + c, sums + c, factors + c);
  }
}

// scores become probabilities exp(score - log_sum); dprobability becomes dscore = p * (dprobability - delta).
void GradientTile(const Tile& tile, const float* log_sums, const float* deltas, float* scores, float* dprobability) {
  const FloatTag d;
  for (int64_t c = 0; c < kQueries; c += lanes()) {
    const Floats log_sum = hn::LoadU(d, log_sums + c), delta = hn::LoadU(d, deltas + c);
    const auto finish = [&](int64_t r, Floats p) HWY_ATTR {
      const int64_t at = r * kQueries + c;
      hn::StoreU(p, d, scores + at);
      hn::StoreU(hn::Mul(p, hn::Sub(hn::LoadU(d, dprobability + at), delta)), d, dprobability + at);
    };
    const auto probability = [&](int64_t r) HWY_ATTR {
      return fast_exp(hn::Sub(hn::LoadU(d, scores + r * kQueries + c), log_sum));
    };
    for (int64_t r = tile.plain_begin(); r < tile.plain_end(); ++r) finish(r, probability(r));
    masked_rows(tile, c, [&](int64_t r, auto mask) HWY_ATTR { finish(r, hn::IfThenElseZero(mask, probability(r))); });
  }
}

// rows [n, kQueries] *= factors [kQueries].
void ScaleColumns(float* rows, int64_t n, const float* factors) { scale_columns(rows, n, kQueries, factors); }

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {
namespace {

HWY_EXPORT(SoftmaxTile);
HWY_EXPORT(GradientTile);
HWY_EXPORT(ScaleColumns);

// Turns the pairs of one row in place; sign -1 turns back.
void rotate(const AttentionShape& shape, const AttentionInput& input, int64_t token, float sign, float* row) {
  const int64_t half = shape.rope / 2, stride = shape.interleaved ? 2 : 1, partner = shape.interleaved ? 1 : half;
  const float *cos = input.cos + token * half, *sin = input.sin + token * half;
  for (int64_t p = 0; p < half; ++p) {
    float &a = row[p * stride], &b = row[p * stride + partner];
    const float turned = a * cos[p] - b * sign * sin[p];
    b = b * cos[p] + a * sign * sin[p];
    a = turned;
  }
}

const float* head_row(const HeadRows& rows, int64_t token, int64_t head) {
  return rows.data + token * rows.row_stride + head * rows.head_stride;
}

// The rotated keys [T, width] and the values [T, value] of one key-value head.
struct PackedKeys {
  PackedKeys(const AttentionShape& shape, const AttentionInput& input, int64_t kv_head)
      : key(static_cast<size_t>(shape.length * shape.width())), value(static_cast<size_t>(shape.length * shape.value)) {
    for (int64_t t = 0; t < shape.length; ++t) {
      float* row = key.data() + t * shape.width();
      std::copy_n(head_row(input.key, t, kv_head), shape.nope, row);
      std::copy_n(head_row(input.key_rope, t, kv_head), shape.rope, row + shape.nope);
      rotate(shape, input, t, 1.0f, row + shape.nope);
      std::copy_n(head_row(input.value, t, kv_head), shape.value, value.data() + t * shape.value);
    }
  }
  std::vector<float> key, value;
};

// The rotated and scaled queries [kQueries, width] of one tile and their transpose. Rows past the end are zero.
void pack_queries(const AttentionShape& shape, const AttentionInput& input, int64_t head, int64_t begin, int64_t count,
                  float* rows, float* transposed) {
  const int64_t width = shape.width();
  std::fill(rows + count * width, rows + kQueries * width, 0.0f);
  for (int64_t q = 0; q < count; ++q) {
    float* row = rows + q * width;
    std::copy_n(head_row(input.query, begin + q, head), width, row);
    rotate(shape, input, begin + q, 1.0f, row + shape.nope);
    for (int64_t c = 0; c < width; ++c) row[c] *= shape.scale;
  }
  transpose(rows, kQueries, width, transposed, kQueries);
}

// The first keys of a tile's queries, padded past the end, and the range they span.
struct FirstKeys {
  FirstKeys(const AttentionInput& input, int64_t begin, int64_t count) {
    if (input.first_key == nullptr) return;
    std::fill_n(first, kQueries, input.first_key[begin + count - 1]);
    std::copy_n(input.first_key + begin, count, first);
    least = *std::min_element(first, first + kQueries);
    most = *std::max_element(first, first + kQueries);
    given = first;
  }
  int32_t first[kQueries];
  int64_t least = 0, most = 0;
  const int32_t* given = nullptr;
};

// Calls work(tile, is_first) for the key tiles that the queries [begin, begin + count) see.
template <typename Work>
void for_each_tile(const AttentionInput& input, int64_t begin, int64_t count, const Work& work) {
  const FirstKeys first(input, begin, count);
  for (int64_t key = first.least; key < begin + count; key += kKeys) {
    Tile tile;
    tile.key = key;
    tile.keys = std::min(kKeys, begin + count - key);
    tile.query = begin;
    tile.first_key = first.given;
    tile.most_first = first.most;
    work(tile, key == first.least);
  }
}

// scores [keys, kQueries] = key rows of the tile times the packed queries.
void score_tile(const AttentionShape& shape, const Tile& tile, const float* key, const float* query_transposed,
                float* scores) {
  const int64_t width = shape.width();
  gemm(tile.keys, kQueries, width, {key + tile.key * width, width, 1}, query_transposed, kQueries, scores, kQueries,
       /*accumulate=*/false);
}

// What the backward pass of one key-value head works in.
struct BackwardScratch {
  explicit BackwardScratch(const AttentionShape& s)
      : query(size(kQueries * s.width())),
        query_transposed(query.size()),
        dquery(query.size()),
        dout(size(kQueries * s.value)),
        dout_transposed(dout.size()),
        scores(size(kKeys * kQueries)),
        dscores(scores.size()),
        dkey(size(s.length * s.width())),
        dvalue(size(s.length * s.value)) {}
  static size_t size(int64_t n) { return static_cast<size_t>(n); }
  std::vector<float> query, query_transposed, dquery, dout, dout_transposed, scores, dscores, dkey, dvalue;
};

void backward_queries(const AttentionShape& shape, const AttentionInput& input, const PackedKeys& packed, int64_t head,
                      int64_t begin, const float* out, const float* log_sum, const float* dout,
                      const AttentionGradients& gradients, BackwardScratch& s) {
  const int64_t width = shape.width(), value = shape.value, row = shape.heads * value;
  const int64_t count = std::min(kQueries, shape.length - begin);
  pack_queries(shape, input, head, begin, count, s.query.data(), s.query_transposed.data());
  float log_sums[kQueries] = {}, deltas[kQueries] = {};  // past the end dout is zero, and so is every product
  std::fill(s.dout.begin(), s.dout.end(), 0.0f);
  for (int64_t q = 0; q < count; ++q) {
    const int64_t at = (begin + q) * row + head * value;
    std::copy_n(dout + at, value, s.dout.data() + q * value);
    for (int64_t c = 0; c < value; ++c) deltas[q] += dout[at + c] * out[at + c];
    log_sums[q] = log_sum[head * shape.length + begin + q];
  }
  transpose(s.dout.data(), kQueries, value, s.dout_transposed.data(), kQueries);

  for_each_tile(input, begin, count, [&](const Tile& tile, bool is_first) {
    const float* key = packed.key.data() + tile.key * width;
    score_tile(shape, tile, packed.key.data(), s.query_transposed.data(), s.scores.data());
    gemm(tile.keys, kQueries, value, {packed.value.data() + tile.key * value, value, 1}, s.dout_transposed.data(),
         kQueries, s.dscores.data(), kQueries, /*accumulate=*/false);
    HWY_DYNAMIC_DISPATCH(GradientTile)(tile, log_sums, deltas, s.scores.data(), s.dscores.data());
    gemm(tile.keys, value, kQueries, {s.scores.data(), kQueries, 1}, s.dout.data(), value,
         s.dvalue.data() + tile.key * value, value, /*accumulate=*/true);
    gemm(tile.keys, width, kQueries, {s.dscores.data(), kQueries, 1}, s.query.data(), width,
         s.dkey.data() + tile.key * width, width, /*accumulate=*/true);
    gemm(width, kQueries, tile.keys, {key, 1, width}, s.dscores.data(), kQueries, s.dquery.data(), kQueries,
         /*accumulate=*/!is_first);
  });

  for (int64_t q = 0; q < count; ++q) {
    float* to = gradients.query + (begin + q) * shape.heads * width + head * width;
    for (int64_t c = 0; c < width; ++c) to[c] = s.dquery[static_cast<size_t>(c * kQueries + q)] * shape.scale;
    rotate(shape, input, begin + q, -1.0f, to + shape.nope);
  }
}

}  // namespace

void attention_forward(const AttentionShape& shape, const AttentionInput& input, int64_t kv_head, float* out,
                       float* log_sum) {
  const int64_t value = shape.value, group = shape.heads / shape.kv_heads;
  const PackedKeys packed(shape, input, kv_head);
  std::vector<float> query(static_cast<size_t>(kQueries * shape.width())), query_transposed(query.size());
  std::vector<float> scores(kKeys * kQueries), sum(static_cast<size_t>(value * kQueries));
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int64_t begin = 0; begin < shape.length; begin += kQueries) {
      const int64_t count = std::min(kQueries, shape.length - begin);
      pack_queries(shape, input, head, begin, count, query.data(), query_transposed.data());
      float maxima[kQueries], sums[kQueries] = {}, factors[kQueries];
      std::fill_n(maxima, kQueries, kLowestScore);
      for_each_tile(input, begin, count, [&](const Tile& tile, bool is_first) {
        score_tile(shape, tile, packed.key.data(), query_transposed.data(), scores.data());
        HWY_DYNAMIC_DISPATCH(SoftmaxTile)(tile, scores.data(), maxima, sums, factors);
        if (!is_first) HWY_DYNAMIC_DISPATCH(ScaleColumns)(sum.data(), value, factors);
        gemm(value, kQueries, tile.keys, {packed.value.data() + tile.key * value, 1, value}, scores.data(), kQueries,
             sum.data(), kQueries, /*accumulate=*/!is_first);
      });
      for (int64_t q = 0; q < count; ++q) {
        float* to = out + (begin + q) * shape.heads * value + head * value;
        const float inverse = 1.0f / sums[q];
        for (int64_t c = 0; c < value; ++c) to[c] = sum[static_cast<size_t>(c * kQueries + q)] * inverse;
        log_sum[head * shape.length + begin + q] = maxima[q] + std::log(sums[q]);
      }
    }
  }
}

void attention_backward(const AttentionShape& shape, const AttentionInput& input, int64_t kv_head, const float* out,
                        const float* log_sum, const float* dout, const AttentionGradients& gradients) {
  const int64_t group = shape.heads / shape.kv_heads, width = shape.width();
  const PackedKeys packed(shape, input, kv_head);
  BackwardScratch scratch(shape);
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int64_t begin = 0; begin < shape.length; begin += kQueries) {
      backward_queries(shape, input, packed, head, begin, out, log_sum, dout, gradients, scratch);
    }
  }
  for (int64_t t = 0; t < shape.length; ++t) {
    float* dkey = scratch.dkey.data() + t * width;
    rotate(shape, input, t, -1.0f, dkey + shape.nope);
    float* to = gradients.key_value + (t * shape.kv_heads + kv_head) * (shape.nope + shape.value);
    std::copy_n(dkey, shape.nope, to);
    std::copy_n(scratch.dvalue.data() + t * shape.value, shape.value, to + shape.nope);
    std::copy_n(dkey + shape.nope, shape.rope, gradients.key_rope + t * shape.rope);
  }
}

void attention_plain(const AttentionShape& shape, const AttentionInput& input, float* out) {
  const auto rotated = [&](const HeadRows& rows, int64_t head, int64_t skip) {
    std::vector<float> all(static_cast<size_t>(shape.length * shape.rope));
    for (int64_t t = 0; t < shape.length; ++t) {
      std::copy_n(head_row(rows, t, head) + skip, shape.rope, all.data() + t * shape.rope);
      rotate(shape, input, t, 1.0f, all.data() + t * shape.rope);
    }
    return all;
  };
  for (int64_t head = 0; head < shape.heads; ++head) {
    const int64_t kv_head = head / (shape.heads / shape.kv_heads);
    const std::vector<float> query = rotated(input.query, head, shape.nope), key = rotated(input.key_rope, kv_head, 0);
    for (int64_t q = 0; q < shape.length; ++q) {
      const int64_t first = input.first_key ? input.first_key[q] : 0;
      std::vector<double> weight;
      for (int64_t k = first; k <= q; ++k) {
        double score = 0;
        const float *a = head_row(input.query, q, head), *b = head_row(input.key, k, kv_head);
        for (int64_t c = 0; c < shape.nope; ++c) score += double{a[c]} * b[c];
        for (int64_t c = 0; c < shape.rope; ++c) {
          score +=
              double{query[static_cast<size_t>(q * shape.rope + c)]} * key[static_cast<size_t>(k * shape.rope + c)];
        }
        weight.push_back(score * double{shape.scale});
      }
      const double most = *std::max_element(weight.begin(), weight.end());
      double total = 0;
      for (double& w : weight) total += w = std::exp(w - most);
      for (int64_t c = 0; c < shape.value; ++c) {
        double sum = 0;
        for (size_t i = 0; i < weight.size(); ++i) {
          sum += weight[i] * head_row(input.value, first + static_cast<int64_t>(i), kv_head)[c];
        }
        out[q * shape.heads * shape.value + head * shape.value + c] = static_cast<float>(sum / total);
      }
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
