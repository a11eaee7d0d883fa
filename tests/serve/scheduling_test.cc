// BlockManager and Scheduler: pages are counted exactly, prefixes are shared exactly, nobody starves.
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>
#include <set>

#include "engram/serve/prompt_lookup.h"
#include "engram/serve/scheduler.h"

namespace engram {
namespace {

std::vector<int32_t> tokens_from(int32_t first, int64_t count) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

std::unique_ptr<Sequence> make_sequence(uint64_t id, std::vector<int32_t> prompt, int max_tokens = 100) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.sampling.max_tokens = max_tokens;
  return std::make_unique<Sequence>(id, std::move(request));
}

// Runs a sequence's tokens so far, as the engine would.
void compute(BlockManager& blocks, Sequence& s) {
  blocks.take_prefix(s);
  ASSERT_TRUE(blocks.reserve(s, s.num_tokens()));
  s.num_computed = s.num_tokens();
  blocks.publish(s);
}

TEST(BlockManager, ReservesAndReleases) {
  BlockManager blocks(4, 8);
  auto s = make_sequence(1, tokens_from(0, 20));
  blocks.take_prefix(*s);
  EXPECT_TRUE(blocks.reserve(*s, 17));
  EXPECT_EQ(s->block_table.size(), 3u);
  EXPECT_EQ(blocks.num_free(), 1);
  EXPECT_TRUE(blocks.reserve(*s, 24));  // no more are needed
  EXPECT_FALSE(blocks.reserve(*s, 41));
  EXPECT_EQ(s->block_table.size(), 3u);
  blocks.release(*s);
  EXPECT_EQ(blocks.num_free(), 4);
}

TEST(BlockManager, SharesAPrefixButNeverTheLastToken) {
  BlockManager blocks(10, 4);
  auto a = make_sequence(1, tokens_from(0, 12));
  compute(blocks, *a);
  auto same = make_sequence(2, tokens_from(0, 12));
  blocks.take_prefix(*same);
  EXPECT_EQ(same->num_computed, 8) << "the last token's logits have to be computed";
  EXPECT_EQ(same->block_table[0], a->block_table[0]);
  auto longer = make_sequence(3, tokens_from(0, 13));
  blocks.take_prefix(*longer);
  EXPECT_EQ(longer->num_computed, 12);
  std::vector<int32_t> other = tokens_from(0, 12);
  other[5] = 99;
  auto half = make_sequence(4, other);
  blocks.take_prefix(*half);
  EXPECT_EQ(half->num_computed, 4);
  EXPECT_EQ(blocks.num_free(), 7);
  for (Sequence* s : {a.get(), same.get(), longer.get(), half.get()}) blocks.release(*s);
  EXPECT_EQ(blocks.num_free(), 10);
}

TEST(BlockManager, PrefixesDifferByMemory) {
  BlockManager blocks(10, 4);
  auto on = make_sequence(1, tokens_from(0, 9)), off = make_sequence(2, tokens_from(0, 9));
  off->request.memory_off = true;
  compute(blocks, *on);
  blocks.take_prefix(*off);
  EXPECT_EQ(off->num_computed, 0) << "keys and values depend on whether the memory is on";
}

TEST(BlockManager, PrefixesDifferByOverlays) {
  BlockManager blocks(20, 4);
  std::vector<std::vector<std::string>> kinds = {{}, {"a"}, {"b"}, {"a", "b"}, {"b", "a"}};
  for (uint64_t i = 0; i < kinds.size(); ++i) {
    auto first = make_sequence(2 * i + 1, tokens_from(0, 9)), second = make_sequence(2 * i + 2, tokens_from(0, 9));
    first->request.overlays = second->request.overlays = kinds[i];
    blocks.take_prefix(*first);
    EXPECT_EQ(first->num_computed, 0) << i;
    blocks.release(*first);
    first = make_sequence(2 * i + 1, tokens_from(0, 9));
    first->request.overlays = kinds[i];
    compute(blocks, *first);
    blocks.take_prefix(*second);
    EXPECT_EQ(second->num_computed, 8) << i;
    blocks.release(*first);
    blocks.release(*second);
  }
}

// The second block of two chains has the same tokens; what stands before it differs.
TEST(BlockManager, ABlockIsKnownByWhatStandsBeforeIt) {
  BlockManager blocks(10, 2);
  auto a = make_sequence(1, {1, 2, 7, 8, 9}), b = make_sequence(2, {3, 4, 7, 8, 9});
  compute(blocks, *a);
  blocks.take_prefix(*b);
  EXPECT_EQ(b->num_computed, 0);
}

TEST(BlockManager, KeepsContentUntilItIsNeeded) {
  BlockManager blocks(4, 2);
  auto a = make_sequence(1, {1, 2, 3, 4, 5});
  compute(blocks, *a);
  blocks.release(*a);
  auto again = make_sequence(2, {1, 2, 3, 4, 6});
  blocks.take_prefix(*again);
  EXPECT_EQ(again->num_computed, 4);
  blocks.release(*again);
  auto other = make_sequence(3, tokens_from(100, 6));
  compute(blocks, *other);  // takes three of four blocks: the first block of the chain is used last
  auto third = make_sequence(4, {1, 2, 3, 4, 6});
  blocks.release(*other);
  blocks.take_prefix(*third);
  EXPECT_EQ(third->num_computed, 2);
}

TEST(BlockManager, WithoutPrefixCacheNothingIsShared) {
  BlockManager blocks(10, 4, /*prefix_cache=*/false);
  auto a = make_sequence(1, tokens_from(0, 12)), b = make_sequence(2, tokens_from(0, 12));
  compute(blocks, *a);
  blocks.take_prefix(*b);
  EXPECT_EQ(b->num_computed, 0);
}

TEST(Scheduler, MixesDecodingAndChunksWithinTheBudget) {
  BlockManager blocks(100, 4);
  Scheduler scheduler({.max_sequences = 4, .max_batched_tokens = 10}, blocks);
  scheduler.add(make_sequence(1, tokens_from(0, 3)));
  scheduler.add(make_sequence(2, tokens_from(50, 25)));
  auto chunks = scheduler.schedule();
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_EQ(chunks[0].count, 3);
  EXPECT_TRUE(chunks[0].samples());
  EXPECT_EQ(chunks[1].count, 7);
  EXPECT_FALSE(chunks[1].samples());
  for (const auto& chunk : chunks) scheduler.advance(*chunk.sequence, chunk.count);
  chunks[0].sequence->tokens.push_back(5);
  chunks = scheduler.schedule();
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_EQ(chunks[0].sequence->id, 1u);
  EXPECT_EQ(chunks[0].count, 1);
  EXPECT_EQ(chunks[1].count, 9);
}

// Random traffic, with drafts and without: every sequence ends, in every step pages belong to one writer, the budget
// holds.
TEST(Scheduler, EverySequenceEndsUnderPressure) {
  const auto next_token = [](int64_t position) { return static_cast<int32_t>(1000 + position % 3); };
  size_t num_drafts = 0, num_right = 0;
  for (unsigned seed = 1; seed <= 20; ++seed) {
    std::mt19937 engine(seed);
    const int64_t block_size = 1 + engine() % 5, longest = 40;
    BlockManager blocks((longest + block_size - 1) / block_size + static_cast<int64_t>(engine() % 20), block_size,
                        engine() % 2 == 0);
    const SchedulerOptions options{.max_sequences = 1 + static_cast<int64_t>(engine() % 8),
                                   .max_batched_tokens = 12,
                                   .max_draft_tokens = static_cast<int64_t>(engine() % 4)};
    Scheduler scheduler(options, blocks);
    std::map<uint64_t, int64_t> goal;
    for (uint64_t id = 1; id <= 12; ++id) {
      const int64_t prompt = 1 + engine() % 25;
      const int max_tokens = 1 + static_cast<int>(engine() % 15);
      goal[id] = prompt + max_tokens;
      scheduler.add(
          make_sequence(id, tokens_from(engine() % 2 == 0 ? 0 : static_cast<int32_t>(id * 100), prompt), max_tokens));
    }
    int steps = 0;
    while (!goal.empty()) {
      ASSERT_LT(++steps, 3000) << "seed " << seed;
      const auto chunks = scheduler.schedule();
      ASSERT_FALSE(chunks.empty()) << "seed " << seed;
      int64_t total = 0;
      std::set<int64_t> written;
      for (const auto& chunk : chunks) {
        total += chunk.count;
        const Sequence& s = *chunk.sequence;
        for (int64_t t = s.num_computed; t < s.num_computed + chunk.count; ++t) {
          const auto block = s.block_table.at(static_cast<size_t>(t / block_size));
          ASSERT_TRUE(written.insert(block * block_size + t % block_size).second) << "a slot with two writers";
        }
      }
      ASSERT_LE(total, options.max_batched_tokens);
      ASSERT_LE(scheduler.num_running(), options.max_sequences);
      for (const auto& chunk : chunks) {
        const bool samples = chunk.samples();
        Sequence& s = *chunk.sequence;
        const std::vector<int32_t> drafts = s.take_drafts();
        num_drafts += drafts.size();
        scheduler.advance(s, chunk.count - std::ssize(drafts));
        if (!samples) continue;
        s.tokens.push_back(next_token(s.num_tokens()));
        int64_t right = 0;
        for (; right < std::ssize(drafts) && drafts[static_cast<size_t>(right)] == s.tokens.back(); ++right) {
          scheduler.advance(s, 1);
          s.tokens.push_back(next_token(s.num_tokens()));
        }
        scheduler.judge_drafts(s, std::ssize(drafts), right);
        num_right += static_cast<size_t>(right);
        ASSERT_LE(s.num_tokens(), goal[s.id]);
        if (s.num_tokens() < goal[s.id]) continue;
        goal.erase(s.id);
        ASSERT_NE(scheduler.remove(s.id), nullptr);
      }
    }
    EXPECT_EQ(blocks.num_free(), blocks.num_blocks()) << "seed " << seed;
  }
  EXPECT_GT(num_right, 0u);
  EXPECT_GE(num_drafts, num_right);
}

TEST(Scheduler, PreemptsTheYoungestAndTakesItBackFirst) {
  BlockManager blocks(4, 2, /*prefix_cache=*/false);
  Scheduler scheduler({.max_sequences = 3, .max_batched_tokens = 8}, blocks);
  scheduler.add(make_sequence(1, tokens_from(0, 4)));
  scheduler.add(make_sequence(2, tokens_from(10, 4)));
  auto chunks = scheduler.schedule();
  ASSERT_EQ(chunks.size(), 2u);
  for (const auto& chunk : chunks) {
    scheduler.advance(*chunk.sequence, chunk.count);
    chunk.sequence->tokens.push_back(7);
  }
  chunks = scheduler.schedule();  // five tokens each need six blocks
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].sequence->id, 1u);
  EXPECT_EQ(scheduler.num_preemptions(), 1);
  EXPECT_EQ(scheduler.num_waiting(), 1);
  ASSERT_NE(scheduler.remove(1), nullptr);
  chunks = scheduler.schedule();
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].sequence->id, 2u);
  EXPECT_EQ(chunks[0].count, 5) << "from its tokens, the generated one included";
}

// What will run next is named once, a step's budget ahead: the rest of a prompt, then those who wait for a place.
TEST(Scheduler, ForetellsPromptTokensOnce) {
  BlockManager blocks(100, 4);
  Scheduler scheduler({.max_sequences = 2, .max_batched_tokens = 8}, blocks);
  for (uint64_t id = 1; id <= 3; ++id)
    scheduler.add(make_sequence(id, tokens_from(100 * static_cast<int32_t>(id), 11)));
  std::map<uint64_t, std::vector<int64_t>> named;
  const auto step = [&] {
    const auto chunks = scheduler.schedule();
    int64_t count = 0;
    for (const UpcomingTokens& next : scheduler.upcoming(chunks)) {
      for (int64_t i = 0; i < next.count; ++i) named[next.sequence->id].push_back(next.first + i);
      count += next.count;
    }
    EXPECT_LE(count, 8);
    for (const ScheduledChunk& chunk : chunks) {
      const bool samples = chunk.samples();
      scheduler.advance(*chunk.sequence, chunk.count);
      if (samples) chunk.sequence->tokens.push_back(7);
    }
  };
  const auto range = [](int64_t first, int64_t end) {
    std::vector<int64_t> out(static_cast<size_t>(end - first));
    std::iota(out.begin(), out.end(), first);
    return out;
  };
  step();  // 1: [0, 8) runs
  EXPECT_EQ(named[1], range(8, 11));
  EXPECT_EQ(named[2], range(0, 5)) << "what is left of the budget";
  step();  // 1: [8, 11), 2: [0, 5)
  EXPECT_EQ(named[1], range(8, 11)) << "named already";
  EXPECT_EQ(named[2], range(0, 11));
  EXPECT_EQ(named[3], range(0, 2)) << "there is no place for it yet; when there is, its rows are near";
  step();
  scheduler.remove(1);
  step();
  EXPECT_EQ(named[2], range(0, 11));
  EXPECT_EQ(named[3], range(0, 11));
  scheduler.remove(2);
  scheduler.remove(3);
}

// Decodes one sequence whose text is 5 6 7 8 over and over; what `next` says is sampled.
TEST(Scheduler, DraftsFollowHowTheLastOnesDid) {
  BlockManager blocks(100, 4);
  Scheduler scheduler({.max_sequences = 2, .max_batched_tokens = 8, .max_draft_tokens = 4}, blocks);
  scheduler.add(make_sequence(1, {5, 6, 7, 8, 5, 6, 7}));
  auto chunks = scheduler.schedule();
  ASSERT_EQ(chunks.size(), 1u);
  Sequence& s = *chunks[0].sequence;
  EXPECT_EQ(s.num_drafts, 0) << "a prompt has none";
  scheduler.advance(s, 7);
  s.tokens.push_back(8);
  const auto step = [&](int64_t right) {
    chunks = scheduler.schedule();
    EXPECT_TRUE(chunks[0].samples());
    EXPECT_EQ(chunks[0].count, 1 + s.num_drafts);
    const std::vector<int32_t> drafts = s.take_drafts();
    scheduler.advance(s, 1);
    scheduler.judge_drafts(s, std::ssize(drafts), right);
    s.tokens.push_back(drafts.at(0));
    return drafts;
  };
  EXPECT_EQ(step(0), (std::vector<int32_t>{5, 6, 7, 8}));
  EXPECT_EQ(step(0), (std::vector<int32_t>{6, 7})) << "none was right: half as many";
  EXPECT_EQ(step(0), (std::vector<int32_t>{7}));
  EXPECT_EQ(step(1), (std::vector<int32_t>{8})) << "at least one";
  EXPECT_EQ(step(2).size(), 2u) << "all were right: twice as many";
  EXPECT_EQ(step(3).size(), 4u);
  EXPECT_EQ(step(4).size(), 4u) << "some were right, or as many as there may be";
}

TEST(Scheduler, DraftsTakeOnlyWhatIsLeft) {
  BlockManager blocks(4, 4, /*prefix_cache=*/false);
  Scheduler scheduler({.max_sequences = 2, .max_batched_tokens = 8, .max_draft_tokens = 6}, blocks);
  scheduler.add(make_sequence(1, {5, 6, 5, 6}, /*max_tokens=*/3));
  Sequence& s = *scheduler.schedule().at(0).sequence;
  scheduler.advance(s, 4);
  s.tokens.push_back(5);
  ASSERT_EQ(scheduler.schedule().size(), 1u);
  EXPECT_EQ(s.num_drafts, 1) << "one of the three tokens is there, one comes from the step itself";
  s.take_drafts();
  scheduler.add(make_sequence(2, tokens_from(20, 7)));  // with it the step's budget is full
  ASSERT_EQ(scheduler.schedule().size(), 2u);
  EXPECT_EQ(s.num_drafts, 0);
  scheduler.remove(2);
  s.request.trace = true;
  EXPECT_EQ(scheduler.schedule().at(0).count, 1) << "traces are of tokens that stay";
  s.request.trace = false;
  s.request.sampling.max_tokens = 100;
  s.num_computed = 7;
  s.tokens = {5, 6, 5, 6, 5, 6, 5, 6};
  scheduler.add(make_sequence(2, tokens_from(20, 7)));
  ASSERT_EQ(scheduler.schedule().size(), 2u);
  EXPECT_EQ(s.num_drafts, 0);
}

TEST(PromptLookup, CopiesWhatStoodBehindTheLongestMatch) {
  const auto look = [](std::vector<int32_t> tokens, int64_t count) {
    const std::span<const int32_t> out = prompt_lookup(tokens, count);
    return std::vector<int32_t>(out.begin(), out.end());
  };
  using Tokens = std::vector<int32_t>;
  EXPECT_EQ(look({}, 3), Tokens{});
  EXPECT_EQ(look({1, 2}, 3), Tokens{});
  EXPECT_EQ(look({1, 2, 3, 9, 2}, 3), Tokens{}) << "one token says too little";
  EXPECT_EQ(look({1, 2, 3, 4, 1, 2}, 3), (Tokens{3, 4, 1}));
  EXPECT_EQ(look({1, 2, 3, 4, 1, 2}, 9), (Tokens{3, 4, 1, 2})) << "no more than there is";
  EXPECT_EQ(look({1, 2, 3, 4, 1, 2}, 0), Tokens{});
  EXPECT_EQ(look({0, 1, 2, 3, 8, 1, 2, 4, 0, 1, 2}, 1), Tokens{3}) << "three tokens agree there, two behind it";
  EXPECT_EQ(look({1, 2, 3, 1, 2, 4, 1, 2}, 1), Tokens{4}) << "of equals the last";
  EXPECT_EQ(look({9, 1, 2, 3, 4, 7, 8, 1, 2, 3, 4, 6, 9, 1, 2, 3, 4}, 1), Tokens{6}) << "four are enough";
  EXPECT_EQ(look({4, 4, 4, 4}, 5), Tokens{4}) << "a match may reach into the end";
}

TEST(Scheduler, RemovesWaitingSequencesToo) {
  BlockManager blocks(10, 2);
  Scheduler scheduler({.max_sequences = 1, .max_batched_tokens = 8}, blocks);
  scheduler.add(make_sequence(1, tokens_from(0, 4)));
  scheduler.add(make_sequence(2, tokens_from(0, 4)));
  EXPECT_EQ(scheduler.schedule().size(), 1u);
  EXPECT_EQ(scheduler.num_running() + scheduler.num_waiting(), 2);
  EXPECT_NE(scheduler.remove(2), nullptr);
  EXPECT_EQ(scheduler.remove(2), nullptr);
  EXPECT_EQ(scheduler.num_waiting(), 0);
}

}  // namespace
}  // namespace engram
