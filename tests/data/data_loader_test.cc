// DataLoader and its permutation: batches against windows cut by hand, whatever the threads do.
#include "engram/data/data_loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "engram/data/permutation.h"
#include "tests/data/data_test.h"

namespace engram {
namespace {

constexpr int32_t kVocabSize = 50;

Documents random_documents(int count, unsigned seed) {
  std::mt19937 random(seed);
  Documents documents(static_cast<size_t>(count));
  for (auto& document : documents) {
    document.resize(1 + random() % 30);
    for (int32_t& id : document) id = static_cast<int32_t>(random() % kVocabSize);
  }
  return documents;
}

class LoaderTest : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    const std::vector<Documents> contents = {random_documents(40, 1), {}, random_documents(25, 2)};
    for (size_t s = 0; s < contents.size(); ++s) {
      shards_.push_back(std::make_unique<TokenShard>(make_shard(fmt::format("s{}", s), contents[s], kVocabSize)));
      pointers_.push_back(shards_.back().get());
      for (const auto& document : contents[s]) {
        is_start_.resize(stream_.size(), false);
        is_start_.push_back(true);
        stream_.insert(stream_.end(), document.begin(), document.end());
      }
    }
    is_start_.resize(stream_.size(), false);
  }

  static MemoryHasher make_hasher(int vocab_size) {
    EngramConfig config;
    config.layer_ids = {1, 3};
    config.n_heads = 2;
    config.vocab_size = {101, 211};
    config.compressed_vocab_size = vocab_size;
    const TokenMap map = TokenMap::identity(vocab_size);
    return value_or_throw(MemoryHasher::create(value_or_throw(EngramLayout::create(config, map)), map));
  }
  std::unique_ptr<DataLoader> loader(const DataLoaderOptions& options) const {
    return value_or_throw(DataLoader::create(pointers_, hasher_, options));
  }

  // Everything a row must hold, from the plain stream and the hash's specification.
  void check_row(const Batch& batch, int64_t b, int64_t window) const {
    const int64_t T = batch.sequence_length, begin = window * T;
    std::vector<int32_t> starts;
    for (int64_t t = 0; t < T; ++t) {
      const auto at = static_cast<size_t>(b * T + t), in_stream = static_cast<size_t>(begin + t);
      ASSERT_EQ(batch.tokens[at], stream_[in_stream]);
      ASSERT_EQ(batch.targets[at], stream_[in_stream + 1]);
      if (t > 0 && is_start_[in_stream]) starts.push_back(static_cast<int32_t>(t));
    }
    ASSERT_EQ(batch.starts[static_cast<size_t>(b)], starts);
    ASSERT_EQ(batch.row_ids.num_layers(), 2);
    const auto R = static_cast<size_t>(hasher_.rows_per_token());
    // Each document of the window is a separate sequence.
    std::vector<int32_t> edges = {0};
    edges.insert(edges.end(), starts.begin(), starts.end());
    edges.push_back(static_cast<int32_t>(T));
    for (int layer = 0; layer < 2; ++layer) {
      const std::span<const int64_t> row_ids = batch.row_ids.layer(layer);
      ASSERT_EQ(row_ids.size(), static_cast<size_t>(batch.batch_size * T) * R);
      for (size_t e = 0; e + 1 < edges.size(); ++e) {
        const auto length = static_cast<size_t>(edges[e + 1] - edges[e]);
        const auto first = static_cast<size_t>(b * T + edges[e]);
        std::vector<int64_t> wanted(length * R);
        std::vector<CanonicalId> ids;
        for (size_t t = first; t < first + length; ++t) ids.push_back(CanonicalId{batch.tokens[t]});
        hasher_.layer(layer).hash_plain(ids, {}, wanted);
        ASSERT_TRUE(std::ranges::equal(wanted, row_ids.subspan(first * R, length * R)));
      }
    }
  }

  std::vector<std::unique_ptr<TokenShard>> shards_;
  std::vector<const TokenShard*> pointers_;
  MemoryHasher hasher_ = make_hasher(kVocabSize);
  std::vector<int32_t> stream_;
  std::vector<bool> is_start_;
};

bool equal(const Batch& a, const Batch& b) {
  return a.index == b.index && a.batch_size == b.batch_size && a.sequence_length == b.sequence_length &&
         a.tokens == b.tokens && a.targets == b.targets && a.starts == b.starts && a.row_ids == b.row_ids;
}

// Finds the window a row was cut from by its contents. -1 when there is none.
int64_t find_window(const std::vector<int32_t>& stream, const Batch& batch, int64_t b) {
  const int64_t T = batch.sequence_length;
  for (int64_t w = 0; (w + 1) * T + 1 <= static_cast<int64_t>(stream.size()); ++w) {
    if (std::equal(batch.tokens.begin() + b * T, batch.tokens.begin() + (b + 1) * T, stream.begin() + w * T)) return w;
  }
  return -1;
}

TEST_F(LoaderTest, InOrderCutsTheStream) {
  for (const int threads : {0, 1, 3}) {
    for (const int64_t T : {1, 7, 16, 100}) {
      auto data = loader({.batch_size = 3,
                          .sequence_length = T,
                          .shuffle = false,
                          .drop_last = false,
                          .threads = threads,
                          .prefetch = 2});
      const int64_t windows = (static_cast<int64_t>(stream_.size()) - 1) / T;
      EXPECT_EQ(data->windows_per_epoch(), windows);
      for (int64_t window = 0; window < windows;) {
        const Batch batch = value_or_throw(data->next());
        ASSERT_EQ(batch.batch_size, std::min<int64_t>(3, windows - window));
        for (int64_t b = 0; b < batch.batch_size; ++b) ASSERT_NO_FATAL_FAILURE(check_row(batch, b, window++));
      }
      EXPECT_EQ(data->next().status().code(), StatusCode::kOutOfRange);
      EXPECT_EQ(data->next().status().code(), StatusCode::kOutOfRange);
      data->seek(0);
      EXPECT_EQ(value_or_throw(data->next()).index, 0);
    }
  }
}

TEST_F(LoaderTest, AMaskTakesTargetsAway) {
  std::mt19937 random(4);
  const Documents documents = random_documents(30, 5);
  std::vector<int64_t> first;
  std::vector<int32_t> tokens, targets;
  for (const auto& document : documents) {
    first.push_back(static_cast<int64_t>(random() % document.size()));
    tokens.insert(tokens.end(), document.begin(), document.end());
    targets.insert(targets.end(), document.begin(), document.end());
    std::fill_n(targets.end() - std::ssize(document), first.back(), -1);
  }
  const TokenShard shard = make_masked_shard("masked", documents, first, kVocabSize);
  auto data =
      value_or_throw(DataLoader::create({&shard}, {}, {.batch_size = 1, .sequence_length = 8, .shuffle = false}));
  for (int64_t window = 0; window < data->windows_per_epoch(); ++window) {
    const Batch batch = value_or_throw(data->next());
    EXPECT_TRUE(std::equal(batch.tokens.begin(), batch.tokens.end(), tokens.begin() + window * 8));
    EXPECT_TRUE(std::equal(batch.targets.begin(), batch.targets.end(), targets.begin() + window * 8 + 1));
  }
  const TokenShard nothing = make_masked_shard("nothing", {{1, 2, 3}}, {3}, kVocabSize);
  const Status refused = DataLoader::create({&nothing}, {}, {.batch_size = 1, .sequence_length = 2}).status();
  EXPECT_NE(refused.message().find("a mask of 3 tokens that leaves none to learn"), std::string::npos);
}

// A window as the specification has it: tokens, and where documents start in it.
struct PlainWindow {
  std::vector<int32_t> tokens;
  std::vector<int32_t> starts;
};
std::vector<PlainWindow> pack(const Documents& documents, size_t length) {
  std::vector<PlainWindow> windows;
  bool open = false;
  for (const auto& document : documents) {
    if (open && windows.back().tokens.size() + document.size() <= length + 1) {
      windows.back().starts.push_back(static_cast<int32_t>(windows.back().tokens.size()));
      windows.back().tokens.insert(windows.back().tokens.end(), document.begin(), document.end());
      continue;
    }
    open = document.size() <= length + 1;
    for (size_t at = 0; at == 0 || at + 1 < document.size(); at += length)
      windows.push_back({{document.begin() + static_cast<ptrdiff_t>(at),
                          document.begin() + static_cast<ptrdiff_t>(std::min(at + length + 1, document.size()))},
                         {}});
  }
  return windows;
}

// Every token but a document's first is a target once. What fills a window up reads no row of its own.
TEST_F(LoaderTest, DocumentsStayWhole) {
  Documents documents = random_documents(40, 1);
  for (auto& document : random_documents(25, 2)) documents.push_back(document);
  for (const int64_t T : {1, 4, 16, 28, 29, 30, 100}) {
    const auto windows = pack(documents, static_cast<size_t>(T));
    auto data = loader({.batch_size = 1, .sequence_length = T, .packing = Packing::kDocuments, .shuffle = false});
    ASSERT_EQ(data->windows_per_epoch(), std::ssize(windows)) << T;
    int64_t targets = 0;
    for (const PlainWindow& window : windows) {
      const Batch batch = value_or_throw(data->next());
      std::vector<int32_t> starts = window.starts;
      std::erase_if(starts, [&](int32_t start) { return start >= T; });
      ASSERT_EQ(batch.starts[0], starts);
      const std::span<const int64_t> rows = batch.row_ids.layer(0);
      const auto R = static_cast<size_t>(hasher_.rows_per_token());
      ASSERT_EQ(rows.size(), static_cast<size_t>(T) * R);
      for (size_t t = 0; t < static_cast<size_t>(T); ++t) {
        const bool fills = t >= window.tokens.size();
        ASSERT_EQ(batch.tokens[t], fills ? window.tokens.back() : window.tokens[t]);
        const bool last = t + 1 >= window.tokens.size() || std::ranges::count(window.starts, t + 1) > 0;
        ASSERT_EQ(batch.targets[t], last ? -1 : window.tokens[t + 1]);
        targets += last ? 0 : 1;
        ASSERT_TRUE(!fills || std::ranges::equal(rows.subspan(t * R, R), rows.subspan((t - 1) * R, R)));
      }
    }
    EXPECT_EQ(targets, std::ssize(stream_) - std::ssize(documents)) << T;
  }
}

TEST_F(LoaderTest, AsManyDocumentsAsFitShareAWindow) {
  const TokenShard shard = make_shard("few", {{1, 2, 3}, {4, 5}, {6, 7, 8, 9, 10, 11, 12}, {13}, {14, 15}}, kVocabSize);
  auto data = value_or_throw(DataLoader::create(
      {&shard}, {}, {.batch_size = 4, .sequence_length = 4, .packing = Packing::kDocuments, .shuffle = false}));
  EXPECT_EQ(data->windows_per_epoch(), 4);
  const Batch batch = value_or_throw(data->next());
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 12, 13, 14, 15, 15}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{2, 3, -1, 5, 7, 8, 9, 10, 11, 12, -1, -1, -1, 15, -1, -1}));
  EXPECT_EQ(batch.starts, (std::vector<std::vector<int32_t>>{{3}, {}, {}, {1}}));
}

// Each source shows all its windows once an epoch, in an order of its own, and a batch is a function of its number.
TEST_F(LoaderTest, SourcesGiveWindowsByTheirShares) {
  const std::vector<DataSource> sources = {{{pointers_[2]}, 0.3}, {{pointers_[0], pointers_[1]}, 0.7}};
  const DataLoaderOptions options{.batch_size = 5, .sequence_length = 8, .seed = 7};
  auto data = value_or_throw(DataLoader::create(sources, hasher_, options));
  std::vector<std::vector<int32_t>> streams(2);
  for (size_t s = 0; s < 2; ++s) {
    const TokenShard& shard = *sources[s].shards[0];
    streams[s].resize(static_cast<size_t>(shard.info().num_tokens));
    shard.copy_tokens(0, streams[s]);
    EXPECT_EQ(data->windows_per_epoch(s), (std::ssize(streams[s]) - 1) / 8);
  }
  std::vector<std::vector<int64_t>> seen(2);
  std::vector<Batch> batches;
  int64_t windows = 0;
  while (std::ssize(seen[0]) < 2 * data->windows_per_epoch(0) || std::ssize(seen[1]) < 2 * data->windows_per_epoch(1)) {
    batches.push_back(value_or_throw(data->next()));
    for (int64_t b = 0; b < 5; ++b) {
      const int64_t first = find_window(streams[0], batches.back(), b);
      const size_t source = first >= 0 ? 0 : 1;
      seen[source].push_back(first >= 0 ? first : find_window(streams[1], batches.back(), b));
      ASSERT_GE(seen[source].back(), 0);
      ++windows;
      ASSERT_LT(std::abs(static_cast<double>(seen[0].size()) - 0.3 * static_cast<double>(windows)), 1.0);
    }
  }
  for (size_t s = 0; s < 2; ++s) {
    const auto epoch = seen[s].begin() + data->windows_per_epoch(s);
    const std::vector<int64_t> one(seen[s].begin(), epoch), two(epoch, epoch + data->windows_per_epoch(s));
    EXPECT_EQ(std::set<int64_t>(one.begin(), one.end()).size(), one.size());
    EXPECT_EQ(std::set<int64_t>(two.begin(), two.end()).size(), two.size());
    EXPECT_NE(one, two);
  }
  data->seek(3);
  EXPECT_TRUE(equal(value_or_throw(data->next()), batches[3]));
  DataLoaderOptions part = options;
  part.batches_per_step = 4;
  part.first_batch = 2;
  part.num_batches = 2;
  auto rank = value_or_throw(DataLoader::create(sources, hasher_, part));
  for (const size_t wanted : {2, 3, 6, 7}) EXPECT_TRUE(equal(value_or_throw(rank->next()), batches[wanted]));

  const auto message = [&](const std::vector<DataSource>& of, DataLoaderOptions how) {
    return DataLoader::create(of, hasher_, how).status().message();
  };
  EXPECT_NE(message({{{pointers_[0]}, 0.3}, {{pointers_[1]}, 0.7}}, options).find("0 tokens are fewer"),
            std::string::npos);
  EXPECT_NE(message({{{pointers_[0]}, 0.3}}, options).find("a sum of 0.3"), std::string::npos);
  part = options;
  part.shuffle = false;
  EXPECT_NE(message(sources, part).find("several sources without shuffle"), std::string::npos);
  EXPECT_NE(message({}, options).find("got 0 sources"), std::string::npos);
}

TEST_F(LoaderTest, DropLastLeavesOutTheShortBatch) {
  auto data = loader({.batch_size = 3, .sequence_length = 16, .shuffle = false});
  const int64_t windows = data->windows_per_epoch();
  ASSERT_NE(windows % 3, 0);
  for (int64_t i = 0; i < windows / 3; ++i) EXPECT_EQ(value_or_throw(data->next()).batch_size, 3);
  EXPECT_EQ(data->next().status().code(), StatusCode::kOutOfRange);
}

TEST_F(LoaderTest, EveryEpochShowsEachWindowOnceInItsOwnOrder) {
  auto data = loader({.batch_size = 4, .sequence_length = 16, .seed = 7});
  const int64_t windows = data->windows_per_epoch();
  std::vector<int64_t> order;
  while (static_cast<int64_t>(order.size()) < 3 * windows) {
    const Batch batch = value_or_throw(data->next());
    for (int64_t b = 0; b < 4; ++b) {
      const int64_t window = find_window(stream_, batch, b);
      ASSERT_GE(window, 0);
      ASSERT_NO_FATAL_FAILURE(check_row(batch, b, window));
      order.push_back(window);
    }
  }
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    const std::vector<int64_t> seen(order.begin() + epoch * windows, order.begin() + (epoch + 1) * windows);
    EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), static_cast<size_t>(windows));
    orders.insert(seen);
  }
  EXPECT_EQ(orders.size(), 3u);
}

TEST_F(LoaderTest, ThreadsPrefetchAndSeekDoNotChangeABatch) {
  DataLoaderOptions plain{.batch_size = 4, .sequence_length = 16, .seed = 3, .threads = 0};
  auto data = loader(plain);
  std::vector<Batch> wanted;
  for (int i = 0; i < 60; ++i) wanted.push_back(value_or_throw(data->next()));
  for (const int threads : {0, 1, 2, 5}) {
    for (const int prefetch : {1, 3, 16}) {
      DataLoaderOptions options = plain;
      options.threads = threads;
      options.prefetch = prefetch;
      auto other = loader(options);
      for (int i = 0; i < 20; ++i) ASSERT_TRUE(equal(value_or_throw(other->next()), wanted[static_cast<size_t>(i)]));
      for (const int64_t place : {40, 3, 3, 59, 0}) {
        other->seek(place);
        for (int64_t i = place; i < std::min<int64_t>(place + 4, 60); ++i)
          ASSERT_TRUE(equal(value_or_throw(other->next()), wanted[static_cast<size_t>(i)]));
      }
    }
  }
  plain.seed = 4;
  EXPECT_FALSE(equal(value_or_throw(loader(plain)->next()), wanted[0]));
  loader(plain)->seek(int64_t{1} << 62);  // no overflow, wherever a resumed run points
}

TEST_F(LoaderTest, MemoryDoesNotChangeTheData) {
  const DataLoaderOptions options{.batch_size = 4, .sequence_length = 16, .seed = 3};
  auto with = loader(options);
  auto without = value_or_throw(DataLoader::create(pointers_, {}, options));
  for (int i = 0; i < 10; ++i) {
    Batch a = value_or_throw(with->next());
    const Batch b = value_or_throw(without->next());
    EXPECT_EQ(b.row_ids.num_layers(), 0);
    a.row_ids = RowIds();
    EXPECT_TRUE(equal(a, b));
  }
}

TEST_F(LoaderTest, StopsWhereverItStands) {
  for (int i = 0; i < 30; ++i) {
    auto data = loader({.batch_size = 2, .sequence_length = 8, .threads = 1 + i % 4, .prefetch = 1 + i % 5});
    for (int n = 0; n < i % 4; ++n) (void)value_or_throw(data->next());
    if (i % 3 == 0) data->seek(i);
  }
}

TEST_F(LoaderTest, AWorkersErrorSurfacesInNext) {
  const MemoryHasher small = make_hasher(30);  // the shards hold ids up to 49
  for (const int threads : {0, 2}) {
    auto data = value_or_throw(
        DataLoader::create(pointers_, small, {.batch_size = 4, .sequence_length = 16, .threads = threads}));
    for (int n = 0; n < 2; ++n) {
      const auto batch = data->next();
      ASSERT_FALSE(batch.ok());
      EXPECT_EQ(batch.status().code(), StatusCode::kInvalidArgument);
      EXPECT_NE(batch.status().message().find("batch 0, row"), std::string::npos) << batch.status().message();
    }
  }
}

TEST_F(LoaderTest, RefusesWhatCannotWork) {
  const auto message = [&](const std::vector<const TokenShard*>& shards, const DataLoaderOptions& options) {
    const auto data = DataLoader::create(shards, hasher_, options);
    EXPECT_EQ(data.status().code(), StatusCode::kInvalidArgument);
    return data.status().message();
  };
  const auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  has(message({}, {}), "no token shards");
  has(message({pointers_[1]}, {}), "0 tokens are fewer than one window");
  has(message(pointers_, {.sequence_length = static_cast<int64_t>(stream_.size())}), "fewer than one window");
  has(message(pointers_, {.batch_size = 1000, .sequence_length = 16, .shuffle = false}), "fewer than one batch");
  has(message(pointers_, {.batch_size = 0}), "batch_size is 0");
  has(message(pointers_, {.sequence_length = 0}), "sequence_length is 0");
  has(message(pointers_, {.seed = -1}), "seed is -1");
  has(message(pointers_, {.threads = -1}), "threads is -1");
  has(message(pointers_, {.prefetch = 0}), "prefetch is 0");
  const TokenShard other = make_shard("other", random_documents(40, 3), kVocabSize, std::string(64, 'b'));
  has(message({pointers_[0], &other}, {}), "prepare both with one tokenizer");
  const TokenShard larger = make_shard("larger", random_documents(40, 3), kVocabSize + 1);
  has(message({pointers_[0], &larger}, {}), "prepare both with one tokenizer");
}

TEST(Permutation, IsABijectionOfAnySize) {
  for (uint64_t size = 1; size < 400; ++size) {
    const Permutation order(size, size * 31, 2);
    std::vector<bool> seen(size, false);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t at = order(i);
      ASSERT_LT(at, size);
      ASSERT_FALSE(seen[at]);
      seen[at] = true;
    }
  }
  const uint64_t large = (uint64_t{1} << 62) - 5;
  const Permutation order(large, 1, 1);
  for (uint64_t i = 0; i < 1000; ++i) ASSERT_LT(order(large - 1 - i), large);
}

// Every element comes to every place equally often: chi-square over 4,000 epochs, 10 x 10 cells. The statistic has
// mean 81 and deviation 13 for a uniform shuffle.
TEST(Permutation, IsUniformOverEpochs) {
  constexpr uint64_t kSize = 10;
  constexpr int kEpochs = 4000;
  double cells[kSize][kSize] = {};
  int ascents = 0;
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const Permutation order(kSize, 12, static_cast<uint64_t>(epoch));
    for (uint64_t i = 0; i < kSize; ++i) cells[i][order(i)] += 1;
    for (uint64_t i = 0; i + 1 < kSize; ++i) ascents += order(i) < order(i + 1);
  }
  double chi_square = 0;
  for (const auto& row : cells)
    for (const double count : row) chi_square += (count - 400) * (count - 400) / 400;
  EXPECT_LT(chi_square, 81 + 5 * 13);
  EXPECT_NEAR(ascents / (9.0 * kEpochs), 0.5, 0.01);
}

}  // namespace
}  // namespace engram
