// hash() against hash_ref(), and properties over random inputs. The demo's own row ids: golden entry `golden_hash`.
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
  const int pad = static_cast<int>(random.integers(0, config.compressed_vocab_size));
  Case made{
      value_or_throw(EngramLayout::create(config, pad)), random_map(random, 500, config.compressed_vocab_size), {}, {}};
  const int64_t length = random.integers(0, max_length + 1);
  const bool masks = random.integers(0, 2) == 0, documents = random.integers(0, 2) == 0;
  for (int64_t t = 0; t < length; ++t) {
    if (documents && random.integers(0, 5) == 0) made.starts.push_back(static_cast<int32_t>(t));
    made.ids.push_back(masks && random.integers(0, 6) == 0 ? -1 : static_cast<int32_t>(random.integers(0, 500)));
  }
  return made;
}

std::vector<int64_t> hash(const NgramHasher& hasher, std::span<const int32_t> ids, std::span<const int32_t> starts,
                          std::span<const int32_t> lookback = {}, bool reference = false) {
  std::vector<int64_t> rows(ids.size() * static_cast<size_t>(hasher.rows_per_token()), -1);
  throw_if_error(reference ? hasher.hash_ref(ids, starts, lookback, rows) : hasher.hash(ids, starts, lookback, rows));
  return rows;
}

TEST(NgramHasher, EqualsTheReferenceOnRandomInputs) {
  NumpyRandom random(1);
  for (int round = 0; round < 400; ++round) {
    Case made = random_case(random, 300);
    NgramHasher hasher = value_or_throw(NgramHasher::create(made.layout, made.map, round % 2));
    std::vector<int32_t> lookback;
    const int64_t size = random.integers(0, made.layout.config().max_ngram_size);
    for (int64_t i = 0; i < size; ++i) {
      lookback.push_back(static_cast<int32_t>(random.integers(-1, made.map.compressed_vocab_size())));
    }
    std::vector<int64_t> rows = hash(hasher, made.ids, made.starts, lookback);
    ASSERT_EQ(rows, hash(hasher, made.ids, made.starts, lookback, true)) << "round " << round;
    for (int64_t row : rows) ASSERT_TRUE(row >= 0 && row < hasher.num_rows()) << row;
  }
}

// The caller carries the last N-1 canonical ids; where the chunks end must not matter.
TEST(NgramHasher, AnySplitIntoChunksGivesTheSameRows) {
  NumpyRandom random(2);
  for (int round = 0; round < 300; ++round) {
    Case made = random_case(random, 200);
    NgramHasher hasher = value_or_throw(NgramHasher::create(made.layout, made.map, 0));
    const size_t keep = static_cast<size_t>(made.layout.config().max_ngram_size - 1);
    std::vector<int64_t> chunked;
    std::vector<int32_t> lookback;
    for (size_t begin = 0; begin < made.ids.size();) {
      const size_t longest = round % 3 == 0 ? 3 : 150;
      const size_t size =
          std::min(made.ids.size() - begin, static_cast<size_t>(random.integers(1, static_cast<int64_t>(longest))));
      std::vector<int32_t> starts;
      for (int32_t start : made.starts) {
        const int64_t inside = start - static_cast<int64_t>(begin);
        if (inside >= 0 && inside < static_cast<int64_t>(size)) starts.push_back(static_cast<int32_t>(inside));
      }
      std::span<const int32_t> ids = std::span(made.ids).subspan(begin, size);
      // A document that began inside an earlier chunk cuts the carried ids: the caller passes only its own.
      std::vector<int64_t> rows = hash(hasher, ids, starts, lookback);
      chunked.insert(chunked.end(), rows.begin(), rows.end());
      for (size_t i = 0; i < size; ++i) {
        if (std::ranges::binary_search(starts, static_cast<int32_t>(i))) lookback.clear();
        lookback.push_back(ids[i] < 0 ? -1 : made.map.ids()[static_cast<size_t>(ids[i])]);
      }
      if (lookback.size() > keep) lookback.erase(lookback.begin(), lookback.end() - static_cast<int64_t>(keep));
      begin += size;
    }
    ASSERT_EQ(chunked, hash(hasher, made.ids, made.starts)) << "round " << round;
  }
}

TEST(NgramHasher, PackedDocumentsHashAsIfAlone) {
  NumpyRandom random(3);
  Case made = random_case(random, 0);
  NgramHasher hasher = value_or_throw(NgramHasher::create(made.layout, made.map, 1));
  std::vector<int32_t> packed, starts;
  std::vector<int64_t> wanted;
  for (int document = 0; document < 30; ++document) {
    std::vector<int32_t> ids(static_cast<size_t>(random.integers(1, 20)));
    for (int32_t& id : ids) id = static_cast<int32_t>(random.integers(0, 500));
    starts.push_back(static_cast<int32_t>(packed.size()));
    packed.insert(packed.end(), ids.begin(), ids.end());
    std::vector<int64_t> alone = hash(hasher, ids, {});
    wanted.insert(wanted.end(), alone.begin(), alone.end());
  }
  EXPECT_EQ(hash(hasher, packed, starts), wanted);
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
    NgramHasher hasher =
        value_or_throw(NgramHasher::create(layout, value_or_throw(TokenMap::from_ids(top, INT32_MAX)), 0));
    std::vector<int32_t> ids(20000);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.integers(0, 20000));
    ASSERT_EQ(hash(hasher, ids, {}), hash(hasher, ids, {}, {}, true)) << start;
  }
}

// Large aligned output takes the path that writes past the caches.
TEST(NgramHasher, StreamedRowsEqualTheReference) {
  EngramConfig config;
  config.layer_ids = {1};
  config.vocab_size = {2262400, 2262400};
  config.compressed_vocab_size = 99092;
  EngramLayout layout = value_or_throw(EngramLayout::create(config, 2));
  NumpyRandom random(6);
  NgramHasher hasher = value_or_throw(NgramHasher::create(layout, random_map(random, 500, 99092), 0));
  std::vector<int32_t> ids(10001), starts = {0, 77, 128, 5000};
  for (int32_t& id : ids) id = static_cast<int32_t>(random.integers(-1, 500));
  const std::vector<int64_t> wanted = hash(hasher, ids, starts, {}, true);
  std::vector<int64_t> buffer(wanted.size() + 8);
  for (size_t shift = 0; shift < 8; ++shift) {  // one of eight neighbours begins a cache line
    std::span<int64_t> rows = std::span(buffer).subspan(shift, wanted.size());
    throw_if_error(hasher.hash(ids, starts, {}, rows));
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
      NgramHasher hasher = value_or_throw(NgramHasher::create(made.layout, made.map, 0));
      ASSERT_EQ(hash(hasher, made.ids, made.starts), hash(hasher, made.ids, made.starts, {}, true)) << round;
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

TEST(NgramHasher, ThreadsShareOneHasher) {
  NumpyRandom random(5);
  Case made = random_case(random, 0);
  for (int t = 0; t < 5000; ++t) made.ids.push_back(static_cast<int32_t>(random.integers(-1, 500)));
  const NgramHasher hasher = value_or_throw(NgramHasher::create(made.layout, made.map, 0));
  std::vector<std::vector<int64_t>> rows(4);
  std::vector<std::thread> threads;
  for (auto& mine : rows) threads.emplace_back([&] { mine = hash(hasher, made.ids, {}); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& other : rows) EXPECT_EQ(other, rows[0]);
}

TEST(NgramHasher, BadCallsAreRefusedAndWriteNothing) {
  EngramConfig config;
  config.layer_ids = {1};
  config.vocab_size = {1000, 1000};
  config.compressed_vocab_size = 100;
  EngramLayout layout = value_or_throw(EngramLayout::create(config, 2));
  EXPECT_FALSE(NgramHasher::create(layout, TokenMap::identity(100), 1).ok());
  EXPECT_FALSE(NgramHasher::create(layout, TokenMap::identity(100), -1).ok());
  EXPECT_EQ(NgramHasher::create(layout, TokenMap::identity(99), 0).status().message(),
            "compressed_vocab_size: the tokenizer has 99, the layout wants 100");
  NgramHasher hasher = value_or_throw(NgramHasher::create(layout, TokenMap::identity(100), 0));
  using Ids = std::vector<int32_t>;
  auto refused = [&](const Ids& ids, const Ids& starts, const Ids& lookback, size_t room, const std::string& part) {
    std::vector<int64_t> rows(room, -7);
    for (const Status& status :
         {hasher.hash(ids, starts, lookback, rows), hasher.hash_ref(ids, starts, lookback, rows)}) {
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << part;
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    }
    EXPECT_TRUE(std::ranges::all_of(rows, [](int64_t row) { return row == -7; }));
  };
  refused({1, 100}, {}, {}, 32, "token 1: got id 100, wanted -1 (masked) .. 99");
  refused({-2, 1}, {}, {}, 32, "token 0: got id -2");
  refused({INT32_MIN}, {}, {}, 16, "token 0");
  refused({INT32_MAX}, {}, {}, 16, "token 0");
  refused({1, 2}, {}, {}, 31, "row_ids: got room for 31 ids, wanted 2 tokens x 16");
  refused({1, 2}, {2}, {}, 32, "starts: got 2 at place 0");
  refused({1, 2}, {-1}, {}, 32, "starts: got -1");
  refused({1, 2, 3}, {2, 1}, {}, 48, "starts: got 1 at place 1");
  refused({1}, {}, {1, 2, 3}, 16, "lookback: got 3 ids, wanted at most 2");
  refused({1}, {}, {100}, 16, "lookback: got canonical id 100");
  refused({1}, {}, {-2}, 16, "lookback: got canonical id -2");
}

}  // namespace
}  // namespace engram
