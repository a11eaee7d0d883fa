#include "engram/hash/ngram_hasher.h"

// From ids to row ids, in blocks of 128 tokens that stay in the first-level cache:
//   1. find_cut_tokens  notes the tokens near a boundary
//   2. MixBlock      the mixes of all orders, a vector of tokens at a time, as if no boundary were near
//   3. mix_cut_tokens  computes the mixes of cut tokens again, with pad behind the boundary
//   4. ReduceHeads   mix modulo prime, a vector of heads at a time, in doubles; plus the offset
// A rule that sums has multipliers for each head: load_ids replaces 2 and 3, and ReduceHeads sums before it reduces.
// Why this is exact: a multiplier is below 2^63 / V', so a product with an id is in [0, 2^63), and so is the XOR of
// several. The remainder is computed from integers that doubles hold exactly (see ReduceHeads); primes below kMinPrime,
// sums that may reach 2^53 and processors without fused multiply-add take the integer division.
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

constexpr int kHashBlock = 128;  // tokens: their mixes and rows stay in the first-level cache
constexpr int kMaxOrders = 15;   // EngramLayout allows max_ngram_size <= 16
constexpr int64_t kLowBits = 1023;
constexpr double kMagic = 0x1.8p52;  // x + kMagic holds round(x) in its low bits for |x| < 2^51
constexpr int64_t kMinPrime = 8192;  // smallest prime that the vector reduction of 63-bit mixes is exact for
__extension__ using uint128 = unsigned __int128;

// A token whose look-back meets a boundary: only id[t], ..., id[t - reach + 1] are read, the rest is pad.
struct CutToken {
  int token, reach;
};

// One block of tokens on its way from ids to row ids. Past `tokens` the arrays hold anything.
struct HashBlock {
  int tokens = 0, cut_tokens = 0;
  std::array<int32_t, kMaxOrders + kHashBlock> ids;  // canonical: N-1 before the block, then the block's own
  std::array<CutToken, kHashBlock> cuts;
  // [order][token]: a mix, in [0, 2^63), as two exact doubles: the low 10 bits, kMagic added, and the 53 bits above
  // them.
  std::array<std::array<double, kHashBlock>, kMaxOrders> high, low;
  std::array<std::array<double, kHashBlock>, kMaxOrders + 1> older;  // sums: [k][token], the id k places before it
};

struct HashTables {
  int orders = 0, heads = 0;   // heads per order
  int64_t boundary = 0;        // what lies behind a boundary reads as this
  bool sum = false;            // else XOR
  bool divide = false;         // doubles do not do
  bool stream = false;         // write past the caches
  const int64_t* multipliers;  // [orders + 1]; sums: [orders, orders * heads]
  const int64_t* primes;       // [orders * heads], a vector more may be read; so of the rest
  const int64_t* offsets;
  const double *whole, *inverses;  // primes, and 1 / prime
  const double* powers;            // sums: multipliers
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
      mix ^= (k < reach ? newest[-k] : tables.boundary) * tables.multipliers[k];
      if (k == 0) continue;
      block.high[static_cast<size_t>(k - 1)][static_cast<size_t>(token)] = static_cast<double>(mix & ~kLowBits);
      block.low[static_cast<size_t>(k - 1)][static_cast<size_t>(token)] = kMagic + static_cast<double>(mix & kLowBits);
    }
  }
}

// Small primes belong to toy tables, where the cost of a division does not matter.
inline void reduce_by_division(const HashTables& tables, const HashBlock& block, int64_t* row_ids) {
  for (size_t t = 0; t < static_cast<size_t>(block.tokens); ++t) {
    for (int head = 0; head < tables.orders * tables.heads; ++head) {
      const auto order = static_cast<size_t>(head / tables.heads);
      const int64_t mix =
          static_cast<int64_t>(block.high[order][t]) + static_cast<int64_t>(block.low[order][t] - kMagic);
      *row_ids++ = mix % tables.primes[head] + tables.offsets[head];
    }
  }
}

// Sums: every token's ids as doubles, 0 behind its boundary.
inline void load_ids(const HashTables& tables, HashBlock& block) {
  for (int k = 0; k <= tables.orders; ++k) {
    const int32_t* ids = &block.ids[static_cast<size_t>(tables.orders - k)];
    double* out = block.older[static_cast<size_t>(k)].data();
    for (int t = 0; t < block.tokens; ++t) out[t] = ids[t];
  }
  for (int i = 0; i < block.cut_tokens; ++i) {
    const auto [token, reach] = block.cuts[static_cast<size_t>(i)];
    for (int k = reach; k <= tables.orders; ++k) block.older[static_cast<size_t>(k)][static_cast<size_t>(token)] = 0;
  }
}

inline void sum_by_division(const HashTables& tables, const HashBlock& block, int64_t* row_ids) {
  const int rows = tables.orders * tables.heads;
  for (size_t t = 0; t < static_cast<size_t>(block.tokens); ++t) {
    for (int head = 0; head < rows; ++head) {
      uint128 sum = static_cast<uint64_t>(block.older[0][t]);
      for (int k = 0; k <= head / tables.heads; ++k)
        sum += static_cast<uint128>(block.older[static_cast<size_t>(k + 1)][t]) *
               static_cast<uint64_t>(tables.multipliers[k * rows + head]);
      *row_ids++ = static_cast<int64_t>(sum % static_cast<uint64_t>(tables.primes[head])) + tables.offsets[head];
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
using DoubleTag = hn::Rebind<double, IntTag>;

// Every token as if no boundary were near: order n's mix is order n-1's, XOR one more product.
void MixBlock(const HashTables& tables, HashBlock& block) {
  const IntTag di;
  const DoubleTag df;
  const hn::Rebind<int32_t, IntTag> di32;
  const auto low_bits = hn::Set(di, kLowBits);
  const auto magic_bits = hn::BitCast(di, hn::Set(df, kMagic));
  const int lanes = static_cast<int>(hn::Lanes(di)), tokens = block.tokens;
  for (int t = 0; t < tokens; t += lanes) {
    const int32_t* newest = &block.ids[static_cast<size_t>(tables.orders + t)];
    auto mix = hn::Mul(hn::PromoteTo(di, hn::LoadU(di32, newest)), hn::Set(di, tables.multipliers[0]));
    for (int k = 1; k <= tables.orders; ++k) {
      const auto older = hn::PromoteTo(di, hn::LoadU(di32, newest - k));
      mix = hn::Xor(mix, hn::Mul(older, hn::Set(di, tables.multipliers[k])));
      const auto order = static_cast<size_t>(k - 1), token = static_cast<size_t>(t);
      hn::StoreU(hn::ConvertTo(df, hn::AndNot(low_bits, mix)), df, &block.high[order][token]);
      const auto low = hn::Or(hn::And(low_bits, mix), magic_bits);
      hn::StoreU(hn::BitCast(df, low), df, &block.low[order][token]);
    }
  }
}

#if ENGRAM_HASH_FMA
// Reduces `valid` heads from `at` on, at most a vector of them and of one order, for every token of the block.
//
// q = round(high * (1 / prime)) is at most 0.5 + 2^-3 away from high / prime: the quotient is below 2^50, so the
// rounding of 1 / prime moves it by at most 2^50 * 2^-53. high - q * prime is an integer below prime in size, hence
// fused multiply-add gives it exactly. Adding low < 1024 leaves it strictly between -prime and prime: one
// conditional addition ends the reduction. Every double here is an integer below 2^53. What follows the sum is integer
// arithmetic on its bits, since units for doubles are fewer than units for integers.
//
// kSum: heads of any orders. The sum of ids and products is an integer below 2^53, so fused multiply-add gives it
// exactly; it takes the place of `high`, without a `low`. Powers are below the head's size and ids below V, so that the
// quotient is at most N * V < 2^35, and q is at most 0.5 + 2^-16 away from it, for heads of any size.
template <bool kStream, bool kSum>
void ReduceHeads(const HashTables& tables, const HashBlock& block, int at, int valid, int64_t* row_ids) {
  const IntTag di;
  const DoubleTag df;
  const int lanes = static_cast<int>(hn::Lanes(di));
  const int stride = tables.orders * tables.heads;

  HWY_ALIGN int64_t spill[8];
  const int deepest = kSum ? (at + valid - 1) / tables.heads : 0;  // look-back of the last head, minus 1
  const auto magic = hn::Set(df, kMagic);
  const auto magic_bits = hn::BitCast(di, magic);
  // Lanes without a head hold anything; their results are dropped.
  const auto prime = hn::LoadU(df, tables.whole + at);
  const auto inverse = hn::LoadU(df, tables.inverses + at);
  const auto whole_prime = hn::LoadU(di, tables.primes + at);
  const auto offset = hn::Sub(hn::LoadU(di, tables.offsets + at), magic_bits);

  const int tokens = block.tokens;
  const double* highs = kSum ? block.older[0].data() : block.high[static_cast<size_t>(at / tables.heads)].data();
  const double* lows = block.low[static_cast<size_t>(at / tables.heads)].data();
  for (int t = 0; t < tokens; ++t) {
    auto high = hn::Set(df, highs[t]);
    const auto low = kSum ? magic : hn::Set(df, lows[t]);
    for (int k = 0; kSum && k <= deepest; ++k) {
      const auto id = hn::Set(df, block.older[static_cast<size_t>(k + 1)][static_cast<size_t>(t)]);
      high = hn::MulAdd(id, hn::LoadU(df, tables.powers + k * stride + at), high);
    }
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

void SumRows(const HashTables& tables, HashBlock& block, int64_t* row_ids) {
  load_ids(tables, block);
#if ENGRAM_HASH_FMA
  if (!tables.divide) {
    const int lanes = static_cast<int>(hn::Lanes(IntTag())), rows = tables.orders * tables.heads;
    // The last vector begins early enough to be whole, and computes some heads again.
    for (int first = 0; first < rows; first += lanes) {
      const int at = std::max(0, std::min(first, rows - lanes));
      if (tables.stream && lanes == 8)
        ReduceHeads<true, true>(tables, block, at, lanes, row_ids);
      else
        ReduceHeads<false, true>(tables, block, at, std::min(lanes, rows), row_ids);
    }
    return;
  }
#endif
  sum_by_division(tables, block, row_ids);
}

void HashRows(const HashTables& tables, HashBlock& block, int64_t* row_ids) {
  if (tables.sum) return SumRows(tables, block, row_ids);
  MixBlock(tables, block);
  mix_cut_tokens(tables, block);
#if ENGRAM_HASH_FMA
  if (!tables.divide) {
    const int lanes = static_cast<int>(hn::Lanes(IntTag()));
    // A streamed vector must be a whole cache line, or lines would go to memory in pieces.
    const bool stream = tables.stream && lanes == 8;
    for (int order = 0; order < tables.orders; ++order) {
      for (int first = 0; first < tables.heads; first += lanes) {
        const int at = order * tables.heads + first, valid = std::min(lanes, tables.heads - first);
        if (stream)
          ReduceHeads<true, false>(tables, block, at, valid, row_ids);
        else
          ReduceHeads<false, false>(tables, block, at, valid, row_ids);
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
      boundary_id_(layout.boundary_id()),
      cut_id_(layout.cut_id()),
      compressed_vocab_size_(layout.config().compressed_vocab_size),
      is_sum_(layout.config().rule == HashRule::kLongcat),
      divides_(false),
      num_rows_(layout.num_rows(layer)),
      multipliers_(layout.multipliers(layer).begin(), layout.multipliers(layer).end()),
      primes_(layout.primes(layer).begin(), layout.primes(layer).end()),
      offsets_(layout.offsets(layer).begin(), layout.offsets(layer).end()) {
  for (int64_t prime : primes_) {
    const uint128 most = static_cast<uint128>(max_ngram_size_ - 1) * static_cast<uint128>(prime) + 1;
    divides_ |= is_sum_ ? most * static_cast<uint128>(compressed_vocab_size_) >= uint128{1} << 53 : prime < kMinPrime;
  }
  constexpr size_t kVector = 8;
  for (auto* table : {&primes_, &offsets_}) table->resize(table->size() + kVector, 1);
  for (int64_t prime : primes_) doubles_.push_back(static_cast<double>(prime));
  for (int64_t prime : primes_) doubles_.push_back(1.0 / static_cast<double>(prime));
  for (int64_t multiplier : multipliers_) doubles_.push_back(static_cast<double>(multiplier));
  doubles_.resize(doubles_.size() + kVector);
  ENGRAM_CHECK(max_ngram_size_ - 1 <= kMaxOrders, "max_ngram_size={}", max_ngram_size_);
}

void NgramHasher::hash(const NgramContext& context, int64_t count, std::span<int64_t> row_ids) const {
  ENGRAM_CHECK(row_ids.size() == static_cast<size_t>(count * rows_per_token_), "row_ids={} count={} rows_per_token={}",
               row_ids.size(), count, rows_per_token_);
  ENGRAM_CHECK(context.max_ngram_size() == max_ngram_size_ &&
                   context.compressed_vocab_size() == compressed_vocab_size_ && context.cut_id() == cut_id_,
               "max_ngram_size={} and {}, compressed_vocab_size={} and {}, cut_id={} and {}", context.max_ngram_size(),
               max_ngram_size_, context.compressed_vocab_size(), compressed_vocab_size_, context.cut_id(), cut_id_);
  // Ids that fill half of a core's cache are read by nobody before they leave it: do not fetch their lines first.
  constexpr size_t kStreamBytes = 256 << 10;
  const bool aligned =
      reinterpret_cast<uintptr_t>(row_ids.data()) % 64 == 0 && (is_sum_ ? rows_per_token_ : n_heads_) % 8 == 0;
  const HashTables tables = {.orders = max_ngram_size_ - 1,
                             .heads = n_heads_,
                             .boundary = boundary_id_,
                             .sum = is_sum_,
                             .divide = divides_,
                             .stream = aligned && row_ids.size_bytes() >= kStreamBytes,
                             .multipliers = multipliers_.data(),
                             .primes = primes_.data(),
                             .offsets = offsets_.data(),
                             .whole = doubles_.data(),
                             .inverses = doubles_.data() + primes_.size(),
                             .powers = doubles_.data() + 2 * primes_.size()};
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
    std::array<int64_t, kMaxOrders + 1> seen;  // [k]: the id k places before, as this token sees it
    bool cut = false;                          // sticky: what lies behind a boundary is no more part of the text
    for (int k = 0; k < max_ngram_size_; ++k) {
      cut |= k > 0 && std::ranges::binary_search(starts, static_cast<int32_t>(t - k + 1));
      cut |= canonical(t - k) < 0 || (k > 0 && canonical(t - k) == cut_id_);
      seen[static_cast<size_t>(k)] = cut ? boundary_id_ : canonical(t - k);
    }
    const auto columns = static_cast<size_t>(rows_per_token_);
    for (size_t column = 0; column < columns; ++column) {
      const size_t order = column / static_cast<size_t>(n_heads_) + 2;
      uint128 mix = static_cast<uint128>(seen[0]) * static_cast<uint128>(is_sum_ ? 1 : multipliers_[0]);
      for (size_t k = 1; k < order; ++k) {
        const int64_t multiplier = multipliers_[is_sum_ ? (k - 1) * columns + column : k];
        const uint128 product = static_cast<uint128>(seen[k]) * static_cast<uint128>(multiplier);
        mix = is_sum_ ? mix + product : mix ^ product;
      }
      row_ids[out++] = static_cast<int64_t>(mix % static_cast<uint128>(primes_[column])) + offsets_[column];
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
