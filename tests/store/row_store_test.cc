#include "engram/store/row_store.h"

#include "engram/store/tiers/cached_store.h"
#include "engram/store/tiers/dram_store.h"
#include "engram/store/tiers/drive_store.h"
#include "tests/store/faulty_page_reader.h"
#include "tests/store/row_store_contract.h"

namespace engram {
namespace {

template <typename Store>
Result<std::unique_ptr<RowStore>> as_row_store(Result<std::unique_ptr<Store>> store) {
  if (!store.ok()) return store.status();
  return std::unique_ptr<RowStore>(std::move(store).value());
}

template <typename Store>
StoreCase drive_case(const std::string& name, DriveOptions options) {
  return {name, [options](const std::string& path, int layer_id) -> Result<std::unique_ptr<RowStore>> {
            ENGRAM_ASSIGN_OR_RETURN(auto file, DriveFile::open(path, options));
            return as_row_store(Store::open(file, layer_id));
          }};
}

DriveOptions drive_options(bool direct, int depth, PageReaderKind kind) {
  DriveOptions options;
  options.reader.direct = direct;
  options.reader.depth = depth;
  options.reader.kind = kind;
  return options;
}

DriveOptions with_faults(DriveOptions options, PageFaultPlan plan) {
  options.reader.wrap = [plan](std::unique_ptr<PageReader> base) -> std::unique_ptr<PageReader> {
    return std::make_unique<FaultyPageReader>(std::move(base), plan);
  };
  return options;
}

// Every page fails in the way of its number on its first read, and only then; completions in any order.
DriveOptions with_healing_faults(DriveOptions options) {
  return with_faults(options, {.fault =
                                   [](int64_t page, int64_t attempt) {
                                     return attempt > 0 ? PageFault::kNone : static_cast<PageFault>(page % 5);
                                   },
                               .reorder = true});
}

DriveOptions with_small_queue(DriveOptions options) {
  options.max_queued_rows = 16;
  return options;
}

// A cache and, where hot_rows > 0, a hot set of every third row before another tier.
StoreCase cached_case(const std::string& name, StoreCase below, int64_t cache_bytes, int64_t hot_rows) {
  return {name, [=](const std::string& path, int layer_id) -> Result<std::unique_ptr<RowStore>> {
            ENGRAM_ASSIGN_OR_RETURN(auto base, below.open(path, layer_id));
            std::unique_ptr<HotSet> hot;
            if (hot_rows > 0) {
              std::vector<int64_t> ids;
              for (int64_t id = 0; id < std::min(base->num_rows(), 3 * hot_rows); id += 3) ids.push_back(id);
              ENGRAM_ASSIGN_OR_RETURN(hot, HotSet::load(*base, ids));
            }
            std::unique_ptr<RowCache> cache;
            if (cache_bytes > 0) {
              ENGRAM_ASSIGN_OR_RETURN(cache, RowCache::create(cache_bytes, base->row_bytes()));
            }
            return std::unique_ptr<RowStore>(
                std::make_unique<CachedStore>(std::move(base), std::move(hot), std::move(cache)));
          }};
}

std::vector<StoreCase> all_tiers() {
  // By name where the system has it, so that no test falls back to threads unseen.
  const auto ring = has_read_ring() ? PageReaderKind::kUring : PageReaderKind::kAny;
  const auto uring = drive_options(false, 32, ring);
  const auto threads = drive_options(false, 4, PageReaderKind::kThreads);
  const auto direct = drive_options(true, 256, PageReaderKind::kAny);
  const StoreCase all_in_memory = {
      "Dram", [](const std::string& path, int id) { return as_row_store(DramStore::open(Env::posix(), path, id)); }};
  return {
      all_in_memory,
      {"Dram5",
       [](const std::string& path, int id) { return as_row_store(DramStore::open(Env::posix(), path, id, 5)); }},
      {"Mapped",
       [](const std::string& path, int id) { return as_row_store(MappedStore::open(Env::posix(), path, id)); }},
      drive_case<NvmeStore>("NvmeDirect", direct),
      drive_case<NvmeStore>("NvmeBuffered", uring),
      drive_case<NvmeStore>("NvmeThreads", threads),
      drive_case<NvmeStore>("NvmeOneSlot", with_small_queue(drive_options(false, 1, ring))),
      drive_case<NvmeStore>("NvmeHealing", with_healing_faults(uring)),
      drive_case<NvmeStore>("NvmeHealingThreads", with_healing_faults(threads)),
      drive_case<PageCacheStore>("PageCache", uring),
      drive_case<PageCacheStore>("PageCacheThreads", with_small_queue(threads)),
      drive_case<PageCacheStore>("PageCacheHealing", with_healing_faults(uring)),
      cached_case("Cached", drive_case<NvmeStore>("", direct), 100 << 10, 0),
      cached_case("CachedHot", drive_case<NvmeStore>("", uring), 30 << 10, 10),
      cached_case("HotOnly", drive_case<NvmeStore>("", threads), 0, 10),
      cached_case("CachedHealing", drive_case<NvmeStore>("", with_healing_faults(uring)), 1 << 20, 0),
      cached_case("CachedSmallQueue", drive_case<NvmeStore>("", with_small_queue(uring)), 12 << 10, 0),
      cached_case("CachedPageCache", drive_case<PageCacheStore>("", uring), 50 << 10, 5),
      cached_case("CachedDram", all_in_memory, 50 << 10, 0),
  };
}

INSTANTIATE_TEST_SUITE_P(Tiers, RowStoreContract, testing::ValuesIn(all_tiers()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace engram
