// NgramContext's limits, and MemoryHasher over all layers. That rows are right: ngram_hasher_test.cc.
#include "engram/hash/ngram_context.h"

#include <gtest/gtest.h>

#include "engram/hash/memory_hasher.h"

namespace engram {
namespace {

using Ids = std::vector<int32_t>;

TEST(NgramContext, RollBackHasItsLimits) {
  NgramContext context(TokenMap::identity(10), 3, 2);
  throw_if_error(context.append(Ids{1, 2, 3}));
  throw_if_error(context.roll_back(3));
  EXPECT_EQ(context.num_tokens(), 0);
  throw_if_error(context.append(Ids{1, 2, 3, 4, 5, 6}));
  throw_if_error(context.append(Ids{7}));
  EXPECT_EQ(context.num_held(), 3);  // the last append, and two tokens before it
  EXPECT_EQ(context.roll_back(4).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(context.roll_back(-1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(context.num_tokens(), 7);
  throw_if_error(context.roll_back(3));
  EXPECT_EQ(context.num_tokens(), 4);
  throw_if_error(context.append(Ids{8, -1}, Ids{1}));
  EXPECT_TRUE(std::ranges::equal(context.ids(2), Ids{3, 4, 8, 0}));
  EXPECT_EQ(context.reach(2)[0], 3);
  EXPECT_EQ(context.reach(2)[1], 0) << "masked";
}

TEST(NgramContext, BadCallsAreRefusedAndChangeNothing) {
  NgramContext context(TokenMap::identity(100), 3);
  throw_if_error(context.append(Ids{5}));
  const auto refused = [&](const Status& status, const std::string& part) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << part;
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    EXPECT_EQ(context.num_tokens(), 1);
  };
  refused(context.append(Ids{1, 100}), "token 1: got id 100, wanted -1 (masked) .. 99");
  refused(context.append(Ids{-2, 1}), "token 0: got id -2");
  refused(context.append(Ids{INT32_MIN}), "token 0");
  refused(context.append(Ids{INT32_MAX}), "token 0");
  refused(context.append(Ids{1, 2}, Ids{2}), "starts: got 2 at place 0");
  refused(context.append(Ids{1, 2}, Ids{-1}), "starts: got -1");
  refused(context.append(Ids{1, 2, 3}, Ids{2, 1}), "starts: got 1 at place 1");
  refused(context.append_canonical(std::vector<CanonicalId>{CanonicalId{100}}), "token 0: got id 100");
}

EngramConfig two_layers() {
  EngramConfig config;
  config.layer_ids = {1, 14};
  config.n_heads = 2;
  config.vocab_size = {97, 211};
  config.pad_token_id = 0;
  config.compressed_vocab_size = 50;
  return config;
}

TEST(MemoryHasher, RefusesAMapOfAnotherSize) {
  EXPECT_EQ(EngramLayout::create(two_layers(), TokenMap::identity(49)).status().message(),
            "compressed_vocab_size: got 50, wanted the 49 of this tokenizer");
  const EngramLayout layout = value_or_throw(EngramLayout::create(two_layers(), TokenMap::identity(50)));
  EXPECT_EQ(MemoryHasher::create(layout, TokenMap::identity(49)).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(MemoryHasher::create(layout, TokenMap::identity(50), Ids{1, 2}).status().message(),
            "block 2 has no memory, wanted one of 1, 14");
}

TEST(MemoryHasher, HashesEveryLayerOnceAndTextInChunks) {
  const TokenMap map = TokenMap::identity(50);
  const EngramLayout layout = value_or_throw(EngramLayout::create(two_layers(), map));
  const MemoryHasher hasher = value_or_throw(MemoryHasher::create(layout, map));
  Ids tokens(40000);
  for (size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<int32_t>((t * t + t / 7) % 50);
  const Ids starts = {0, 16383, 16385, 32768};
  const RowIds whole = value_or_throw(hasher.hash(tokens, starts));
  EXPECT_EQ(whole.num_layers(), 2);
  EXPECT_EQ(whole.num_tokens(), 40000);
  RowIds chunks(2, hasher.rows_per_token());
  throw_if_error(hasher.hash_text(tokens, std::vector<int64_t>(starts.begin(), starts.end()),
                                  [&](int64_t first, const RowIds& ids) {
                                    EXPECT_EQ(first, chunks.num_tokens());
                                    chunks.append(ids);
                                  }));
  const MemoryHasher second = value_or_throw(MemoryHasher::create(layout, map, Ids{14}));
  for (int layer = 0; layer < 2; ++layer) EXPECT_TRUE(std::ranges::equal(whole.layer(layer), chunks.layer(layer)));
  EXPECT_TRUE(std::ranges::equal(whole.layer(1), value_or_throw(second.hash(tokens, starts)).layer(0)));
  EXPECT_FALSE(std::ranges::equal(whole.layer(0), whole.layer(1)));
  EXPECT_EQ(hasher.hash(Ids{50}).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram
