// What engines got wrong with n-gram tables of the three dialects: one test each.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "engram/hash/memory_hasher.h"
#include "engram/hash/numpy_random.h"

namespace engram {
namespace {

constexpr int kEos = 7, kVocabulary = 1000;

EngramConfig config_of(HashRule rule) {
  EngramConfig config;
  config.rule = rule;
  config.layer_ids = {0, 1};
  config.max_ngram_size = 4;
  config.n_heads = 3;
  config.pad_token_id = kEos;
  config.compressed_vocab_size = kVocabulary;
  if (rule == HashRule::kLongcat) {
    config.vocab_size_ratio = 78.3;
  } else {
    config.vocab_size.assign(3, 20000);
  }
  return config;
}

MemoryHasher hasher_of(const EngramConfig& config) {
  const TokenMap map = TokenMap::identity(config.compressed_vocab_size);
  return value_or_throw(MemoryHasher::create(value_or_throw(EngramLayout::create(config, map)), map));
}

std::vector<int32_t> random_ids(int64_t seed, size_t length) {
  NumpyRandom random(static_cast<uint64_t>(seed));
  std::vector<int32_t> ids(length);
  for (int32_t& id : ids)
    id = random.integers(0, 6) == 0 ? kEos : static_cast<int32_t>(random.integers(0, kVocabulary));
  return ids;
}

class DialectTraps : public ::testing::TestWithParam<HashRule> {};
INSTANTIATE_TEST_SUITE_P(Rules, DialectTraps,
                         ::testing::Values(HashRule::kEngram, HashRule::kQwen4Exp, HashRule::kLongcat),
                         [](const auto& rule) { return hash_rule_name(rule.param); });
class RawRuleTraps : public DialectTraps {};
INSTANTIATE_TEST_SUITE_P(Rules, RawRuleTraps, ::testing::Values(HashRule::kQwen4Exp, HashRule::kLongcat),
                         [](const auto& rule) { return hash_rule_name(rule.param); });

TEST_P(RawRuleTraps, TokenMapOfTheSameSizeButOtherContentIsRefused) {
  std::vector<int32_t> ids(kVocabulary);
  std::iota(ids.begin(), ids.end(), 0);
  std::swap(ids[20], ids[21]);
  const TokenMap map = value_or_throw(TokenMap::from_ids(ids, kVocabulary));
  const EngramLayout layout = value_or_throw(EngramLayout::create(config_of(GetParam()), kEos));
  const Status status = MemoryHasher::create(layout, map).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("id 20 became 21"), std::string::npos) << status.message();
}

TEST_P(DialectTraps, MinusOneInTheHistoryIsABoundaryAndIndexesNothing) {
  const MemoryHasher hasher = hasher_of(config_of(GetParam()));
  const RowIds masked = value_or_throw(hasher.hash(std::vector<int32_t>{5, 6, -1, 8, 9}));
  const RowIds alone = value_or_throw(hasher.hash(std::vector<int32_t>{8, 9}));
  for (int at = 0; at < 2; ++at)
    EXPECT_TRUE(std::ranges::equal(masked.layer(at, 3, 2), alone.layer(at))) << "layer " << at;
}

TEST_P(DialectTraps, HistorySurvivesASplitOfPrefillAndDecode) {
  const MemoryHasher hasher = hasher_of(config_of(GetParam()));
  const std::vector<int32_t> ids = random_ids(1, 200);
  const RowIds whole = value_or_throw(hasher.hash(ids));
  for (size_t prompt : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{150}}) {
    NgramContext prefill = hasher.new_context(2);
    RowIds rows;
    throw_if_error(prefill.append(std::span(ids).first(prompt)));
    hasher.hash(prefill, static_cast<int64_t>(prompt), rows);
    NgramContext decode = prefill;  // what one machine hands to the other
    for (size_t t = prompt; t < ids.size(); ++t) {
      throw_if_error(decode.append(std::span(ids).subspan(t, 1)));
      hasher.hash(decode, 1, rows);
    }
    EXPECT_EQ(rows, whole) << prompt;
  }
}

TEST_P(DialectTraps, PlaceholdersOfChunkedPrefillLeaveNoTrace) {
  const MemoryHasher hasher = hasher_of(config_of(GetParam()));
  const std::vector<int32_t> ids = random_ids(2, 64), placeholders = {kEos, 0, kEos, 1};
  NgramContext context = hasher.new_context(4);
  RowIds rows;
  for (size_t begin = 0; begin < ids.size(); begin += 8) {
    throw_if_error(context.append(placeholders));
    throw_if_error(context.roll_back(4));
    throw_if_error(context.append(std::span(ids).subspan(begin, 8)));
    hasher.hash(context, 8, rows);
  }
  EXPECT_EQ(rows, value_or_throw(hasher.hash(ids)));
}

TEST_P(DialectTraps, RefusedDraftsOfAnyLengthLeaveTheStateInPlace) {
  const MemoryHasher hasher = hasher_of(config_of(GetParam()));
  const std::vector<int32_t> ids = random_ids(3, 300), drafts = random_ids(4, 5);
  NgramContext context = hasher.new_context(5);
  RowIds rows;
  for (size_t t = 0; t < ids.size(); ++t) {
    throw_if_error(context.append(std::span(ids).subspan(t, 1)));
    hasher.hash(context, 1, rows);
    throw_if_error(context.append(std::span(drafts).first(t % 6)));
    throw_if_error(context.roll_back(static_cast<int64_t>(t % 6)));
  }
  EXPECT_EQ(rows, value_or_throw(hasher.hash(ids)));
}

TEST_P(DialectTraps, IdsShiftedByBytesAreRefused) {
  const MemoryHasher hasher = hasher_of(config_of(GetParam()));
  NgramContext context = hasher.new_context();
  const std::vector<int32_t> shifted = {1, 5 << 8, 9};
  const Status status = context.append(shifted);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("token 1: got id 1280"), std::string::npos) << status.message();
  EXPECT_EQ(context.num_tokens(), 0);
}

TEST_P(RawRuleTraps, AnEosBelongsToTheTextBeforeItAndCutsTheOneAfter) {
  const MemoryHasher hasher = hasher_of(config_of(GetParam()));
  const RowIds rows = value_or_throw(hasher.hash(std::vector<int32_t>{3, 4, kEos, 5, 6, 8}));
  const RowIds other = value_or_throw(hasher.hash(std::vector<int32_t>{3, 9, kEos, 5, 6, 8}));
  const RowIds after = value_or_throw(hasher.hash(std::vector<int32_t>{5, 6, 8}));
  EXPECT_FALSE(std::ranges::equal(rows.layer(0, 2, 1), other.layer(0, 2, 1)));
  for (int at = 0; at < 2; ++at) EXPECT_TRUE(std::ranges::equal(rows.layer(at, 3, 3), after.layer(at)));
}

// Padding becomes eos before the published code hashes.
TEST(DialectTraps, LeftPaddingOfQwen4ExpReadsAsEos) {
  const MemoryHasher hasher = hasher_of(config_of(HashRule::kQwen4Exp));
  EXPECT_EQ(value_or_throw(hasher.hash(std::vector<int32_t>{-1, -1, -1, 5, 6, kEos, 9})),
            value_or_throw(hasher.hash(std::vector<int32_t>{kEos, kEos, kEos, 5, 6, kEos, 9})));
}

TEST_P(DialectTraps, RowsAboveTwoToThe31AreExact) {
  EngramConfig config = config_of(GetParam());
  config.compressed_vocab_size = 200000;
  if (!config.vocab_size.empty()) config.vocab_size.assign(3, (int64_t{1} << 31) + 11);
  config.vocab_size_ratio = GetParam() == HashRule::kLongcat ? 50000.25 : 0;
  const MemoryHasher hasher = hasher_of(config);
  const EngramLayout layout = value_or_throw(EngramLayout::create(config, kEos));
  ASSERT_GT(layout.num_rows(0), int64_t{9} << 31);
  std::vector<int32_t> ids = random_ids(5, 300);
  for (int32_t& id : ids) id = id == kEos ? kEos : id * 199;
  const RowIds rows = value_or_throw(hasher.hash(ids));
  std::vector<int64_t> wanted(rows.layer(1).size());
  std::vector<CanonicalId> canonical(ids.size());
  std::ranges::transform(ids, canonical.begin(), [](int32_t id) { return CanonicalId{id}; });
  hasher.layer(1).hash_plain(canonical, {}, wanted);
  EXPECT_TRUE(std::ranges::equal(rows.layer(1), wanted));
  EXPECT_GT(*std::ranges::max_element(wanted), int64_t{8} << 31);
}

TEST(DialectConfigs, WhatDoesNotFitIsOneError) {
  const auto expect = [](HashRule rule, auto change, const std::string& wanted) {
    EngramConfig config = config_of(rule);
    change(config);
    const Status status = EngramLayout::create(config, config.pad_token_id).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << wanted;
    EXPECT_NE(status.message().find(wanted), std::string::npos) << status.message();
  };
  const HashRule qwen = HashRule::kQwen4Exp, longcat = HashRule::kLongcat;
  expect(
      qwen, [](EngramConfig& c) { c.pad_token_id = kVocabulary; }, "eos_token_id: got 1000, wanted 0 .. 999");
  expect(
      longcat, [](EngramConfig& c) { c.pad_token_id = -1; }, "eos_token_id: got -1");
  expect(
      qwen, [](EngramConfig& c) { c.vocab_size[1] = 9; }, "vocab_size: got 20000 and 9");
  expect(
      qwen, [](EngramConfig& c) { c.vocab_size.assign(3, INT64_MAX); }, "vocab_size: got 9223372036854775807");
  expect(
      qwen, [](EngramConfig& c) { c.rows_divisible_by = 0; }, "rows_divisible_by: got 0");
  for (const double ratio : {0.0, -1.0, 1e300, std::numeric_limits<double>::quiet_NaN()})
    expect(
        longcat, [&](EngramConfig& c) { c.vocab_size_ratio = ratio; }, "vocab_size_ratio: got");
  const EngramLayout layout = value_or_throw(EngramLayout::create(config_of(qwen), kEos));
  EXPECT_FALSE(EngramLayout::create(config_of(qwen), kEos + 1).ok());
  EngramConfig padded = config_of(qwen);
  padded.rows_divisible_by = 1024;
  const EngramLayout rounded = value_or_throw(EngramLayout::create(padded, kEos));
  EXPECT_EQ(rounded.num_rows(0), (layout.num_rows(0) + 1023) / 1024 * 1024);
}

}  // namespace
}  // namespace engram
