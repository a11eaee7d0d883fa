#include "engram/kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "engram/kernels/gemm.h"
#include "engram/kernels/gemm_bf16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/cross_entropy.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

#ifndef ENGRAM_KERNELS_CROSS_ENTROPY_ONCE
#define ENGRAM_KERNELS_CROSS_ENTROPY_ONCE
namespace engram {
namespace {

constexpr int64_t kPanel = 128;  // vocabulary entries per panel; a tile is [rows, kPanel]
constexpr float kLog2E = 1.44269504088896341f;

}  // namespace
}  // namespace engram
#endif

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// A tile of logits becomes exp(logit - reference) per row; columns past the valid ones become 0.
//
// A reference need not be the row's maximum, only near it: it starts far below and moves up to a panel's maximum when a
// logit exceeds it by more than 60 bits, which rarely happens after a row's first panel.
//   references [rows]          running, kept between panels
//   sums       [rows, lanes]   running sums of exponentials relative to the reference, per lane
//   used       [rows]          out: this panel's references
void ExpPanel(float* tile, int64_t rows, int64_t columns, float* references, float* sums, float* used) {
  const FloatTag d;
  const Floats log2e = splat(kLog2E);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = tile + r * kPanel;
    std::fill(row + columns, row + kPanel, -std::numeric_limits<float>::infinity());
    Floats most = hn::LoadU(d, row), total = hn::LoadU(d, sums + r * lanes());
    for (int64_t c = lanes(); c < kPanel; c += lanes()) most = hn::Max(most, hn::LoadU(d, row + c));
    if (HWY_UNLIKELY(!hn::AllFalse(d, hn::Gt(most, splat(references[r] + 60 / kLog2E))))) {
      const float old = references[r];
      references[r] = hn::GetLane(hn::MaxOfLanes(d, most));
      total = hn::Mul(total, fast_exp2(splat((old - references[r]) * kLog2E)));
    }
    const Floats reference = splat(references[r]);  // subtracted before scaling: exact for logits near it
    for (int64_t c = 0; c < kPanel; c += lanes()) {
      const Floats e = fast_exp2(hn::Mul(hn::Sub(hn::LoadU(d, row + c), reference), log2e));
      total = hn::Add(total, e);
      hn::StoreU(e, d, row + c);
    }
    std::fill(row + columns, row + kPanel, 0.0f);
    hn::StoreU(total, d, sums + r * lanes());
    used[r] = references[r];
  }
}

// sums [rows, lanes] to row_sums [rows].
void AddLanes(const float* sums, int64_t rows, float* row_sums) {
  for (int64_t r = 0; r < rows; ++r) row_sums[r] = sum(hn::LoadU(FloatTag(), sums + r * lanes()));
}

// references become what turns a panel's exponentials into scaled probabilities: exp(reference - log_sum) * scale.
void PanelFactors(float* references, const float* log_sums, const float* scales, int64_t rows) {
  for (int64_t r = 0; r < rows; r += lanes()) {
    const int64_t n = valid_lanes(r, rows);
    const Floats factor = fast_exp(hn::Sub(load(references + r, n), load(log_sums + r, n)));
    store(hn::Mul(factor, load(scales + r, n)), references + r, n);
  }
}

void ScalePanel(float* tile, int64_t rows, const float* factors) {
  const FloatTag d;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < kPanel; c += lanes()) {
      hn::StoreU(hn::Mul(hn::LoadU(d, tile + r * kPanel + c), splat(factors[r])), d, tile + r * kPanel + c);
    }
  }
}

// Two vectors of floats to words: low halves from one, high halves from the other.
HWY_INLINE Words words(Floats low, Floats high) { return hn::Or(hn::ShiftLeft<16>(bf16_words(high)), bf16_words(low)); }

// Pairs of rows of [rows, columns] to words [ceil(rows / 2), columns]; a missing last row reads as zeros.
void PairRows(const float* in, int64_t rows, int64_t columns, int64_t in_stride, uint32_t* out, int64_t out_stride) {
  const hn::RebindToFloat<hn::ScalableTag<uint32_t>> d;
  for (int64_t r = 0; r < rows; r += 2) {
    for (int64_t c = 0; c < columns; c += lanes()) {
      const int64_t n = valid_lanes(c, columns);
      const Floats low = load(in + r * in_stride + c, n);
      const Floats high = r + 1 < rows ? load(in + (r + 1) * in_stride + c, n) : splat(0);
      store(hn::BitCast(d, words(low, high)), reinterpret_cast<float*>(out + r / 2 * out_stride + c), n);
    }
  }
}

// Column c of a panel row pairs with column c + 16, within each 32: no lane ever moves.
// [rows, kPanel] -> words [rows, kPanel / 2].
void PairColumns(const float* tile, int64_t rows, uint32_t* out) {
  const hn::ScalableTag<uint32_t> du;
  const FloatTag d;
  for (int64_t at = 0; at < rows * kPanel; at += 32) {
    for (int64_t c = 0; c < 16; c += lanes()) {
      hn::StoreU(words(hn::LoadU(d, tile + at + c), hn::LoadU(d, tile + at + 16 + c)), du, out + at / 2 + c);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {
namespace {

HWY_EXPORT(ExpPanel);
HWY_EXPORT(AddLanes);
HWY_EXPORT(PanelFactors);
HWY_EXPORT(ScalePanel);
HWY_EXPORT(PairRows);
HWY_EXPORT(PairColumns);

constexpr int64_t kChunkRows = 64;  // whole tiles of gemm_bf16, as rows and as words
constexpr int64_t kMostLanes = 16;
constexpr float kFarBelow = -1e30f;  // a reference before the first panel
static_assert(kChunkRows % 2 == 0);

void pair_rows(const float* in, int64_t rows, int64_t columns, int64_t in_stride, uint32_t* out, int64_t out_stride) {
  HWY_DYNAMIC_DISPATCH(PairRows)(in, rows, columns, in_stride, out, out_stride);
}

// One chunk of tokens, shared by all tasks.
struct Chunk {
  int64_t begin = 0;
  int64_t rows = 0;
  const float* hidden = nullptr;         // [rows, dim]
  const int64_t* targets = nullptr;      // [rows]
  std::vector<uint32_t> hidden_columns;  // [rows, ceil(dim / 2)]: pairs along dim
  std::vector<uint32_t> hidden_rows;     // [ceil(rows / 2), dim]: pairs along rows
  std::vector<float> target_logits;      // [rows], written by the task that owns the target
  std::vector<float> scales;             // [rows], 0 for an ignored token
};

// One task's part of the vocabulary, its packed weights and its panels of the current chunk.
class Share {
 public:
  Share(const CrossEntropyArguments& arguments, int64_t panel_begin, int64_t panel_end);

  // Phase 1: exponentials of this share's logits relative to each row's reference, and their sums.
  void exponentials(Chunk& chunk);
  // Phase 2: gradients of this share's logits, into dweight and this share's dhidden().
  void gradients(const Chunk& chunk, const float* log_sums);

  const float* references() const { return references_.data(); }
  const float* sums() const { return sums_.data(); }
  const float* dhidden() const { return dhidden_.data(); }

 private:
  int64_t first_entry(int64_t p) const { return (panel_begin_ + p) * kPanel; }
  int64_t columns(int64_t p) const { return std::min(kPanel, arguments_.vocabulary - first_entry(p)); }
  float* tile(int64_t p) { return tiles_.data() + p * kChunkRows * kPanel; }
  void pack_fp32(int64_t p);
  void pack_bf16(int64_t p);
  void multiply_fp32(const Chunk& chunk, int64_t p, bool add);
  void multiply_bf16(const Chunk& chunk, int64_t p, bool add);

  const CrossEntropyArguments& arguments_;
  int64_t panel_begin_, panels_, words_;  // words_: of one row of hidden
  std::vector<float> packed_;             // fp32: [panels, dim, kPanel]
  std::vector<uint32_t> packed_columns_;  // bf16: [panels, words, kPanel], pairs along dim
  std::vector<uint32_t> packed_entries_;  // bf16: [panels, kPanel / 2, dim], pairs of entries as PairColumns has them
  std::vector<uint32_t> by_column_, by_row_;
  std::vector<float> tiles_;             // [panels, kChunkRows, kPanel]
  std::vector<float> panel_references_;  // [panels, kChunkRows]
  std::vector<float> references_, sums_, lane_sums_, dhidden_;
};

Share::Share(const CrossEntropyArguments& arguments, int64_t panel_begin, int64_t panel_end)
    : arguments_(arguments),
      panel_begin_(panel_begin),
      panels_(panel_end - panel_begin),
      words_((arguments.dim + 1) / 2) {
  auto sized = [](auto& vector, int64_t size) { vector.resize(static_cast<size_t>(size)); };
  const int64_t dim = arguments.dim;
  sized(tiles_, panels_ * kChunkRows * kPanel);
  sized(panel_references_, panels_ * kChunkRows);
  sized(references_, kChunkRows);
  sized(sums_, kChunkRows);
  sized(lane_sums_, kChunkRows * kMostLanes);
  sized(dhidden_, kChunkRows * dim);
  if (arguments.bf16) {
    sized(packed_columns_, panels_ * words_ * kPanel);
    sized(packed_entries_, panels_ * kPanel / 2 * dim);
    sized(by_column_, kChunkRows * kPanel / 2);
    sized(by_row_, kChunkRows / 2 * kPanel);
    for (int64_t p = 0; p < panels_; ++p) pack_bf16(p);
  } else {
    sized(packed_, panels_ * dim * kPanel);
    for (int64_t p = 0; p < panels_; ++p) pack_fp32(p);
  }
}

void Share::pack_fp32(int64_t p) {
  const int64_t dim = arguments_.dim;
  transpose(arguments_.weight + first_entry(p) * dim, columns(p), dim, packed_.data() + p * dim * kPanel, kPanel);
}

void Share::pack_bf16(int64_t p) {
  const int64_t dim = arguments_.dim;
  std::vector<float> entries(static_cast<size_t>(kPanel * dim)), across(static_cast<size_t>(dim * kPanel));
  const float* from = arguments_.weight + first_entry(p) * dim;
  std::copy_n(from, columns(p) * dim, entries.data());
  transpose(entries.data(), kPanel, dim, across.data(), kPanel);
  pair_rows(across.data(), dim, kPanel, kPanel, packed_columns_.data() + p * words_ * kPanel, kPanel);
  for (int64_t word = 0; word < kPanel / 2; ++word) {
    const int64_t entry = word / 16 * 32 + word % 16;
    pair_rows(entries.data() + entry * dim, 2, dim, 16 * dim, packed_entries_.data() + (p * kPanel / 2 + word) * dim,
              dim);
  }
}

void Share::exponentials(Chunk& chunk) {
  const int64_t dim = arguments_.dim, rows = chunk.rows;
  std::fill(references_.begin(), references_.end(), kFarBelow);
  std::fill(lane_sums_.begin(), lane_sums_.end(), 0.0f);
  for (int64_t p = 0; p < panels_; ++p) {
    if (arguments_.bf16) {
      gemm_bf16(rows, kPanel, words_, {chunk.hidden_columns.data(), words_, 1},
                packed_columns_.data() + p * words_ * kPanel, kPanel, tile(p), kPanel, false);
    } else {
      gemm(rows, columns(p), dim, {chunk.hidden, dim, 1}, packed_.data() + p * dim * kPanel, kPanel, tile(p), kPanel,
           false);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t column = chunk.targets[r] - first_entry(p);
      if (column >= 0 && column < columns(p)) {
        chunk.target_logits[static_cast<size_t>(r)] = tile(p)[r * kPanel + column];
      }
    }
    HWY_DYNAMIC_DISPATCH(ExpPanel)
    (tile(p), rows, columns(p), references_.data(), lane_sums_.data(), panel_references_.data() + p * kChunkRows);
  }
  HWY_DYNAMIC_DISPATCH(AddLanes)(lane_sums_.data(), rows, sums_.data());
}

void Share::gradients(const Chunk& chunk, const float* log_sums) {
  const int64_t rows = chunk.rows;
  std::fill(dhidden_.begin(), dhidden_.end(), 0.0f);
  for (int64_t p = 0; p < panels_; ++p) {
    float* factors = panel_references_.data() + p * kChunkRows;
    HWY_DYNAMIC_DISPATCH(PanelFactors)(factors, log_sums, chunk.scales.data(), rows);
    HWY_DYNAMIC_DISPATCH(ScalePanel)(tile(p), rows, factors);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t column = chunk.targets[r] - first_entry(p);
      if (column >= 0 && column < columns(p)) tile(p)[r * kPanel + column] -= chunk.scales[static_cast<size_t>(r)];
    }
    arguments_.bf16 ? multiply_bf16(chunk, p, chunk.begin > 0) : multiply_fp32(chunk, p, chunk.begin > 0);
  }
}

void Share::multiply_fp32(const Chunk& chunk, int64_t p, bool add) {
  const int64_t dim = arguments_.dim, rows = chunk.rows;
  gemm(rows, dim, columns(p), {tile(p), kPanel, 1}, arguments_.weight + first_entry(p) * dim, dim, dhidden_.data(), dim,
       true);
  if (!arguments_.dweight) return;
  gemm(columns(p), dim, rows, {tile(p), 1, kPanel}, chunk.hidden, dim, arguments_.dweight + first_entry(p) * dim, dim,
       add);
}

void Share::multiply_bf16(const Chunk& chunk, int64_t p, bool add) {
  const int64_t dim = arguments_.dim, rows = chunk.rows;
  HWY_DYNAMIC_DISPATCH(PairColumns)(tile(p), rows, by_column_.data());
  gemm_bf16(rows, dim, kPanel / 2, {by_column_.data(), kPanel / 2, 1}, packed_entries_.data() + p * kPanel / 2 * dim,
            dim, dhidden_.data(), dim, true);
  if (!arguments_.dweight) return;
  pair_rows(tile(p), rows, kPanel, kPanel, by_row_.data(), kPanel);
  gemm_bf16(columns(p), dim, (rows + 1) / 2, {by_row_.data(), 1, kPanel}, chunk.hidden_rows.data(), dim,
            arguments_.dweight + first_entry(p) * dim, dim, add);
}

Chunk make_chunk(const CrossEntropyArguments& arguments, int64_t begin) {
  Chunk chunk;
  const int64_t dim = arguments.dim, words = (dim + 1) / 2;
  chunk.begin = begin;
  chunk.rows = std::min(kChunkRows, arguments.tokens - begin);
  chunk.hidden = arguments.hidden + begin * dim;
  chunk.targets = arguments.targets + begin;
  const auto rows = static_cast<size_t>(chunk.rows);
  chunk.target_logits.assign(rows, 0.0f);
  chunk.scales.resize(rows);
  for (size_t r = 0; r < rows; ++r) chunk.scales[r] = chunk.targets[r] < 0 ? 0.0f : arguments.gradient_scale;
  if (arguments.bf16) {
    chunk.hidden_columns.resize(rows * static_cast<size_t>(words));
    chunk.hidden_rows.resize((rows + 1) / 2 * static_cast<size_t>(dim));
    for (int64_t r = 0; r < chunk.rows; ++r) {
      for (int64_t word = 0; word < words; ++word) {
        const float* pair = chunk.hidden + r * dim + 2 * word;
        chunk.hidden_columns[static_cast<size_t>(r * words + word)] =
            bf16_word(pair[0], 2 * word + 1 < dim ? pair[1] : 0);
      }
    }
    pair_rows(chunk.hidden, chunk.rows, dim, dim, chunk.hidden_rows.data(), dim);
  }
  return chunk;
}

// log(sum over the vocabulary of exp(logit)) of row r, from all shares.
double log_sum(const std::vector<std::unique_ptr<Share>>& shares, int64_t r) {
  double most = -std::numeric_limits<double>::infinity(), total = 0;
  for (const auto& share : shares) most = std::max(most, double{share->references()[r]});
  for (const auto& share : shares) total += share->sums()[r] * std::exp(share->references()[r] - most);
  return most + std::log(total);
}

}  // namespace

bool bf16_cross_entropy_supported() { return bf16_gemm_supported(); }

double cross_entropy(const CrossEntropyArguments& arguments, int64_t tasks, const ParallelTasks& parallel) {
  const int64_t panels = (arguments.vocabulary + kPanel - 1) / kPanel, dim = arguments.dim;
  tasks = std::clamp<int64_t>(tasks, 1, panels);
  std::vector<std::unique_ptr<Share>> shares(static_cast<size_t>(tasks));
  parallel(tasks, [&](int64_t i) {
    shares[static_cast<size_t>(i)] = std::make_unique<Share>(arguments, panels * i / tasks, panels * (i + 1) / tasks);
  });
  double loss = 0;
  std::vector<float> log_sums(kChunkRows);
  Chunk previous;  // its exponentials are done, its gradients are not
  auto finish_previous = [&] {
    float* dhidden = arguments.dhidden + previous.begin * dim;
    std::copy_n(shares[0]->dhidden(), previous.rows * dim, dhidden);
    for (size_t s = 1; s < shares.size(); ++s) {
      for (int64_t at = 0; at < previous.rows * dim; ++at) dhidden[at] += shares[s]->dhidden()[at];
    }
  };
  for (int64_t begin = 0; begin < arguments.tokens; begin += kChunkRows) {
    // One meeting of the tasks per chunk: gradients of the chunk before, then this one's exponentials.
    Chunk chunk = make_chunk(arguments, begin);
    const bool pending = arguments.dhidden && begin > 0;
    parallel(tasks, [&](int64_t i) {
      Share& share = *shares[static_cast<size_t>(i)];
      if (pending) share.gradients(previous, log_sums.data());
      share.exponentials(chunk);
    });
    if (pending) finish_previous();
    for (int64_t r = 0; r < chunk.rows; ++r) {
      const double total = log_sum(shares, r);
      log_sums[static_cast<size_t>(r)] = static_cast<float>(total);
      if (chunk.targets[r] >= 0) loss += total - chunk.target_logits[static_cast<size_t>(r)];
    }
    previous = std::move(chunk);
  }
  if (arguments.dhidden && arguments.tokens > 0) {
    parallel(tasks, [&](int64_t i) { shares[static_cast<size_t>(i)]->gradients(previous, log_sums.data()); });
    finish_previous();
  }
  if (arguments.tokens == 0 && arguments.dweight) std::fill_n(arguments.dweight, arguments.vocabulary * dim, 0.0f);
  return loss;
}

double cross_entropy_plain(const CrossEntropyArguments& arguments) {
  const int64_t dim = arguments.dim, vocabulary = arguments.vocabulary;
  std::vector<double> logits(static_cast<size_t>(vocabulary)), dweight(static_cast<size_t>(vocabulary * dim));
  double loss = 0;
  for (int64_t token = 0; token < arguments.tokens; ++token) {
    const float* hidden = arguments.hidden + token * dim;
    for (int64_t v = 0; v < vocabulary; ++v) {
      double logit = 0;
      for (int64_t c = 0; c < dim; ++c) logit += double{hidden[c]} * arguments.weight[v * dim + c];
      logits[static_cast<size_t>(v)] = logit;
    }
    const double most = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (double logit : logits) total += std::exp(logit - most);
    const int64_t target = arguments.targets[token];
    if (target >= 0) loss += most + std::log(total) - logits[static_cast<size_t>(target)];
    if (!arguments.dhidden) continue;
    std::vector<double> dhidden(static_cast<size_t>(dim));
    for (int64_t v = 0; v < vocabulary && target >= 0; ++v) {
      const double probability = std::exp(logits[static_cast<size_t>(v)] - most) / total;
      const double gradient = (probability - (v == target)) * arguments.gradient_scale;
      for (int64_t c = 0; c < dim; ++c) {
        dhidden[static_cast<size_t>(c)] += gradient * arguments.weight[v * dim + c];
        dweight[static_cast<size_t>(v * dim + c)] += gradient * hidden[c];
      }
    }
    for (int64_t c = 0; c < dim; ++c) {
      arguments.dhidden[token * dim + c] = static_cast<float>(dhidden[static_cast<size_t>(c)]);
    }
  }
  for (int64_t at = 0; arguments.dweight && at < vocabulary * dim; ++at) {
    arguments.dweight[at] = static_cast<float>(dweight[static_cast<size_t>(at)]);
  }
  return loss;
}

}  // namespace engram
#endif  // HWY_ONCE
