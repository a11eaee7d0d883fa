#include "engram/store/memory_pipeline.h"

#include <array>
#include <mutex>

#include "engram/formats/safetensors.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

// Small tables, hashed as a model's: layers 1 and 14, orders 2 and 3, two heads each; 100 raw ids that map to 50.
class PipelineTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    EngramConfig config;
    config.layer_ids = {1, 14};
    config.max_ngram_size = 3;
    config.n_heads = 2;
    config.head_dim = 4;
    config.vocab_size = {97, 211};
    config.pad_token_id = 2;
    config.compressed_vocab_size = 50;
    const RowFileHash hash{config, map_.ids()[2], map_.sha256()};
    const EngramLayout layout = value_or_throw(EngramLayout::create(config, hash.compressed_pad_id));
    for (int i = 0; i < 2; ++i) hashers_.push_back(value_or_throw(NgramHasher::create(layout, map_, i)));
    info_ = value_or_throw(RowFileInfo::create({make_table(1, layout.num_rows(0), {RowType::kFP32, 4}),
                                                make_table(14, layout.num_rows(1), {RowType::kFP32, 4})},
                                               hash));
    throw_if_error(write_row_file(Env::posix(), path("rows"), info_));
  }
  static std::vector<int32_t> halves() {
    std::vector<int32_t> ids(100);
    for (int i = 0; i < 100; ++i) ids[static_cast<size_t>(i)] = i / 2;
    return ids;
  }
  MemoryPipeline open(const std::string& tier) const {
    return value_or_throw(MemoryPipeline::open(Env::posix(), tier + ":" + path("rows"), map_));
  }
  // The rows of a whole sequence, from the hasher's plain loop.
  std::vector<std::byte> wanted(int layer, std::span<const int32_t> tokens, std::span<const int32_t> starts) const {
    std::vector<int64_t> ids(tokens.size() * 4);
    throw_if_error(hashers_[static_cast<size_t>(layer)].hash_ref(tokens, starts, {}, ids));
    return wanted_rows(info_.tables[static_cast<size_t>(layer)], ids);
  }
  static constexpr size_t kTokenBytes = 4 * 16;

  const TokenMap map_ = value_or_throw(TokenMap::from_ids(halves(), 50));
  std::vector<NgramHasher> hashers_;
  RowFileInfo info_;
};

struct Text {
  std::vector<int32_t> tokens, starts;
};

Text random_text(size_t length, uint64_t seed) {
  std::mt19937_64 random(seed);
  Text text;
  for (size_t i = 0; i < length; ++i) {
    text.tokens.push_back(random() % 9 == 0 ? -1 : static_cast<int32_t>(random() % 100));
    if (random() % 11 == 0) text.starts.push_back(static_cast<int32_t>(i));
  }
  return text;
}

// Reads tokens [begin, begin + count) of a text, and appends the rows of both layers.
Status read_part(const MemoryPipeline& pipeline, TokenHistory& history, const Text& text, size_t begin, size_t count,
                 std::array<std::vector<std::byte>, 2>& rows) {
  std::vector<int32_t> starts;
  for (int32_t start : text.starts) {
    const int64_t at = start - static_cast<int64_t>(begin);
    if (at >= 0 && at < static_cast<int64_t>(count)) starts.push_back(static_cast<int32_t>(at));
  }
  std::array<std::vector<std::byte>, 2> out;
  for (auto& bytes : out) bytes.resize(count * 4 * 16);
  const SequenceChunk chunk{&history, std::span(text.tokens).subspan(begin, count), starts};
  ENGRAM_ASSIGN_OR_RETURN(MemoryRead read,
                          pipeline.read({&chunk, 1}, std::array<std::span<std::byte>, 2>{out[0], out[1]}));
  for (int layer = 0; layer < 2; ++layer) {
    ENGRAM_RETURN_IF_ERROR(read.wait(layer));
    auto& all = rows[static_cast<size_t>(layer)];
    all.insert(all.end(), out[static_cast<size_t>(layer)].begin(), out[static_cast<size_t>(layer)].end());
  }
  return {};
}

TEST_F(PipelineTest, AnySplitGivesTheRowsOfTheWhole) {
  for (const char* tier : {"dram", "nvme", "pagecache"}) {
    const MemoryPipeline pipeline = open(tier);
    EXPECT_EQ(pipeline.layer_ids(), (std::vector<int>{1, 14}));
    EXPECT_EQ(pipeline.rows_per_token(), 4);
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const Text text = random_text(seed == 0 ? 5000 : 120, seed);
      std::mt19937_64 random(seed);
      TokenHistory history(3);
      std::array<std::vector<std::byte>, 2> rows;
      for (size_t at = 0; at < text.tokens.size();) {
        // Prefill chunks of any size, then single tokens.
        const size_t most = text.tokens.size() - at;
        const size_t count = most < 40 ? 1 : std::min<size_t>(most, 1 + random() % (seed == 0 ? 3000 : 30));
        throw_if_error(read_part(pipeline, history, text, at, count, rows));
        at += count;
      }
      for (int layer = 0; layer < 2; ++layer)
        EXPECT_TRUE(rows[static_cast<size_t>(layer)] == wanted(layer, text.tokens, text.starts)) << tier << seed;
    }
  }
}

TEST_F(PipelineTest, BatchesOfSequences) {
  const MemoryPipeline pipeline = open("nvme");
  std::vector<Text> texts;
  std::vector<TokenHistory> histories(7, TokenHistory(3));
  std::vector<SequenceChunk> chunks;
  size_t tokens = 0;
  for (uint64_t i = 0; i < 7; ++i) {
    texts.push_back(random_text(i == 3 ? 0 : i == 5 ? 2500 : 1 + 30 * i, i));
    tokens += texts.back().tokens.size();
  }
  for (size_t i = 0; i < 7; ++i) chunks.push_back({&histories[i], texts[i].tokens, texts[i].starts});
  std::vector<std::byte> first(tokens * kTokenBytes), second(tokens * kTokenBytes);
  auto read = value_or_throw(pipeline.read(chunks, std::array<std::span<std::byte>, 2>{first, second}));
  throw_if_error(read.wait(0));
  throw_if_error(read.wait(1));
  size_t at = 0;
  for (const Text& text : texts) {
    const size_t bytes = text.tokens.size() * kTokenBytes;
    for (int layer = 0; layer < 2; ++layer) {
      const auto got = std::span(layer == 0 ? first : second).subspan(at, bytes);
      EXPECT_TRUE(std::ranges::equal(got, wanted(layer, text.tokens, text.starts)));
    }
    at += bytes;
  }
}

// Drafts are read, some are rejected, others follow: the rows are those of the text that stays.
TEST_F(PipelineTest, RejectedDraftsAreTakenBack) {
  const MemoryPipeline pipeline = open("dram");
  std::mt19937_64 random(8);
  Text kept = random_text(20, 9);
  TokenHistory history(3, 5);
  std::array<std::vector<std::byte>, 2> rows;
  throw_if_error(read_part(pipeline, history, kept, 0, 20, rows));
  for (int step = 0; step < 200; ++step) {
    const size_t before = kept.tokens.size();
    const Text draft = random_text(1 + random() % 5, 1000 + static_cast<uint64_t>(step));
    Text all = kept;
    for (int32_t start : draft.starts) all.starts.push_back(start + static_cast<int32_t>(before));
    all.tokens.insert(all.tokens.end(), draft.tokens.begin(), draft.tokens.end());
    const SequenceChunk hint{&history, draft.tokens, draft.starts};
    pipeline.prefetch({&hint, 1});
    throw_if_error(read_part(pipeline, history, all, before, draft.tokens.size(), rows));
    const size_t rejected = random() % (draft.tokens.size() + 1);
    throw_if_error(history.roll_back(static_cast<int64_t>(rejected)));
    all.tokens.resize(all.tokens.size() - rejected);
    std::erase_if(all.starts, [&](int32_t start) { return static_cast<size_t>(start) >= all.tokens.size(); });
    for (auto& layer : rows) layer.resize(all.tokens.size() * kTokenBytes);
    kept = all;
    EXPECT_EQ(history.num_tokens(), static_cast<int64_t>(kept.tokens.size()));
  }
  for (int layer = 0; layer < 2; ++layer)
    EXPECT_TRUE(rows[static_cast<size_t>(layer)] == wanted(layer, kept.tokens, kept.starts));
}

TEST_F(PipelineTest, RollBackHasItsLimits) {
  TokenHistory history(3, 2);
  history.append(std::vector<int32_t>{1, 2, 3}, {});
  throw_if_error(history.roll_back(3));
  EXPECT_TRUE(history.lookback().empty());
  history.append(std::vector<int32_t>{1, 2, 3, 4, 5, 6}, {});
  EXPECT_EQ(history.roll_back(3).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(history.roll_back(-1).code(), StatusCode::kInvalidArgument);
  throw_if_error(history.roll_back(2));
  EXPECT_EQ(history.lookback(), (std::vector<int32_t>{3, 4}));
  EXPECT_EQ(history.roll_back(1).code(), StatusCode::kInvalidArgument);
  history.append(std::vector<int32_t>{7, -1}, std::vector<int32_t>{1});
  EXPECT_EQ(history.lookback(), (std::vector<int32_t>{-1}));
  throw_if_error(history.roll_back(1));
  EXPECT_EQ(history.lookback(), (std::vector<int32_t>{4, 7}));
}

TEST_F(PipelineTest, BadCallsChangeNothing) {
  const MemoryPipeline pipeline = open("dram");
  TokenHistory history(3), other(3);
  std::vector<std::byte> first(3 * kTokenBytes), second(3 * kTokenBytes);
  const auto code = [&](std::vector<int32_t> tokens, std::vector<int32_t> starts, size_t cut = 0) {
    const std::vector<SequenceChunk> chunks = {{&other, std::span(tokens).first(1), {}},
                                               {&history, std::span(tokens).subspan(1), starts}};
    return pipeline
        .read(chunks, std::array<std::span<std::byte>, 2>{first, std::span(second).first(second.size() - cut)})
        .status()
        .code();
  };
  EXPECT_EQ(code({1, 2, 100}, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2, -2}, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2, 3}, {2}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2, 3}, {-1}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2, 3}, {1, 1}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2, 3}, {}, 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2}, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(history.num_tokens() + other.num_tokens(), 0);
  EXPECT_EQ(pipeline.store(0).stats().reads, 0u);
  EXPECT_EQ(code({1, 2, 3}, {1}), StatusCode::kOk);
  EXPECT_EQ(history.num_tokens(), 2);
  const std::vector<int32_t> bad = {5, 1000};
  const SequenceChunk hint{&history, bad, {}};
  pipeline.prefetch({&hint, 1});
  EXPECT_EQ(history.num_tokens(), 2);
}

TEST_F(PipelineTest, OpenRefusesWhatDoesNotFit) {
  EXPECT_EQ(MemoryPipeline::open(Env::posix(), "dram:" + path("rows"), TokenMap::identity(50)).status().code(),
            StatusCode::kFailedPrecondition);
  throw_if_error(write_row_file(Env::posix(), path("unhashed"), test_row_file_info()));
  EXPECT_EQ(MemoryPipeline::open(Env::posix(), "dram:" + path("unhashed"), map_).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(value_or_throw(MemoryPipeline::open(Env::posix(), "dram:" + path("rows"), map_, std::vector<int>{14}))
                .layer_ids(),
            std::vector<int>{14});
  // A profile counts the rows of one tokenizer.
  for (const std::string& digest : {map_.sha256(), TokenMap::identity(50).sha256()}) {
    auto profile = value_or_throw(
        SafetensorsWriter::create(Env::posix(), path("profile"),
                                  {{"layers.1.row_ids", DType::kI64, {0}}, {"layers.14.row_ids", DType::kI64, {0}}},
                                  {{"token_map_sha256", digest}}));
    throw_if_error(profile->finish());
    const std::string uri = "nvme:" + path("rows") + "?hot=" + path("profile");
    EXPECT_EQ(MemoryPipeline::open(Env::posix(), uri, map_).status().code(),
              digest == map_.sha256() ? StatusCode::kOk : StatusCode::kFailedPrecondition);
  }
  std::vector<std::unique_ptr<RowStore>> stores;
  EXPECT_EQ(MemoryPipeline::create(map_, hashers_, std::move(stores), {1, 14}).status().code(),
            StatusCode::kInvalidArgument);
}

// A store whose reads end when the test says so.
class GatedStore final : public RowStore {
 public:
  explicit GatedStore(int64_t num_rows) : num_rows_(num_rows) {}
  void prefetch(std::span<const int64_t>) override {}
  Pending read(std::span<const int64_t>, std::span<std::byte>) override {
    std::lock_guard lock(mutex_);
    reads_.emplace_back();
    return reads_.back().pending();
  }
  int64_t num_rows() const override { return num_rows_; }
  size_t row_bytes() const override { return 16; }
  StoreStats stats() const override { return {}; }
  void end_all(const Status& status) {
    std::lock_guard lock(mutex_);
    for (Completion& read : reads_) read.finish(status);
    reads_.clear();
  }

 private:
  const int64_t num_rows_;
  std::mutex mutex_;
  std::vector<Completion> reads_;
};

TEST_F(PipelineTest, LayersEndByThemselves) {
  auto early = std::make_unique<GatedStore>(hashers_[0].num_rows());
  auto late = std::make_unique<GatedStore>(hashers_[1].num_rows());
  GatedStore &first = *early, &second = *late;
  std::vector<std::unique_ptr<RowStore>> stores;
  stores.push_back(std::move(early));
  stores.push_back(std::move(late));
  const auto pipeline = value_or_throw(MemoryPipeline::create(map_, hashers_, std::move(stores), {1, 14}));
  const Text text = random_text(3000, 1);
  TokenHistory history(3);
  const SequenceChunk chunk{&history, text.tokens, text.starts};
  std::vector<std::byte> a(3000 * kTokenBytes), b(3000 * kTokenBytes);
  auto read = value_or_throw(pipeline.read({&chunk, 1}, std::array<std::span<std::byte>, 2>{a, b}));
  EXPECT_FALSE(read.done(0));
  first.end_all(Status());
  EXPECT_TRUE(read.done(0));
  throw_if_error(read.wait(0));
  EXPECT_FALSE(read.done(1));
  second.end_all(data_loss("page 7"));
  EXPECT_EQ(read.wait(1).message(), "page 7");
}

}  // namespace
}  // namespace engram
