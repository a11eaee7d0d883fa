#include "engram/core/ngram_hasher.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/core/ngram_hasher.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>

// What one block of tokens needs to become row ids; shared by every target.
#ifndef ENGRAM_CORE_NGRAM_HASHER_BLOCK_
#define ENGRAM_CORE_NGRAM_HASHER_BLOCK_
namespace engram {

constexpr int kHashBlock = 128;    // tokens: mixes and their rows stay in the first-level cache
constexpr int kMaxOrders = 15;     // EngramLayout allows max_ngram_size <= 16
constexpr int64_t kMagicMin = 8192;  // smallest prime that the vector reduction is exact for

struct HashBlock {
  int tokens = 0;
  // [order][token]: the mix in [0, 2^63), and the same rounded to double.
  std::array<std::array<int64_t, kHashBlock>, kMaxOrders> mixes;
  std::array<std::array<double, kHashBlock>, kMaxOrders> rounded;
};

struct HashHeads {
  int orders = 0, heads = 0;  // heads per order
  const int64_t* primes;      // [orders * heads], as are the others
  const int64_t* offsets;
  const double* inverses;
};

}  // namespace engram
#endif

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Reduces `lanes` heads that begin at `first` for every token of the block.
//
// With prime >= kMagicMin the quotient mix / prime stays below 2^50, and the three roundings of its double estimate
// (mix, 1 / prime, their product) err by less than 3.01 * 2^-53 * 2^63 / prime < 0.4. Adding 1.5 * 2^52 rounds the
// estimate to an integer q in the low bits, at most 0.9 away from the true quotient, so mix - q * prime lies strictly
// between -prime and prime: one conditional addition is left. The integers wrap modulo 2^64, which keeps them exact.
void ReduceHeads(const HashBlock& block, const HashHeads& heads, int order, int first, int64_t* row_ids) {
  const hn::CappedTag<int64_t, 8> di;
  const hn::Rebind<double, decltype(di)> df;
  const int lanes = static_cast<int>(hn::Lanes(di));
  const int valid = std::min(lanes, heads.heads - first);
  const int stride = heads.orders * heads.heads;
  const int at = order * heads.heads + first;

  // Lanes without a head repeat the last one; their results are dropped.
  HWY_ALIGN int64_t primes[8], offsets[8], spill[8];
  HWY_ALIGN double inverses[8];
  for (int i = 0; i < lanes; ++i) {
    const int head = at + std::min(i, valid - 1);
    primes[i] = heads.primes[head];
    offsets[i] = heads.offsets[head];
    inverses[i] = heads.inverses[head];
  }
  const auto magic = hn::Set(df, 0x1.8p52);
  const auto prime = hn::Load(di, primes);
  const auto offset = hn::Load(di, offsets);
  const auto inverse = hn::Load(df, inverses);
  // q * prime = (bits - magic bits) * prime: the constant part is taken out of the loop.
  const auto correction = hn::Mul(hn::BitCast(di, magic), prime);

  const int64_t* mixes = block.mixes[static_cast<size_t>(order)].data();
  const double* rounded = block.rounded[static_cast<size_t>(order)].data();
  for (int t = 0; t < block.tokens; ++t) {
    const auto quotient = hn::BitCast(di, hn::MulAdd(hn::Set(df, rounded[t]), inverse, magic));
    const auto base = hn::Add(hn::Set(di, mixes[t]), correction);
    const auto remainder = hn::Sub(base, hn::Mul(quotient, prime));
    const auto positive = hn::Add(remainder, hn::And(hn::BroadcastSignBit(remainder), prime));
    const auto row_id = hn::Add(positive, offset);
    int64_t* out = row_ids + static_cast<int64_t>(t) * stride + at;
    if (HWY_LIKELY(valid == lanes)) {
      hn::StoreU(row_id, di, out);
    } else {
      hn::Store(row_id, di, spill);
      std::copy_n(spill, valid, out);
    }
  }
}

void ReduceBlock(const HashBlock& block, const HashHeads& heads, int64_t* row_ids) {
  const int lanes = static_cast<int>(hn::Lanes(hn::CappedTag<int64_t, 8>()));
  for (int order = 0; order < heads.orders; ++order) {
    for (int first = 0; first < heads.heads; first += lanes) ReduceHeads(block, heads, order, first, row_ids);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(ReduceBlock);

namespace {

// Small primes belong to toy tables, where the division's cost does not matter.
void reduce_block_by_division(const HashBlock& block, const HashHeads& heads, int64_t* row_ids) {
  for (int t = 0; t < block.tokens; ++t) {
    for (int head = 0; head < heads.orders * heads.heads; ++head) {
      const int64_t mix = block.mixes[static_cast<size_t>(head / heads.heads)][static_cast<size_t>(t)];
      *row_ids++ = mix % heads.primes[head] + heads.offsets[head];
    }
  }
}

// Walks a chunk and mixes n-grams. Keeps the last N-1 canonical ids and how many of them may still be looked at.
class Mixer {
 public:
  Mixer(std::span<const int32_t> map, std::span<const int64_t> multipliers, int pad_id,
        std::span<const int32_t> lookback)
      : map_(map), multipliers_(multipliers), size_(static_cast<int>(multipliers.size())) {
    for (int k = 0; k < size_; ++k) pad_products_[static_cast<size_t>(k)] = multipliers_[index(k)] * pad_id;
    ids_.fill(0);
    for (size_t i = 0; i < lookback.size(); ++i) {
      ids_[index(size_ - 1) - lookback.size() + i] = std::max(lookback[i], 0);
      reach_ = lookback[i] < 0 ? 0 : reach_ + 1;
    }
  }

  // `starts` are relative to the block and lie inside it.
  void mix(std::span<const int32_t> token_ids, std::span<const int32_t> starts, int32_t base, HashBlock* block) {
    block->tokens = static_cast<int>(token_ids.size());
    auto start = starts.begin();
    for (size_t t = 0; t < token_ids.size(); ++t) {
      for (; start != starts.end() && static_cast<size_t>(*start - base) == t; ++start) reach_ = 0;
      const int32_t raw = token_ids[t];
      ids_[t + index(size_ - 1)] = raw < 0 ? 0 : map_[index(raw)];
      reach_ = raw < 0 ? 0 : std::min(reach_ + 1, size_);
      // reach_: how many of id[t], id[t-1], ... stand before the first boundary; the rest reads as pad.
      const int32_t* newest = &ids_[t + index(size_ - 1)];
      if (reach_ == size_) [[likely]] {
        mix_token(t, block, [&](int k) { return multipliers_[index(k)] * newest[-k]; });
      } else {
        mix_token(t, block, [&](int k) {
          return k < reach_ ? multipliers_[index(k)] * newest[-k] : pad_products_[index(k)];
        });
      }
    }
    std::copy_n(ids_.begin() + static_cast<int64_t>(token_ids.size()), size_ - 1, ids_.begin());
  }

 private:
  static size_t index(int i) { return static_cast<size_t>(i); }

  template <typename Product>
  void mix_token(size_t t, HashBlock* block, Product product) const {
    int64_t mix = product(0);
    for (int k = 1; k < size_; ++k) {
      mix ^= product(k);
      block->mixes[index(k - 1)][t] = mix;
      block->rounded[index(k - 1)][t] = static_cast<double>(mix);
    }
  }

  std::span<const int32_t> map_;
  std::span<const int64_t> multipliers_;
  const int size_;  // N
  int reach_ = 0;
  std::array<int64_t, kMaxOrders + 1> pad_products_;
  std::array<int32_t, kMaxOrders + kHashBlock> ids_;  // N-1 ids before the block, then the block's own
};

}  // namespace

Result<NgramHasher> NgramHasher::create(const EngramLayout& layout, const TokenMap& map, int layer) {
  if (layer < 0 || layer >= layout.num_layers()) {
    return invalid_argument("layer: got {}, wanted 0 .. {}", layer, layout.num_layers() - 1);
  }
  if (map.compressed_vocab_size() != layout.config().compressed_vocab_size) {
    return invalid_argument("compressed_vocab_size: the tokenizer has {}, the layout wants {}",
                            map.compressed_vocab_size(), layout.config().compressed_vocab_size);
  }
  NgramHasher hasher;
  hasher.max_ngram_size_ = layout.config().max_ngram_size;
  hasher.n_heads_ = layout.config().n_heads;
  hasher.rows_per_token_ = layout.rows_per_token();
  hasher.pad_id_ = layout.compressed_pad_id();
  hasher.num_rows_ = layout.num_rows(layer);
  hasher.map_ = map;
  hasher.multipliers_.assign(layout.multipliers(layer).begin(), layout.multipliers(layer).end());
  hasher.primes_.assign(layout.primes(layer).begin(), layout.primes(layer).end());
  hasher.offsets_.assign(layout.offsets(layer).begin(), layout.offsets(layer).end());
  for (int64_t prime : hasher.primes_) {
    hasher.inverses_.push_back(1.0 / static_cast<double>(prime));
    hasher.has_small_primes_ |= prime < kMagicMin;
  }
  ENGRAM_CHECK(hasher.max_ngram_size_ - 1 <= kMaxOrders, "max_ngram_size={}", hasher.max_ngram_size_);
  return hasher;
}

Status NgramHasher::check(std::span<const int32_t> token_ids, std::span<const int32_t> starts,
                          std::span<const int32_t> lookback, std::span<int64_t> row_ids) const {
  const size_t length = token_ids.size();
  if (row_ids.size() != length * static_cast<size_t>(rows_per_token_)) {
    return invalid_argument("row_ids: got room for {} ids, wanted {} tokens x {}", row_ids.size(), length,
                            rows_per_token_);
  }
  if (lookback.size() >= static_cast<size_t>(max_ngram_size_)) {
    return invalid_argument("lookback: got {} ids, wanted at most {}", lookback.size(), max_ngram_size_ - 1);
  }
  for (int32_t id : lookback) {
    if (id < -1 || id >= map_.compressed_vocab_size()) {
      return invalid_argument("lookback: got canonical id {}, wanted -1 (masked) .. {}", id,
                              map_.compressed_vocab_size() - 1);
    }
  }
  for (size_t i = 0; i < starts.size(); ++i) {
    if (starts[i] < (i > 0 ? starts[i - 1] : 0) || static_cast<size_t>(starts[i]) >= length) {
      return invalid_argument("starts: got {} at place {}, wanted ascending indices of the {} tokens", starts[i], i,
                              length);
    }
  }
  // One comparison without a branch per id, so that the loop vectorises: ids from -1 on become 0, 1, ...
  const uint32_t limit = static_cast<uint32_t>(map_.vocab_size());
  bool bad = false;
  for (int32_t id : token_ids) bad |= static_cast<uint32_t>(id) + 1 > limit;
  if (!bad) return {};
  auto found = std::ranges::find_if(token_ids, [&](int32_t id) { return static_cast<uint32_t>(id) + 1 > limit; });
  return invalid_argument("token {}: got id {}, wanted -1 (masked) .. {}", found - token_ids.begin(), *found,
                          map_.vocab_size() - 1);
}

Status NgramHasher::hash(std::span<const int32_t> token_ids, std::span<const int32_t> starts,
                         std::span<const int32_t> lookback, std::span<int64_t> row_ids) const {
  ENGRAM_RETURN_IF_ERROR(check(token_ids, starts, lookback, row_ids));
  const HashHeads heads{max_ngram_size_ - 1, n_heads_, primes_.data(), offsets_.data(), inverses_.data()};
  Mixer mixer(map_.ids(), multipliers_, pad_id_, lookback);
  HashBlock block;
  for (size_t begin = 0; begin < token_ids.size(); begin += kHashBlock) {
    const size_t count = std::min<size_t>(kHashBlock, token_ids.size() - begin);
    const size_t inside = static_cast<size_t>(
        std::ranges::find_if(starts, [&](int32_t s) { return static_cast<size_t>(s) >= begin + count; }) -
        starts.begin());
    mixer.mix(token_ids.subspan(begin, count), starts.first(inside), static_cast<int32_t>(begin), &block);
    starts = starts.subspan(inside);
    int64_t* out = row_ids.data() + begin * static_cast<size_t>(rows_per_token_);
    if (has_small_primes_) {
      reduce_block_by_division(block, heads, out);
    } else {
      HWY_DYNAMIC_DISPATCH(ReduceBlock)(block, heads, out);
    }
  }
  return {};
}

Status NgramHasher::hash_ref(std::span<const int32_t> token_ids, std::span<const int32_t> starts,
                             std::span<const int32_t> lookback, std::span<int64_t> row_ids) const {
  ENGRAM_RETURN_IF_ERROR(check(token_ids, starts, lookback, row_ids));
  const int64_t before = static_cast<int64_t>(lookback.size());
  // The canonical id at a position of the chunk (negative: look-back), -1 when masked or before the sequence.
  auto canonical = [&](int64_t position) -> int64_t {
    if (position < -before) return -1;
    if (position < 0) return lookback[static_cast<size_t>(before + position)];
    const int32_t raw = token_ids[static_cast<size_t>(position)];
    return raw < 0 ? -1 : map_.ids()[static_cast<size_t>(raw)];
  };
  size_t out = 0;
  for (int64_t t = 0; t < static_cast<int64_t>(token_ids.size()); ++t) {
    for (int n = 2; n <= max_ngram_size_; ++n) {
      int64_t mix = 0;
      bool cut = false;  // sticky: what lies behind a boundary is pad
      for (int k = 0; k < n; ++k) {
        cut |= k > 0 && std::ranges::binary_search(starts, static_cast<int32_t>(t - k + 1));
        cut |= canonical(t - k) < 0;
        mix ^= (cut ? pad_id_ : canonical(t - k)) * multipliers_[static_cast<size_t>(k)];
      }
      for (int head = 0; head < n_heads_; ++head) {
        const size_t column = static_cast<size_t>((n - 2) * n_heads_ + head);
        row_ids[out++] = mix % primes_[column] + offsets_[column];
      }
    }
  }
  return {};
}

}  // namespace engram
#endif  // HWY_ONCE
