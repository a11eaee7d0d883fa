#include "engram/hash/ngram_hasher.h"

// From ids to row ids, in blocks of 128 tokens that stay in the first-level cache:
//   1. find_cut_tokens  notes the tokens near a boundary
//   2. MixBlock      the mixes of all orders, a vector of tokens at a time, as if no boundary were near
//   3. mix_cut_tokens  computes the mixes of cut tokens again, with pad behind the boundary
//   4. SplitMixes, ReduceHeads  mix modulo prime, a vector of heads at a time, in doubles; plus the offset
// Why this is exact: a multiplier is below 2^63 / V', so a product with an id is in [0, 2^63), and so is the XOR of
// several. The remainder is computed from integers that doubles hold exactly (see ReduceHeads); primes below kMinPrime
// and processors without fused multiply-add take the integer division.
// Vectors may read and write past a block's last token inside HashBlock's arrays, whose sizes are whole vectors; what
// is there is never used. Nothing past row_ids [tokens, R] is written.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/hash/ngram_hasher.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/cache_control.h>

#include <algorithm>
#include <array>

// What every target shares.
#ifndef ENGRAM_HASH_NGRAM_HASHER_BLOCK_
#define ENGRAM_HASH_NGRAM_HASHER_BLOCK_
namespace engram {

constexpr int kHashBlock = 128;      // tokens: their mixes and rows stay in the first-level cache
constexpr int kMaxOrders = 15;       // EngramLayout allows max_ngram_size <= 16
constexpr int64_t kMinPrime = 8192;  // smallest prime that the vector reduction is exact for

// A token whose look-back meets a boundary: only id[t], ..., id[t - reach + 1] are read, the rest is pad.
struct CutToken {
  int token, reach;
};

// One block of tokens on its way from ids to row ids. Past `tokens` the arrays hold anything.
struct HashBlock {
  int tokens = 0, cut_tokens = 0;
  std::array<int32_t, kMaxOrders + kHashBlock> ids;  // canonical: N-1 before the block, then the block's own
  std::array<CutToken, kHashBlock> cuts;
  std::array<std::array<int64_t, kHashBlock>, kMaxOrders> mixes;  // [order][token], in [0, 2^63)
  std::array<double, kHashBlock> high, low;                       // of one order's mixes (SplitMixes)
};

struct HashTables {
  int orders = 0, heads = 0;  // heads per order
  int64_t pad = 0;
  bool small_primes = false;   // some prime < kMinPrime
  bool stream = false;         // write past the caches
  const int64_t* multipliers;  // [orders + 1]
  const int64_t* primes;       // [orders * heads]
  const int64_t* offsets;      // [orders * heads]
};

inline void find_cut_tokens(std::span<const uint8_t> reach, HashBlock& block, int max_ngram_size) {
  block.cut_tokens = 0;
  uint8_t least = UINT8_MAX;
  for (uint8_t r : reach) least = std::min(least, r);
  if (least >= max_ngram_size) return;  // the common block
  for (size_t t = 0; t < reach.size(); ++t) {
    if (reach[t] < max_ngram_size)
      block.cuts[static_cast<size_t>(block.cut_tokens++)] = {static_cast<int>(t), reach[t]};
  }
}

inline void mix_cut_tokens(const HashTables& tables, HashBlock& block) {
  for (int i = 0; i < block.cut_tokens; ++i) {
    const auto [token, reach] = block.cuts[static_cast<size_t>(i)];
    const int32_t* newest = &block.ids[static_cast<size_t>(tables.orders + token)];
    int64_t mix = 0;
    for (int k = 0; k <= tables.orders; ++k) {
      mix ^= (k < reach ? newest[-k] : tables.pad) * tables.multipliers[k];
      if (k > 0) block.mixes[static_cast<size_t>(k - 1)][static_cast<size_t>(token)] = mix;
    }
  }
}

// Small primes belong to toy tables, where the cost of a division does not matter.
inline void reduce_by_division(const HashTables& tables, const HashBlock& block, int64_t* row_ids) {
  for (int t = 0; t < block.tokens; ++t) {
    for (int head = 0; head < tables.orders * tables.heads; ++head) {
      const int64_t mix = block.mixes[static_cast<size_t>(head / tables.heads)][static_cast<size_t>(t)];
      *row_ids++ = mix % tables.primes[head] + tables.offsets[head];
    }
  }
}

}  // namespace engram
#endif

// The reduction needs fused multiply-add; older x86 divides instead.
#undef ENGRAM_HASH_FMA
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_BMI2_FMA)) || HWY_ARCH_ARM_A64
#define ENGRAM_HASH_FMA 1
#else
#define ENGRAM_HASH_FMA 0
#endif

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using IntTag = hn::CappedTag<int64_t, 8>;

// Every token as if no boundary were near: order n's mix is order n-1's, XOR one more product.
void MixBlock(const HashTables& tables, HashBlock& block) {
  const IntTag di;
  const hn::Rebind<int32_t, IntTag> di32;
  const int lanes = static_cast<int>(hn::Lanes(di));
  for (int t = 0; t < block.tokens; t += lanes) {
    const int32_t* newest = &block.ids[static_cast<size_t>(tables.orders + t)];
    auto mix = hn::Mul(hn::PromoteTo(di, hn::LoadU(di32, newest)), hn::Set(di, tables.multipliers[0]));
    for (int k = 1; k <= tables.orders; ++k) {
      const auto older = hn::PromoteTo(di, hn::LoadU(di32, newest - k));
      mix = hn::Xor(mix, hn::Mul(older, hn::Set(di, tables.multipliers[k])));
      hn::StoreU(mix, di, &block.mixes[static_cast<size_t>(k - 1)][static_cast<size_t>(t)]);
    }
  }
}

#if ENGRAM_HASH_FMA
using DoubleTag = hn::Rebind<double, IntTag>;
constexpr double kMagic = 0x1.8p52;  // x + kMagic holds round(x) in its low bits for |x| < 2^51

// A mix of 63 bits as two exact doubles: the low 10 bits, kMagic added, and the 53 bits above them.
void SplitMixes(int order, HashBlock& block) {
  const IntTag di;
  const DoubleTag df;
  const auto low_bits = hn::Set(di, 1023);
  const auto magic_bits = hn::BitCast(di, hn::Set(df, kMagic));
  for (int t = 0; t < block.tokens; t += static_cast<int>(hn::Lanes(di))) {
    const auto mix = hn::LoadU(di, &block.mixes[static_cast<size_t>(order)][static_cast<size_t>(t)]);
    hn::StoreU(hn::ConvertTo(df, hn::AndNot(low_bits, mix)), df, &block.high[static_cast<size_t>(t)]);
    const auto low = hn::Or(hn::And(low_bits, mix), magic_bits);
    hn::StoreU(hn::BitCast(df, low), df, &block.low[static_cast<size_t>(t)]);
  }
}

// Reduces the heads first, first + 1, ... of one order, a vector of them, for every token of the block.
//
// q = round(high * (1 / prime)) is at most 0.5 + 2^-3 away from high / prime: the quotient is below 2^50, so the
// rounding of 1 / prime moves it by at most 2^50 * 2^-53. high - q * prime is an integer below prime in size, hence
// fused multiply-add gives it exactly. Adding low < 1024 leaves it strictly between -prime and prime: one
// conditional addition ends the reduction. Every double here is an integer below 2^53. What follows the sum is integer
// arithmetic on its bits, since units for doubles are fewer than units for integers.
template <bool kStream>
void ReduceHeads(const HashTables& tables, const HashBlock& block, int order, int first, int64_t* row_ids) {
  const IntTag di;
  const DoubleTag df;
  const int lanes = static_cast<int>(hn::Lanes(di));
  const int valid = std::min(lanes, tables.heads - first);
  const int stride = tables.orders * tables.heads;
  const int at = order * tables.heads + first;

  // Lanes without a head repeat the last one; their results are dropped.
  HWY_ALIGN double primes[8], inverses[8];
  HWY_ALIGN int64_t whole_primes[8], offsets[8], spill[8];
  for (int i = 0; i < lanes; ++i) {
    const int head = at + std::min(i, valid - 1);
    whole_primes[i] = tables.primes[head];
    primes[i] = static_cast<double>(tables.primes[head]);
    inverses[i] = 1.0 / primes[i];
    offsets[i] = tables.offsets[head];
  }
  const auto magic = hn::Set(df, kMagic);
  const auto magic_bits = hn::BitCast(di, magic);
  const auto prime = hn::Load(df, primes);
  const auto inverse = hn::Load(df, inverses);
  const auto whole_prime = hn::Load(di, whole_primes);
  const auto offset = hn::Sub(hn::Load(di, offsets), magic_bits);

  for (int t = 0; t < block.tokens; ++t) {
    const auto high = hn::Set(df, block.high[static_cast<size_t>(t)]);
    const auto low = hn::Set(df, block.low[static_cast<size_t>(t)]);
    const auto quotient = hn::Sub(hn::MulAdd(high, inverse, magic), magic);
    const auto bits = hn::BitCast(di, hn::Add(hn::NegMulAdd(quotient, prime, high), low));  // remainder + magic_bits
    const auto moved = hn::Add(bits, offset);
    const auto row_id = hn::IfThenElse(hn::Lt(bits, magic_bits), hn::Add(moved, whole_prime), moved);
    int64_t* out = row_ids + static_cast<int64_t>(t) * stride + at;
    if (kStream) {
      hn::Stream(row_id, di, out);
    } else if (HWY_LIKELY(valid == lanes)) {
      hn::StoreU(row_id, di, out);
    } else {
      hn::Store(row_id, di, spill);
      std::copy_n(spill, valid, out);
    }
  }
}
#endif  // ENGRAM_HASH_FMA

void HashRows(const HashTables& tables, HashBlock& block, int64_t* row_ids) {
  MixBlock(tables, block);
  mix_cut_tokens(tables, block);
#if ENGRAM_HASH_FMA
  if (!tables.small_primes) {
    const int lanes = static_cast<int>(hn::Lanes(IntTag()));
    // A streamed vector must be a whole cache line, or lines would go to memory in pieces.
    const bool stream = tables.stream && lanes == 8;
    for (int order = 0; order < tables.orders; ++order) {
      SplitMixes(order, block);
      for (int first = 0; first < tables.heads; first += lanes) {
        if (stream)
          ReduceHeads<true>(tables, block, order, first, row_ids);
        else
          ReduceHeads<false>(tables, block, order, first, row_ids);
      }
    }
    return;
  }
#endif
  reduce_by_division(tables, block, row_ids);
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(HashRows);

NgramHasher::NgramHasher(const EngramLayout& layout, int layer)
    : max_ngram_size_(layout.config().max_ngram_size),
      n_heads_(layout.config().n_heads),
      rows_per_token_(layout.rows_per_token()),
      pad_id_(layout.compressed_pad_id()),
      compressed_vocab_size_(layout.config().compressed_vocab_size),
      num_rows_(layout.num_rows(layer)),
      multipliers_(layout.multipliers(layer).begin(), layout.multipliers(layer).end()),
      primes_(layout.primes(layer).begin(), layout.primes(layer).end()),
      offsets_(layout.offsets(layer).begin(), layout.offsets(layer).end()) {
  for (int64_t prime : primes_) has_small_primes_ |= prime < kMinPrime;
  ENGRAM_CHECK(max_ngram_size_ - 1 <= kMaxOrders, "max_ngram_size={}", max_ngram_size_);
}

void NgramHasher::hash(const NgramContext& context, int64_t count, std::span<int64_t> row_ids) const {
  ENGRAM_CHECK(row_ids.size() == static_cast<size_t>(count * rows_per_token_), "row_ids={} count={} rows_per_token={}",
               row_ids.size(), count, rows_per_token_);
  ENGRAM_CHECK(context.max_ngram_size() == max_ngram_size_ && context.compressed_vocab_size() == compressed_vocab_size_,
               "max_ngram_size={} and {}, compressed_vocab_size={} and {}", context.max_ngram_size(), max_ngram_size_,
               context.compressed_vocab_size(), compressed_vocab_size_);
  // Ids that fill half of a core's cache are read by nobody before they leave it: do not fetch their lines first.
  constexpr size_t kStreamBytes = 256 << 10;
  const bool aligned = reinterpret_cast<uintptr_t>(row_ids.data()) % 64 == 0 && n_heads_ % 8 == 0;
  const HashTables tables = {.orders = max_ngram_size_ - 1,
                             .heads = n_heads_,
                             .pad = pad_id_,
                             .small_primes = has_small_primes_,
                             .stream = aligned && row_ids.size_bytes() >= kStreamBytes,
                             .multipliers = multipliers_.data(),
                             .primes = primes_.data(),
                             .offsets = offsets_.data()};
  const std::span<const int32_t> ids = context.ids(count);
  const std::span<const uint8_t> reach = context.reach(count);
  HashBlock block;
  block.ids.fill(0);
  for (size_t begin = 0; begin < reach.size(); begin += kHashBlock) {
    block.tokens = static_cast<int>(std::min<size_t>(kHashBlock, reach.size() - begin));
    std::copy_n(ids.begin() + static_cast<ptrdiff_t>(begin), tables.orders + block.tokens, block.ids.begin());
    find_cut_tokens(reach.subspan(begin, static_cast<size_t>(block.tokens)), block, max_ngram_size_);
    HWY_DYNAMIC_DISPATCH(HashRows)(tables, block, row_ids.data() + begin * static_cast<size_t>(rows_per_token_));
  }
  if (tables.stream) hwy::FlushStream();
}

void NgramHasher::hash_plain(std::span<const CanonicalId> ids, std::span<const int32_t> starts,
                             std::span<int64_t> row_ids) const {
  // The id at a position, -1 when masked or before the sequence.
  const auto canonical = [&](int64_t position) {
    return position < 0 ? int64_t{-1} : static_cast<int64_t>(ids[static_cast<size_t>(position)]);
  };
  size_t out = 0;
  for (int64_t t = 0; t < static_cast<int64_t>(ids.size()); ++t) {
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
}

}  // namespace engram
#endif  // HWY_ONCE
