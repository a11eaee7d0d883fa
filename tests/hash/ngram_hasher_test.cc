// hash() against hash_plain(), and properties over random inputs. The demo's own row ids: golden entry `golden_hash`.
#include "engram/hash/ngram_hasher.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <thread>

#include "engram/hash/numpy_random.h"

namespace engram {
namespace {

struct Case {
  EngramLayout layout;
  TokenMap map;
  std::vector<int32_t> ids, starts;
};

TokenMap random_map(NumpyRandom& random, int vocabulary, int compressed) {
  std::vector<int32_t> ids(static_cast<size_t>(vocabulary));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.integers(0, compressed));
  return value_or_throw(TokenMap::from_ids(std::move(ids), compressed));
}

// Sizes from toy to published; primes on both sides of the vector path's limit.
Case random_case(NumpyRandom& random, int64_t max_length) {
  EngramConfig config;
  config.layer_ids = {static_cast<int>(random.integers(0, 40)), 41};
  config.max_ngram_size = static_cast<int>(random.integers(2, 7));
  config.n_heads = static_cast<int>(random.integers(1, 20));
  const int64_t starts[] = {1, 1000, 8180, 8192, 100000, 2262400, 16000000, int64_t{1} << 33, int64_t{1} << 38};
  const int64_t start = starts[random.integers(0, 9)];
  config.vocab_size.assign(static_cast<size_t>(config.max_ngram_size - 1), start);
  config.seed = random.integers(0, 1000);
  const int sizes[] = {1, 2, 300, 99092, INT32_MAX};
  config.compressed_vocab_size = sizes[random.integers(0, 5)];
  const TokenMap map = random_map(random, 500, config.compressed_vocab_size);
  config.rule = static_cast<HashRule>(random.integers(0, 3));
  config.vocab_size_ratio = 0.99 * static_cast<double>(start) / config.compressed_vocab_size;
  if (config.rule != HashRule::kEngram)  // often an id of the text
    config.pad_token_id = map.ids()[static_cast<size_t>(random.integers(0, 500))];
  const int pad = config.rule == HashRule::kEngram ? static_cast<int>(random.integers(0, config.compressed_vocab_size))
                                                   : config.pad_token_id;
  Case made{value_or_throw(EngramLayout::create(config, pad)), map, {}, {}};
  const int64_t length = random.integers(0, max_length + 1);
  const bool masks = random.integers(0, 2) == 0, documents = random.integers(0, 2) == 0;
  for (int64_t t = 0; t < length; ++t) {
    if (documents && random.integers(0, 5) == 0) made.starts.push_back(static_cast<int32_t>(t));
    made.ids.push_back(masks && random.integers(0, 6) == 0 ? -1 : static_cast<int32_t>(random.integers(0, 500)));
  }
  return made;
}

NgramContext context_of(const TokenMap& map, const NgramHasher& hasher) {
  return NgramContext(map, hasher.max_ngram_size(), 0, hasher.cut_id());
}

std::vector<int64_t> hash(const NgramHasher& hasher, const TokenMap& map, std::span<const int32_t> ids,
                          std::span<const int32_t> starts) {
  std::vector<int64_t> rows(ids.size() * static_cast<size_t>(hasher.rows_per_token()), -1);
  NgramContext context = context_of(map, hasher);
  throw_if_error(context.append(ids, starts));
  hasher.hash(context, std::ssize(ids), rows);
  return rows;
}
std::vector<int64_t> hash_plain(const NgramHasher& hasher, const TokenMap& map, std::span<const int32_t> ids,
                                std::span<const int32_t> starts) {
  std::vector<int64_t> rows(ids.size() * static_cast<size_t>(hasher.rows_per_token()), -1);
  std::vector<CanonicalId> canonical;
  for (int32_t id : ids) canonical.push_back(CanonicalId{id < 0 ? -1 : map.ids()[static_cast<size_t>(id)]});
  hasher.hash_plain(canonical, starts, rows);
  return rows;
}

TEST(NgramHasher, EqualsThePlainLoopOnRandomInputs) {
  NumpyRandom random(1);
  for (int round = 0; round < 400; ++round) {
    Case made = random_case(random, 300);
    const NgramHasher hasher(made.layout, round % 2);
    const std::vector<int64_t> rows = hash(hasher, made.map, made.ids, made.starts);
    ASSERT_EQ(rows, hash_plain(hasher, made.map, made.ids, made.starts)) << "round " << round;
    for (int64_t row : rows) ASSERT_TRUE(row >= 0 && row < hasher.num_rows()) << row;
  }
}

// A context that grows in any steps, some of them taken back: where they end must not matter.
TEST(NgramHasher, AnySplitAndAnyRollBackGiveTheSameRows) {
  NumpyRandom random(2);
  for (int round = 0; round < 300; ++round) {
    Case made = random_case(random, 200);
    const NgramHasher hasher(made.layout, 0);
    NgramContext context = context_of(made.map, hasher);
    std::vector<int64_t> chunked;
    for (size_t begin = 0; begin < made.ids.size();) {
      const int64_t longest = round % 3 == 0 ? 3 : 150;
      const size_t size = std::min(made.ids.size() - begin, static_cast<size_t>(random.integers(1, longest)));
      std::vector<int32_t> starts;
      for (int32_t start : made.starts) {
        const int64_t inside = start - static_cast<int64_t>(begin);
        if (inside >= 0 && inside < static_cast<int64_t>(size)) starts.push_back(static_cast<int32_t>(inside));
      }
      throw_if_error(context.append(std::span(made.ids).subspan(begin, size), starts));
      std::vector<int64_t> rows(size * static_cast<size_t>(hasher.rows_per_token()));
      hasher.hash(context, static_cast<int64_t>(size), rows);
      const int64_t rejected = round % 2 == 0 ? 0 : random.integers(0, static_cast<int64_t>(size) + 1);
      throw_if_error(context.roll_back(rejected));
      rows.resize((size - static_cast<size_t>(rejected)) * static_cast<size_t>(hasher.rows_per_token()));
      chunked.insert(chunked.end(), rows.begin(), rows.end());
      begin += size - static_cast<size_t>(rejected);
    }
    EXPECT_EQ(context.num_tokens(), std::ssize(made.ids));
    ASSERT_EQ(chunked, hash_plain(hasher, made.map, made.ids, made.starts)) << "round " << round;
  }
}

TEST(NgramHasher, PackedDocumentsHashAsIfAlone) {
  NumpyRandom random(3);
  Case made = random_case(random, 0);
  const NgramHasher hasher(made.layout, 1);
  std::vector<int32_t> packed, starts;
  std::vector<int64_t> wanted;
  for (int document = 0; document < 30; ++document) {
    std::vector<int32_t> ids(static_cast<size_t>(random.integers(1, 20)));
    for (int32_t& id : ids) id = static_cast<int32_t>(random.integers(0, 500));
    starts.push_back(static_cast<int32_t>(packed.size()));
    packed.insert(packed.end(), ids.begin(), ids.end());
    std::vector<int64_t> alone = hash(hasher, made.map, ids, {});
    wanted.insert(wanted.end(), alone.begin(), alone.end());
  }
  EXPECT_EQ(hash(hasher, made.map, packed, starts), wanted);
}

// Largest mixes and largest primes: where a double's quotient is least exact.
TEST(NgramHasher, ExtremeMixesAreExact) {
  NumpyRandom random(4);
  for (int64_t start : {int64_t{8192}, int64_t{8209}, int64_t{65536}, int64_t{1} << 31, int64_t{1} << 38}) {
    EngramConfig config;
    config.layer_ids = {0};
    config.max_ngram_size = 3;
    config.n_heads = 8;
    config.vocab_size = {start, start};
    config.compressed_vocab_size = INT32_MAX;
    EngramLayout layout = value_or_throw(EngramLayout::create(config, 0));
    // Raw id i reads as the i-th id below the top: products just below 2^63.
    std::vector<int32_t> top(20000);
    for (size_t i = 0; i < top.size(); ++i) top[i] = INT32_MAX - 1 - static_cast<int32_t>(i);
    const TokenMap map = value_or_throw(TokenMap::from_ids(top, INT32_MAX));
    const NgramHasher hasher(layout, 0);
    std::vector<int32_t> ids(20000);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.integers(0, 20000));
    ASSERT_EQ(hash(hasher, map, ids, {}), hash_plain(hasher, map, ids, {})) << start;
  }
}

// Sums of longcat on both sides of 2^53, where doubles end and 128 bits begin.
TEST(NgramHasher, ExtremeSumsAreExact) {
  NumpyRandom random(8);
  for (const auto& [vocabulary, rows] : std::vector<std::pair<int, double>>{{1 << 22, 0x1p30 - 40},
                                                                            {1 << 22, 0x1p30 + 40},
                                                                            {1 << 22, 0x1p37},
                                                                            {INT32_MAX, 0x1p37},
                                                                            {1 << 22, 2},
                                                                            {1 << 22, 0.5},
                                                                            {1, 0.5}}) {
    EngramConfig config;
    config.rule = HashRule::kLongcat;
    config.layer_ids = {0};
    config.n_heads = 5;
    config.pad_token_id = 0;
    config.compressed_vocab_size = vocabulary;
    config.vocab_size_ratio = rows / vocabulary;
    const NgramHasher hasher(value_or_throw(EngramLayout::create(config, 0)), 0);
    std::vector<int32_t> top(5000);
    for (size_t i = 0; i < top.size(); ++i) top[i] = std::max(0, vocabulary - 1 - static_cast<int32_t>(i));
    const TokenMap map = value_or_throw(TokenMap::from_ids(top, vocabulary));
    std::vector<int32_t> ids(5000);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.integers(0, 5000));
    ASSERT_EQ(hash(hasher, map, ids, {}), hash_plain(hasher, map, ids, {})) << vocabulary << " " << rows;
  }
}

// Large aligned output takes the path that writes past the caches.
TEST(NgramHasher, StreamedRowsEqualThePlainLoop) {
  EngramConfig config;
  config.layer_ids = {1};
  config.vocab_size = {2262400, 2262400};
  config.compressed_vocab_size = 99092;
  EngramLayout layout = value_or_throw(EngramLayout::create(config, 2));
  NumpyRandom random(6);
  const TokenMap map = random_map(random, 500, 99092);
  const NgramHasher hasher(layout, 0);
  std::vector<int32_t> ids(10001), starts = {0, 77, 128, 5000};
  for (int32_t& id : ids) id = static_cast<int32_t>(random.integers(-1, 500));
  const std::vector<int64_t> wanted = hash_plain(hasher, map, ids, starts);
  NgramContext context(map, 3);
  throw_if_error(context.append(ids, starts));
  std::vector<int64_t> buffer(wanted.size() + 8);
  for (size_t shift = 0; shift < 8; ++shift) {  // one of eight neighbours begins a cache line
    std::span<int64_t> rows = std::span(buffer).subspan(shift, wanted.size());
    hasher.hash(context, std::ssize(ids), rows);
    ASSERT_TRUE(std::ranges::equal(rows, wanted)) << shift;
  }
}

// Not only the best vector instructions of the machine that runs the tests.
TEST(NgramHasher, EveryVectorTargetIsExact) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    NumpyRandom random(7);
    for (int round = 0; round < 100; ++round) {
      Case made = random_case(random, 300);
      const NgramHasher hasher(made.layout, 0);
      ASSERT_EQ(hash(hasher, made.map, made.ids, made.starts), hash_plain(hasher, made.map, made.ids, made.starts))
          << round;
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

TEST(NgramHasher, ThreadsShareOneHasher) {
  NumpyRandom random(5);
  Case made = random_case(random, 0);
  for (int t = 0; t < 5000; ++t) made.ids.push_back(static_cast<int32_t>(random.integers(-1, 500)));
  const NgramHasher hasher(made.layout, 0);
  std::vector<std::vector<int64_t>> rows(4);
  std::vector<std::thread> threads;
  for (auto& mine : rows) threads.emplace_back([&] { mine = hash(hasher, made.map, made.ids, {}); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& other : rows) EXPECT_EQ(other, rows[0]);
}

}  // namespace
}  // namespace engram
