// Stores by URI: TIER:FILE?key=value&...
//
//   dram:FILE       ?threads=N              all rows in memory (DramStore)
//   pagecache:FILE  ?depth=N&io=KIND        read through the system's page cache (PageCacheStore)
//   mapped:FILE                             through a mapping of the file (MappedStore)
//   nvme:FILE       ?direct=1&depth=N&io=KIND   past the page cache; direct=0: through it (NvmeStore)
// and for any of them
//   cache=SIZE      an S3-FIFO cache of rows in front (row_cache.h)
//   overlay=FILE    the rows that an overlay edits in front of everything (overlay_store.h); may be repeated, in order
//   hot=PROFILE     the rows that a profile names in front, pinned; hot_size=SIZE: as many as fit (cached_store.h)
// SIZE is bytes, or a number with KiB, MiB, GiB or TiB; it counts for all layers opened together, each taking its
// share of the tables' bytes. KIND is auto, io_uring or threads. In FILE and PROFILE %3F, %26 and %25 stand for ?, &
// and %.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/store/row_store.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

inline constexpr int64_t kNoLimit = int64_t{1} << 60;  // and the largest SIZE

// What a URI says. Plain value.
struct StoreUri {
  std::string tier, path;
  int depth = 64;
  int threads = 0;
  bool direct = true;
  std::string io = "auto";
  int64_t cache_bytes = 0;  // 0: none
  std::string hot_profile;  // "": none
  int64_t hot_bytes = kNoLimit;
  std::vector<std::string> overlays;

  // kInvalidArgument: an unknown tier, a key that the tier does not have, or a value; lists what there is.
  static Result<StoreUri> parse(std::string_view uri);
};

// A row file opened through a tier: one store per layer.
struct OpenTable {
  RowFileInfo info;
  std::vector<int> layer_ids;                     // [layers]
  std::vector<std::unique_ptr<RowStore>> stores;  // [layers]
};

// layer_ids: which layers, in this order; empty: all, in the file's order. kInvalidArgument, kNotFound, kDataLoss,
// kResourceExhausted as the tiers say.
Result<OpenTable> open_row_stores(Env& env, std::string_view uri, std::span<const int> layer_ids = {});
// One layer.
Result<std::unique_ptr<RowStore>> open_row_store(Env& env, std::string_view uri, int layer_id);

// "64", "4KiB", "2GiB". kInvalidArgument.
Result<int64_t> parse_size(std::string_view text);

}  // namespace engram
