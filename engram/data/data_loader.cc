#include "engram/data/data_loader.h"

#include <algorithm>
#include <condition_variable>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "engram/core/exceptions.h"
#include "engram/core/mix.h"
#include "engram/data/mixture.h"
#include "engram/data/permutation.h"
#include "engram/data/token_stream.h"

namespace engram {
namespace {

struct Source {
  Source(std::vector<const TokenShard*> shards, const DataLoaderOptions& options)
      : stream(std::move(shards)), windows(stream, options.packing, options.sequence_length) {}
  TokenStream stream;
  TokenWindows windows;
};

// Batch i as a pure function of (shards, hasher, options, i). Immutable; threads share it.
class BatchAssembler {
 public:
  BatchAssembler(std::vector<Source> sources, Mixture mixture, MemoryHasher hasher, const DataLoaderOptions& options)
      : sources_(std::move(sources)), mixture_(std::move(mixture)), hasher_(std::move(hasher)), options_(options) {}

  const DataLoaderOptions& options() const { return options_; }
  int64_t num_windows(size_t source = 0) const { return sources_[source].windows.count(); }
  // Batches before the end; endless with shuffle.
  int64_t num_batches() const {
    if (options_.shuffle) return std::numeric_limits<int64_t>::max();
    return (num_windows() + (options_.drop_last ? 0 : options_.batch_size - 1)) / options_.batch_size;
  }

  Result<Batch> assemble(int64_t index) const {
    const int64_t T = options_.sequence_length;
    Batch batch;
    batch.index = index;
    batch.sequence_length = T;
    batch.batch_size = options_.batch_size;
    if (!options_.shuffle) batch.batch_size = std::min(batch.batch_size, num_windows() - index * options_.batch_size);
    const auto positions = static_cast<size_t>(batch.batch_size * T);
    batch.tokens.resize(positions);
    batch.targets.resize(positions);
    batch.starts.resize(static_cast<size_t>(batch.batch_size));
    batch.row_ids = RowIds(hasher_.num_layers(), hasher_.rows_per_token());
    batch.row_ids.reserve(batch.batch_size * T);

    for (int64_t b = 0; b < batch.batch_size; ++b) ENGRAM_RETURN_IF_ERROR(fill_row(place_of(index, b), b, batch));
    for (const Source& source : sources_) ENGRAM_RETURN_IF_ERROR(source.stream.readable());
    return batch;
  }

 private:
  struct Place {
    size_t source;
    int64_t window;
  };
  Place place_of(int64_t index, int64_t b) const {
    if (!options_.shuffle) return {0, index * options_.batch_size + b};
    // The batches of all epochs are one sequence; a batch may hold the end of one epoch and the start of the next.
    const auto [at, sample] = mixture_(
        static_cast<unsigned __int128>(index) * static_cast<uint64_t>(options_.batch_size) + static_cast<uint64_t>(b));
    const auto source = static_cast<size_t>(at);
    const auto windows = static_cast<uint64_t>(num_windows(source));
    const uint64_t seed = static_cast<uint64_t>(options_.seed) + (source == 0 ? 0 : splitmix64(source));
    const Permutation order(windows, seed, static_cast<uint64_t>(sample / windows));
    return {source, static_cast<int64_t>(order(static_cast<uint64_t>(sample % windows)))};
  }

  // A window that is not full repeats its last token and that one's rows, so that no others are read.
  Status fill_row(const Place& place, int64_t b, Batch& batch) const {
    const auto& [stream, windows] = sources_[place.source];
    const int64_t T = options_.sequence_length, begin = windows.begin(place.window), end = windows.end(place.window);
    const auto row = static_cast<size_t>(b * T), inputs = static_cast<size_t>(std::min(T, end - begin));
    const std::span<int32_t> tokens = std::span(batch.tokens).subspan(row, static_cast<size_t>(T));
    const std::span<int32_t> targets = std::span(batch.targets).subspan(row, static_cast<size_t>(T));
    std::vector<int32_t>& starts = batch.starts[static_cast<size_t>(b)];
    stream.copy_tokens(begin, tokens.first(inputs));
    std::ranges::fill(tokens.subspan(inputs), tokens[inputs - 1]);
    stream.copy_targets(begin + 1, targets.first(static_cast<size_t>(end - begin - 1)));
    std::ranges::fill(targets.subspan(static_cast<size_t>(end - begin - 1)), -1);
    starts = stream.starts(begin, end);
    if (options_.packing == Packing::kDocuments)
      for (const int32_t start : starts) targets[static_cast<size_t>(start) - 1] = -1;
    if (!starts.empty() && starts.back() == T) starts.pop_back();  // of the last target
    return hash_row(tokens.first(inputs), b, batch);
  }

  Status hash_row(std::span<const int32_t> tokens, int64_t b, Batch& batch) const {
    if (hasher_.num_layers() == 0) return {};
    NgramContext context = hasher_.new_context();
    const Status status = context.append(tokens, batch.starts[static_cast<size_t>(b)]);
    if (!status.ok()) return status.with_context(fmt::format("batch {}, row {}", batch.index, b));
    hasher_.hash(context, std::ssize(tokens), batch.row_ids);
    RowIds last(hasher_.num_layers(), hasher_.rows_per_token());
    last.append(batch.row_ids, batch.row_ids.num_tokens() - 1, 1);
    for (auto i = std::ssize(tokens); i < options_.sequence_length; ++i) batch.row_ids.append(last);
    return {};
  }

  std::vector<Source> sources_;
  Mixture mixture_;
  MemoryHasher hasher_;
  DataLoaderOptions options_;
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

  int64_t windows_per_epoch(size_t source) const override { return assembler_.num_windows(source); }

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

Status check_vocabulary(const TokenShard& shard, const TokenShard& first) {
  const TokenShardInfo &wanted = first.info(), &info = shard.info();
  if (info.vocab_size == wanted.vocab_size && info.vocabulary_digest == wanted.vocabulary_digest) return {};
  return invalid_argument(
      "{}: vocabulary of {} tokens with digest {}, but {} has {} with {}; prepare both with "
      "one tokenizer",
      shard.path(), info.vocab_size, info.vocabulary_digest, first.path(), wanted.vocab_size, wanted.vocabulary_digest);
}

Status check_source(const Source& source, const DataLoaderOptions& options) {
  const std::string& path = source.stream.shards()[0]->path();
  const int64_t tokens = source.stream.num_tokens(), windows = source.windows.count();
  if (tokens > 0 && source.stream.counted_tokens() == 0)
    return invalid_argument("{}: got a mask of {} tokens that leaves none to learn, wanted some", path, tokens);
  if (windows == 0)
    return invalid_argument("{}: {} tokens are fewer than one window of sequence_length + 1 = {}", path, tokens,
                            options.sequence_length + 1);
  if (!options.shuffle && options.drop_last && windows < options.batch_size)
    return invalid_argument(
        "{}: {} windows of {} tokens are fewer than one batch of {}; set drop_last to false, or a "
        "smaller batch",
        path, windows, options.sequence_length, options.batch_size);
  return {};
}

}  // namespace

Result<std::unique_ptr<DataLoader>> DataLoader::create(std::vector<DataSource> sources, MemoryHasher hasher,
                                                       const DataLoaderOptions& options) {
  ENGRAM_RETURN_IF_ERROR(check_options(options));
  std::vector<double> shares;
  for (const DataSource& source : sources) shares.push_back(source.share);
  ENGRAM_ASSIGN_OR_RETURN(Mixture mixture, Mixture::create(shares));
  if (sources.size() > 1 && !options.shuffle) return invalid_argument("data loader: several sources without shuffle");
  std::vector<Source> streams;
  for (DataSource& source : sources) {
    if (source.shards.empty()) return invalid_argument("data loader: no token shards");
    for (const TokenShard* shard : source.shards)
      ENGRAM_RETURN_IF_ERROR(
          check_vocabulary(*shard, streams.empty() ? *source.shards[0] : *streams[0].stream.shards()[0]));
    streams.emplace_back(std::move(source.shards), options);
    ENGRAM_RETURN_IF_ERROR(check_source(streams.back(), options));
  }
  BatchAssembler assembler(std::move(streams), std::move(mixture), std::move(hasher), options);
  auto loader = std::make_unique<ThreadedDataLoader>(std::move(assembler), options.prefetch);
  ENGRAM_RETURN_IF_ERROR(loader->start(options.threads));
  return std::unique_ptr<DataLoader>(std::move(loader));
}

Result<std::unique_ptr<DataLoader>> DataLoader::create(std::vector<const TokenShard*> shards, MemoryHasher hasher,
                                                       const DataLoaderOptions& options) {
  return create(std::vector<DataSource>{{std::move(shards), 1}}, std::move(hasher), options);
}

}  // namespace engram
