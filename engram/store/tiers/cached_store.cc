#include "engram/store/tiers/cached_store.h"

#include <algorithm>
#include <cstring>

// How rows from below reach their readers
//
// A Read is one read(); a Fetch is one read of the store below; a Want is what one Read takes from one Fetch.
// under_way_ names, for each row, the Fetch that brings it. The rules, all under mutex_:
//   1. A Fetch claims a row by putting it into under_way_, and only the Fetch that claimed it takes it out, in
//      end_fetch(). read_alone() fetches without claiming, and a hint may be displaced (7), so a row may have two
//      Fetches: end_fetch() compares them.
//   2. end_fetch() takes the rows out of under_way_ and the Wants out of the Fetch in one critical section. So a Read
//      either adds its Want before that, and is served, or does not find the row there.
//   3. end_fetch() puts rows into the cache before it takes them out of under_way_. A Read that looked into the cache
//      before and into under_way_ after fetches the row once more: wasted work, never a wrong byte.
//   4. Read::parts counts the Fetches that a Read waits for, plus one for read() itself. It grows before mutex_ is
//      released, so before any of those Fetches can end; the last end_part() finishes the Read, exactly once.
//   5. An error ends only the Read that claimed. A Want that joined another's Fetch reads again, alone.
//   6. under_way_ is bounded. read() waits for room_, hints are dropped. read_alone() is outside the bound, because it
//      may run on the thread that ends Fetches, which must not wait for the room that it makes itself.
//   7. prefetch() never waits. The store below may refuse a hint, and a Read that had joined it could then be served
//      only by the hinting thread. So a hint is joinable only once the store below has taken it; until then a Read that
//      meets it in under_way_ displaces it there and fetches the row itself.
// mutex_ comes before Read::mutex. Neither is held while rows are copied or the store below is called.

namespace engram {
namespace {

constexpr size_t kFetchRows = 4096;              // of one Fetch, at most
constexpr size_t kMostBytesUnderWay = 64 << 20;  // of all Fetches, before read() blocks

}  // namespace

// Its mutex comes after the store's.
struct CachedStore::Read {
  std::vector<RowTarget> targets;  // those that neither hot set nor cache had
  std::byte* out = nullptr;
  std::chrono::steady_clock::time_point start;
  uint64_t rows = 0, unique = 0, from_hot = 0, from_cache = 0;
  Completion completion;

  std::mutex mutex;
  int parts = 1;  // Fetches that it waits for, and read() itself
  Status status;

  explicit Read(std::shared_ptr<LatencyHistogram> stall) : completion(std::move(stall)) {}
};

// Targets of one Read: wants[i] is targets[begin, end) of the same row, which stands at `place` of the Fetch.
struct CachedStore::Want {
  struct Row {
    size_t begin, end, place;
  };
  std::shared_ptr<Read> read;
  std::vector<Row> rows;
  bool joined = false;  // the Fetch is another's
};

struct CachedStore::Fetch {
  std::vector<int64_t> ids;
  std::unique_ptr<std::byte[]> rows;
  bool is_hint = false;
  // Under the store's mutex until the Fetch ends:
  bool joinable = true;  // of a hint: the store below has taken it
  std::vector<std::shared_ptr<Want>> wants;
  std::vector<bool> wanted;  // [ids] of a hint: some Read wants the row
};

CachedStore::CachedStore(std::unique_ptr<RowStore> base, std::unique_ptr<HotSet> hot, std::unique_ptr<RowCache> cache)
    : base_(std::move(base)), hot_(std::move(hot)), cache_(std::move(cache)) {}

CachedStore::~CachedStore() { in_flight_.wait_for_none(); }

Pending CachedStore::read(std::span<const int64_t> row_ids, std::span<std::byte> out) {
  const auto start = std::chrono::steady_clock::now();
  if (Status status = check_read(*this, row_ids, out); !status.ok()) {
    counters_->failed_reads.fetch_add(1, std::memory_order_relaxed);
    return status;
  }
  const auto read = std::make_shared<Read>(std::shared_ptr<LatencyHistogram>(counters_, &counters_->stall));
  read->out = out.data();
  read->start = start;
  read->rows = row_ids.size();
  const std::vector<RowTarget> targets = sort_targets(row_ids);
  for (size_t begin = 0, end; begin < targets.size(); begin = end) {
    for (end = begin + 1; end < targets.size() && targets[end].row == targets[begin].row;) ++end;
    ++read->unique;
    const auto same_row = std::span<const RowTarget>(targets).subspan(begin, end - begin);
    if (!serve(*read, same_row)) read->targets.insert(read->targets.end(), same_row.begin(), same_row.end());
  }
  Pending pending = read->completion.pending();
  fetch_missing(read);
  end_part(*read, {});
  return pending;
}

// Gives a row to all targets that want it, if hot set or cache has it.
bool CachedStore::serve(Read& read, std::span<const RowTarget> same_row) {
  const size_t bytes = row_bytes();
  std::byte* first = read.out + static_cast<size_t>(same_row[0].index) * bytes;
  if (const std::byte* row = hot_ ? hot_->find(same_row[0].row) : nullptr; row != nullptr) {
    std::memcpy(first, row, bytes);
    read.from_hot += same_row.size();
  } else {
    const RowCache::Found found = cache_ ? cache_->get(same_row[0].row, first) : RowCache::Found::kNo;
    if (found == RowCache::Found::kNo) return false;
    used_.fetch_add(found == RowCache::Found::kPrefetched, std::memory_order_relaxed);
    read.from_cache += same_row.size();
  }
  for (const RowTarget& other : same_row.subspan(1))
    std::memcpy(read.out + static_cast<size_t>(other.index) * bytes, first, bytes);
  return true;
}

// Joins what is under way and fetches the rest, kFetchRows at a time.
void CachedStore::fetch_missing(const std::shared_ptr<Read>& read) {
  for (size_t begin = 0; begin < read->targets.size();) {
    const auto fetch = std::make_shared<Fetch>();
    {
      std::unique_lock lock(mutex_);
      room_.wait(lock, [&] { return has_room(); });
      begin = join_or_claim(read, begin, fetch);
    }
    if (!fetch->ids.empty()) start_fetch(fetch, true);
  }
}

bool CachedStore::has_room() const { return under_way_.size() * row_bytes() < kMostBytesUnderWay; }

// Goes through the targets from `begin` until the Fetch is full; returns where to go on. Under the mutex.
size_t CachedStore::join_or_claim(const std::shared_ptr<Read>& read, size_t begin,
                                  const std::shared_ptr<Fetch>& fetch) {
  const std::vector<RowTarget>& targets = read->targets;
  std::unordered_map<Fetch*, std::shared_ptr<Want>> wants;
  while (begin < targets.size() && fetch->ids.size() < kFetchRows) {
    size_t end = begin + 1;
    while (end < targets.size() && targets[end].row == targets[begin].row) ++end;
    auto [place, claimed] = under_way_.try_emplace(targets[begin].row, fetch, fetch->ids.size());
    if (Fetch& other = *place->second.first; other.is_hint) {
      if (!other.wanted[place->second.second]) late_.fetch_add(1, std::memory_order_relaxed);
      other.wanted[place->second.second] = true;
      if (!other.joinable) {
        place->second = {fetch, fetch->ids.size()};
        claimed = true;
      }
    }
    if (claimed) fetch->ids.push_back(targets[begin].row);
    Fetch& source = *place->second.first;
    std::shared_ptr<Want>& want = wants[&source];
    if (!want) {
      want = std::make_shared<Want>(Want{read, {}, &source != fetch.get()});
      source.wants.push_back(want);
    }
    want->rows.push_back({begin, end, place->second.second});
    begin = end;
  }
  std::lock_guard lock(read->mutex);
  read->parts += static_cast<int>(wants.size());
  return begin;
}

void CachedStore::start_fetch(const std::shared_ptr<Fetch>& fetch, bool may_block) {
  const size_t bytes = fetch->ids.size() * row_bytes();
  fetch->rows = std::make_unique_for_overwrite<std::byte[]>(bytes);
  in_flight_.add();
  const std::span<std::byte> out{fetch->rows.get(), bytes};
  Pending pending = may_block ? base_->read(fetch->ids, out) : base_->try_read(fetch->ids, out);
  std::move(pending).on_done([this, fetch](const Status& status) {
    end_fetch(*fetch, status);
    in_flight_.remove();
  });
}

void CachedStore::end_fetch(Fetch& fetch, const Status& status) {
  const size_t bytes = row_bytes();
  const auto row = [&](size_t place) { return fetch.rows.get() + place * bytes; };
  // Into the cache first: who then finds a row no longer under way finds it there.
  if (status.ok() && cache_) {
    std::vector<bool> wanted;
    {
      std::lock_guard lock(mutex_);
      wanted = fetch.wanted;
    }
    for (size_t i = 0; i < fetch.ids.size(); ++i) cache_->put(fetch.ids[i], row(i), fetch.is_hint && !wanted[i]);
  }
  std::vector<std::shared_ptr<Want>> wants;
  {
    std::lock_guard lock(mutex_);
    for (int64_t id : fetch.ids) {
      // A row of read_alone(), or of a hint that was displaced, may be under way in another Fetch.
      if (const auto at = under_way_.find(id); at != under_way_.end() && at->second.first.get() == &fetch)
        under_way_.erase(at);
    }
    wants.swap(fetch.wants);
  }
  room_.notify_all();
  if (fetch.is_hint && status.code() == StatusCode::kUnavailable)
    dropped_.fetch_add(fetch.ids.size(), std::memory_order_relaxed);
  for (const auto& want : wants) {
    Read& read = *want->read;
    if (!status.ok() && want->joined) {
      read_alone(want);
      continue;
    }
    if (status.ok()) {
      for (const Want::Row& from : want->rows) {
        for (size_t i = from.begin; i < from.end; ++i)
          std::memcpy(read.out + static_cast<size_t>(read.targets[i].index) * bytes, row(from.place), bytes);
      }
    }
    end_part(read, status);
  }
}

// The rows of a Want whose Fetch failed for another, once more and for this Read only.
void CachedStore::read_alone(const std::shared_ptr<Want>& want) {
  const auto fetch = std::make_shared<Fetch>();
  for (Want::Row& row : want->rows) {
    row.place = fetch->ids.size();
    fetch->ids.push_back(want->read->targets[row.begin].row);
  }
  want->joined = false;
  fetch->wants.push_back(want);
  start_fetch(fetch, true);
}

void CachedStore::end_part(Read& read, const Status& status) {
  {
    std::lock_guard lock(read.mutex);
    if (read.status.ok()) read.status = status;
    if (--read.parts > 0) return;
  }
  if (read.status.ok()) {
    hot_rows_.fetch_add(read.from_hot, std::memory_order_relaxed);
    cache_rows_.fetch_add(read.from_cache, std::memory_order_relaxed);
    fetched_rows_.fetch_add(read.targets.size(), std::memory_order_relaxed);
    counters_->count_read(read.rows, read.unique, read.start);
  } else {
    counters_->failed_reads.fetch_add(1, std::memory_order_relaxed);
  }
  read.completion.finish(read.status);
}

void CachedStore::prefetch(std::span<const int64_t> row_ids) {
  if (!cache_) return base_->prefetch(row_ids);
  std::vector<int64_t> ids;
  for (int64_t id : row_ids) {
    if (id >= 0 && id < num_rows()) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  requested_.fetch_add(ids.size(), std::memory_order_relaxed);
  const auto there = [&](int64_t id) { return (hot_ && hot_->find(id) != nullptr) || cache_->contains(id); };
  useless_.fetch_add(std::erase_if(ids, there), std::memory_order_relaxed);
  for (size_t begin = 0; begin < ids.size(); begin += kFetchRows) {
    const auto part = std::span<const int64_t>(ids).subspan(begin, std::min(kFetchRows, ids.size() - begin));
    const auto fetch = std::make_shared<Fetch>();
    fetch->is_hint = true;
    fetch->joinable = false;
    {
      std::lock_guard lock(mutex_);
      if (!has_room()) {
        dropped_.fetch_add(ids.size() - begin, std::memory_order_relaxed);
        return;
      }
      for (int64_t id : part) {
        if (under_way_.try_emplace(id, fetch, fetch->ids.size()).second) fetch->ids.push_back(id);
      }
      fetch->wanted.resize(fetch->ids.size());
    }
    useless_.fetch_add(part.size() - fetch->ids.size(), std::memory_order_relaxed);
    if (fetch->ids.empty()) continue;
    start_fetch(fetch, false);
    // If it ended in here, refused or not, nobody had joined it; if it has ended since, nobody can.
    std::lock_guard lock(mutex_);
    fetch->joinable = true;
  }
}

void CachedStore::locate(std::span<const int64_t> row_ids, std::span<uint8_t> tiers) const {
  base_->locate(row_ids, tiers);
  const uint8_t cache_tier = hot_ ? 1 : 0, base_tier = cache_tier + (cache_ ? 1 : 0);  // as in stats()
  for (size_t i = 0; i < row_ids.size(); ++i) {
    if (hot_ && hot_->find(row_ids[i]) != nullptr)
      tiers[i] = 0;
    else if (cache_ && cache_->contains(row_ids[i]))
      tiers[i] = cache_tier;
    else
      tiers[i] += base_tier;
  }
}

StoreStats CachedStore::stats() const {
  StoreStats stats = counters_->snapshot();
  StoreStats below = base_->stats();
  stats.retries = below.retries;
  if (hot_) {
    TierStats tier;
    tier.name = "hot";
    tier.hits = hot_rows_.load(std::memory_order_relaxed);
    tier.misses = cache_rows_.load(std::memory_order_relaxed) + fetched_rows_.load(std::memory_order_relaxed);
    tier.bytes = tier.hits * row_bytes();
    tier.resident_rows = static_cast<uint64_t>(hot_->size());
    tier.resident_bytes = tier.resident_rows * row_bytes();
    stats.tiers.push_back(tier);
  }
  if (cache_) {
    TierStats tier;
    tier.name = "cache";
    tier.hits = cache_rows_.load(std::memory_order_relaxed);
    tier.misses = fetched_rows_.load(std::memory_order_relaxed);
    tier.bytes = tier.hits * row_bytes();
    tier.evictions = static_cast<uint64_t>(cache_->evictions());
    tier.resident_rows = static_cast<uint64_t>(cache_->size());
    tier.resident_bytes = tier.resident_rows * row_bytes();
    stats.tiers.push_back(tier);
  }
  stats.tiers.insert(stats.tiers.end(), below.tiers.begin(), below.tiers.end());
  stats.prefetch = below.prefetch;
  if (cache_) {
    stats.prefetch = {requested_.load(std::memory_order_relaxed), dropped_.load(std::memory_order_relaxed),
                      useless_.load(std::memory_order_relaxed),   used_.load(std::memory_order_relaxed),
                      late_.load(std::memory_order_relaxed),      static_cast<uint64_t>(cache_->unused_prefetches())};
  }
  return stats;
}

}  // namespace engram
