#include "engram/data/data_loader.h"

#include <algorithm>
#include <condition_variable>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "engram/core/exceptions.h"
#include "engram/data/permutation.h"

namespace engram {
namespace {

// The shards' tokens as one stream. Immutable; threads share it.
class TokenStream {
 public:
  explicit TokenStream(std::vector<const TokenShard*> shards) : shards_(std::move(shards)) {
    for (const TokenShard* shard : shards_) {
      begins_.push_back(num_tokens_);
      num_tokens_ += shard->info().num_tokens;
    }
  }
  int64_t num_tokens() const { return num_tokens_; }

  // Copies tokens [begin, begin + out.size()) of the stream.
  void copy(int64_t begin, std::span<int32_t> out) const {
    for (size_t s = shard_at(begin); !out.empty(); ++s) {
      const int64_t inside = begin - begins_[s];
      const auto count = std::min<int64_t>(shards_[s]->info().num_tokens - inside, static_cast<int64_t>(out.size()));
      shards_[s]->copy_tokens(inside, out.first(static_cast<size_t>(count)));
      out = out.subspan(static_cast<size_t>(count));
      begin += count;
    }
  }

  // For after tokens or starts were used.
  Status readable() const {
    for (const TokenShard* shard : shards_) ENGRAM_RETURN_IF_ERROR(shard->readable());
    return {};
  }

  // Document starts strictly inside (begin, end), relative to begin.
  std::vector<int32_t> starts(int64_t begin, int64_t end) const {
    std::vector<int32_t> result;
    for (size_t s = shard_at(begin); s < shards_.size() && begins_[s] < end; ++s) {
      const std::span<const int64_t> documents = shards_[s]->document_starts();
      auto it = std::upper_bound(documents.begin(), documents.end(), begin - begins_[s]);
      for (; it != documents.end() && *it + begins_[s] < end; ++it)
        result.push_back(static_cast<int32_t>(*it + begins_[s] - begin));
    }
    return result;
  }

 private:
  // The last shard that begins at or before the position (so never an empty one that another follows).
  size_t shard_at(int64_t position) const {
    return static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), position) - begins_.begin()) - 1;
  }

  std::vector<const TokenShard*> shards_;
  std::vector<int64_t> begins_;
  int64_t num_tokens_ = 0;
};

// Batch i as a pure function of (shards, hasher, options, i). Immutable; threads share it.
class BatchAssembler {
 public:
  BatchAssembler(TokenStream stream, MemoryHasher hasher, const DataLoaderOptions& options)
      : stream_(std::move(stream)),
        hasher_(std::move(hasher)),
        options_(options),
        num_windows_(std::max<int64_t>(stream_.num_tokens() - 1, 0) / options.sequence_length) {}

  const DataLoaderOptions& options() const { return options_; }
  int64_t num_windows() const { return num_windows_; }
  // Batches before the end; endless with shuffle.
  int64_t num_batches() const {
    if (options_.shuffle) return std::numeric_limits<int64_t>::max();
    return (num_windows_ + (options_.drop_last ? 0 : options_.batch_size - 1)) / options_.batch_size;
  }

  Result<Batch> assemble(int64_t index) const {
    const int64_t T = options_.sequence_length;
    Batch batch;
    batch.index = index;
    batch.sequence_length = T;
    batch.batch_size = options_.batch_size;
    if (!options_.shuffle) batch.batch_size = std::min(batch.batch_size, num_windows_ - index * options_.batch_size);
    const auto positions = static_cast<size_t>(batch.batch_size * T);
    batch.tokens.resize(positions);
    batch.targets.resize(positions);
    batch.starts.resize(static_cast<size_t>(batch.batch_size));
    batch.row_ids = RowIds(hasher_.num_layers(), hasher_.rows_per_token());
    batch.row_ids.reserve(batch.batch_size * T);

    std::vector<int32_t> window(static_cast<size_t>(T) + 1);
    for (int64_t b = 0; b < batch.batch_size; ++b) {
      const int64_t begin = window_of(index, b) * T;
      stream_.copy(begin, window);
      const auto row = static_cast<size_t>(b * T);
      std::copy(window.begin(), window.end() - 1, batch.tokens.begin() + static_cast<ptrdiff_t>(row));
      std::copy(window.begin() + 1, window.end(), batch.targets.begin() + static_cast<ptrdiff_t>(row));
      batch.starts[static_cast<size_t>(b)] = stream_.starts(begin, begin + T);
      ENGRAM_RETURN_IF_ERROR(hash_row(b, batch));
    }
    ENGRAM_RETURN_IF_ERROR(stream_.readable());
    return batch;
  }

 private:
  int64_t window_of(int64_t index, int64_t b) const {
    if (!options_.shuffle) return index * options_.batch_size + b;
    // The batches of all epochs are one sequence; a batch may hold the end of one epoch and the start of the next.
    const auto sample =
        static_cast<unsigned __int128>(index) * static_cast<uint64_t>(options_.batch_size) + static_cast<uint64_t>(b);
    const auto windows = static_cast<uint64_t>(num_windows_);
    const Permutation order(windows, static_cast<uint64_t>(options_.seed), static_cast<uint64_t>(sample / windows));
    return static_cast<int64_t>(order(static_cast<uint64_t>(sample % windows)));
  }

  Status hash_row(int64_t b, Batch& batch) const {
    if (hasher_.num_layers() == 0) return {};
    const auto T = static_cast<size_t>(options_.sequence_length), row = static_cast<size_t>(b) * T;
    NgramContext context = hasher_.new_context();
    const Status status = context.append(std::span(batch.tokens).subspan(row, T), batch.starts[static_cast<size_t>(b)]);
    if (!status.ok()) return status.with_context(fmt::format("batch {}, row {}", batch.index, b));
    hasher_.hash(context, options_.sequence_length, batch.row_ids);
    return {};
  }

  TokenStream stream_;
  MemoryHasher hasher_;
  DataLoaderOptions options_;
  int64_t num_windows_;
};

class ThreadedDataLoader : public DataLoader {
 public:
  ThreadedDataLoader(BatchAssembler assembler, int prefetch)
      : assembler_(std::move(assembler)), prefetch_(std::max(prefetch, 1)) {}
  ~ThreadedDataLoader() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_available_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  Status start(int threads) {
    return catch_exceptions([&] {
             for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
             return Status();
           })
        .with_context("data loader");
  }

  Result<Batch> next() override {
    std::unique_lock lock(mutex_);
    if (next_ >= assembler_.num_batches())
      return make_status(StatusCode::kOutOfRange, "batch {} is past the end: one pass holds {} batches", next_,
                         assembler_.num_batches());
    if (workers_.empty()) {
      Result<Batch> result = assemble(next_);
      if (result.ok()) ++next_;
      return result;
    }
    batch_ready_.wait(lock, [this] { return ready_.contains(next_); });
    const auto it = ready_.find(next_);
    // A batch that failed stays, so that asking again says the same.
    if (!it->second.ok()) return it->second.status();
    Result<Batch> result = std::move(it->second);
    ready_.erase(it);
    ++next_;
    lock.unlock();
    work_available_.notify_one();
    return result;
  }

  void seek(int64_t index) override {
    const DataLoaderOptions& options = assembler_.options();
    ENGRAM_CHECK(index >= 0 && index <= int64_t{1} << 62 && index % options.batches_per_step == 0, "index={}", index);
    {
      std::lock_guard lock(mutex_);
      ++generation_;
      ready_.clear();
      next_ = claimed_ = index / options.batches_per_step * options.num_batches;
    }
    work_available_.notify_all();
  }

  int64_t windows_per_epoch() const override { return assembler_.num_windows(); }

 private:
  // The `own`th batch of this loader.
  Result<Batch> assemble(int64_t own) const {
    const DataLoaderOptions& options = assembler_.options();
    const int64_t index =
        own / options.num_batches * options.batches_per_step + options.first_batch + own % options.num_batches;
    Result<Batch> result = catch_exceptions([&] { return assembler_.assemble(index); });
    if (result.ok() || result.status().code() != StatusCode::kResourceExhausted) return result;
    return result.status().with_context(
        fmt::format("batch {} of {} sequences of {} tokens", index, options.batch_size, options.sequence_length));
  }
  bool can_claim() const { return claimed_ < next_ + prefetch_ && claimed_ < assembler_.num_batches(); }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_available_.wait(lock, [this] { return stopping_ || can_claim(); });
      if (stopping_) return;
      const int64_t index = claimed_++, generation = generation_;
      lock.unlock();
      Result<Batch> result = assemble(index);
      lock.lock();
      if (generation != generation_) continue;  // seek() moved on meanwhile
      ready_.emplace(index, std::move(result));
      if (index == next_) batch_ready_.notify_one();
    }
  }

  const BatchAssembler assembler_;
  const int64_t prefetch_;
  std::mutex mutex_;
  std::condition_variable work_available_, batch_ready_;
  // Guarded by mutex_; numbers count this loader's own batches. next_ <= claimed_ <= next_ + prefetch_; ready_ holds
  // some of [next_, claimed_).
  int64_t next_ = 0, claimed_ = 0, generation_ = 0;
  bool stopping_ = false;
  std::map<int64_t, Result<Batch>> ready_;
  std::vector<std::thread> workers_;  // last: they use everything above
};

Status check_options(const DataLoaderOptions& options) {
  constexpr int64_t kMax = int64_t{1} << 30;
  const auto check = [](const char* name, int64_t got, int64_t low, int64_t high) {
    if (got >= low && got <= high) return Status();
    return invalid_argument("data loader: {} is {}, wanted {} to {}", name, got, low, high);
  };
  ENGRAM_RETURN_IF_ERROR(check("batch_size", options.batch_size, 1, kMax));
  ENGRAM_RETURN_IF_ERROR(check("sequence_length", options.sequence_length, 1, kMax));
  ENGRAM_RETURN_IF_ERROR(check("seed", options.seed, 0, std::numeric_limits<int64_t>::max()));
  ENGRAM_RETURN_IF_ERROR(check("threads", options.threads, 0, 1024));
  ENGRAM_RETURN_IF_ERROR(check("batches_per_step", options.batches_per_step, 1, options.shuffle ? kMax : 1));
  ENGRAM_RETURN_IF_ERROR(check("first_batch", options.first_batch, 0, options.batches_per_step - 1));
  ENGRAM_RETURN_IF_ERROR(check("num_batches", options.num_batches, 1, options.batches_per_step - options.first_batch));
  return check("prefetch", options.prefetch, 1, 1 << 20);
}

}  // namespace

Result<std::unique_ptr<DataLoader>> DataLoader::create(std::vector<const TokenShard*> shards, MemoryHasher hasher,
                                                       const DataLoaderOptions& options) {
  ENGRAM_RETURN_IF_ERROR(check_options(options));
  if (shards.empty()) return invalid_argument("data loader: no token shards");
  for (const TokenShard* shard : shards) {
    const TokenShardInfo &first = shards[0]->info(), &info = shard->info();
    if (info.vocab_size != first.vocab_size || info.vocabulary_digest != first.vocabulary_digest)
      return invalid_argument(
          "{}: vocabulary of {} tokens with digest {}, but {} has {} with {}; prepare both with "
          "one tokenizer",
          shard->path(), info.vocab_size, info.vocabulary_digest, shards[0]->path(), first.vocab_size,
          first.vocabulary_digest);
  }
  const std::string first_path = shards[0]->path();
  TokenStream stream(std::move(shards));
  const int64_t num_tokens = stream.num_tokens();
  BatchAssembler assembler(std::move(stream), std::move(hasher), options);
  if (assembler.num_windows() == 0)
    return invalid_argument("{}: {} tokens are fewer than one window of sequence_length + 1 = {}", first_path,
                            num_tokens, options.sequence_length + 1);
  if (assembler.num_batches() == 0)
    return invalid_argument(
        "{}: {} windows of {} tokens are fewer than one batch of {}; set drop_last to false, or a "
        "smaller batch",
        first_path, assembler.num_windows(), options.sequence_length, options.batch_size);
  auto loader = std::make_unique<ThreadedDataLoader>(std::move(assembler), options.prefetch);
  ENGRAM_RETURN_IF_ERROR(loader->start(options.threads));
  return std::unique_ptr<DataLoader>(std::move(loader));
}

}  // namespace engram
