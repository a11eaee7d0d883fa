#include "engram/store/open.h"

#include <algorithm>
#include <charconv>

#include "engram/core/json.h"
#include "engram/store/tiers/cached_store.h"
#include "engram/store/tiers/dram_store.h"
#include "engram/store/tiers/drive_store.h"
#include "engram/store/tiers/overlay_store.h"

namespace engram {
namespace {

Result<std::string> decode_percent(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    unsigned value = 0;
    const std::string_view digits = text.substr(i + 1, 2);
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() != 2 || parsed.ptr != digits.data() + 2 || value == 0)
      return invalid_argument("{}: %{} is not a hex byte", quote_text(text), quote_text(digits));
    decoded += static_cast<char>(value);
    i += 2;
  }
  return decoded;
}

Result<int> parse_count(std::string_view key, std::string_view text, int low, int high) {
  int value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value < low || value > high)
    return invalid_argument("{}: got {}, wanted {} .. {}", key, quote_text(text), low, high);
  return value;
}

// Keys of a tier, for the check and for the message.
std::vector<std::string_view> keys_of(std::string_view tier) {
  std::vector<std::string_view> keys = {"cache", "hot", "hot_size", "overlay"};
  if (tier == "dram") keys.push_back("threads");
  if (tier == "nvme") keys.push_back("direct");
  if (tier == "nvme" || tier == "pagecache") keys.insert(keys.end(), {"depth", "io"});
  return keys;
}

Status set_key(StoreUri& uri, std::string_view key, std::string_view value) {
  const std::vector<std::string_view> keys = keys_of(uri.tier);
  if (std::find(keys.begin(), keys.end(), key) == keys.end())
    return invalid_argument("{}: has no key {}, only {}", uri.tier, quote_text(key), fmt::join(keys, ", "));
  if (key == "cache") {
    ENGRAM_ASSIGN_OR_RETURN(uri.cache_bytes, parse_size(value));
    if (uri.cache_bytes == 0) return invalid_argument("cache: got 0, wanted a size; leave the key out for none");
  } else if (key == "hot") {
    ENGRAM_ASSIGN_OR_RETURN(uri.hot_profile, decode_percent(value));
    if (uri.hot_profile.empty()) return invalid_argument("hot: got nothing, wanted a profile's path");
  } else if (key == "overlay") {
    ENGRAM_ASSIGN_OR_RETURN(uri.overlays.emplace_back(), decode_percent(value));
    if (uri.overlays.back().empty()) return invalid_argument("overlay: got nothing, wanted an overlay's path");
  } else if (key == "hot_size") {
    ENGRAM_ASSIGN_OR_RETURN(uri.hot_bytes, parse_size(value));
  } else if (key == "threads") {
    ENGRAM_ASSIGN_OR_RETURN(uri.threads, parse_count(key, value, 1, 1024));
  } else if (key == "depth") {
    ENGRAM_ASSIGN_OR_RETURN(uri.depth, parse_count(key, value, 1, kMaxReadDepth));
  } else if (key == "direct") {
    ENGRAM_ASSIGN_OR_RETURN(const int direct, parse_count(key, value, 0, 1));
    uri.direct = direct == 1;
  } else {
    if (value != "auto" && value != "io_uring" && value != "threads")
      return invalid_argument("io: got {}, wanted auto, io_uring or threads", quote_text(value));
    uri.io = value;
  }
  return {};
}

}  // namespace

Result<int64_t> parse_size(std::string_view text) {
  int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit = text.substr(static_cast<size_t>(parsed.ptr - text.data()));
  constexpr std::string_view kUnits[] = {"", "KiB", "MiB", "GiB", "TiB"};
  const auto found = std::find(std::begin(kUnits), std::end(kUnits), unit);
  const auto shift = (found - std::begin(kUnits)) * 10;
  if (parsed.ec != std::errc() || value < 0 || found == std::end(kUnits) || value > (kNoLimit >> shift))
    return invalid_argument("size: got {}, wanted bytes, or a number with KiB, MiB, GiB or TiB", quote_text(text));
  return value << shift;
}

Result<StoreUri> StoreUri::parse(std::string_view text) {
  StoreUri uri;
  const size_t colon = text.find(':'), question = text.find('?');
  if (colon == std::string_view::npos || colon > question)
    return invalid_argument("{}: wanted TIER:FILE?key=value&..., TIER one of dram, pagecache, mapped, nvme",
                            quote_text(text, 200));
  uri.tier = text.substr(0, colon);
  if (uri.tier != "dram" && uri.tier != "pagecache" && uri.tier != "mapped" && uri.tier != "nvme")
    return invalid_argument("tier: got {}, wanted dram, pagecache, mapped or nvme", quote_text(uri.tier));
  ENGRAM_ASSIGN_OR_RETURN(uri.path, decode_percent(text.substr(colon + 1, question - colon - 1)));
  if (uri.path.empty()) return invalid_argument("{}: no file", quote_text(text, 200));
  uri.direct = uri.tier == "nvme";
  std::vector<std::string_view> seen;
  for (size_t at = question; at < text.size();) {
    const size_t begin = at + 1;
    at = text.find('&', begin);
    const std::string_view pair = text.substr(begin, at == std::string_view::npos ? at : at - begin);
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos) return invalid_argument("{}: wanted key=value", quote_text(pair));
    const std::string_view key = pair.substr(0, equals);
    if (key != "overlay" && std::find(seen.begin(), seen.end(), key) != seen.end())
      return invalid_argument("{}: appears twice", quote_text(key));
    seen.push_back(key);
    ENGRAM_RETURN_IF_ERROR(set_key(uri, key, pair.substr(equals + 1)));
  }
  if (uri.hot_profile.empty() && uri.hot_bytes != kNoLimit)
    return invalid_argument("hot_size: without hot=PROFILE it has no meaning");
  return uri;
}

namespace {

template <typename Store>
Result<std::unique_ptr<RowStore>> as_row_store(Result<std::unique_ptr<Store>> store) {
  if (!store.ok()) return store.status();
  return std::unique_ptr<RowStore>(std::move(store).value());
}

// `share` of the layer in budgets that hold for all layers.
Result<std::unique_ptr<RowStore>> put_caches(Env& env, const StoreUri& uri, const RowFileInfo& info, int layer_id,
                                             double share, std::unique_ptr<RowStore> base) {
  std::unique_ptr<HotSet> hot;
  if (!uri.hot_profile.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(auto ids, read_row_profile(env, uri.hot_profile, layer_id, base->num_rows(),
                                                       info.hash ? info.hash->token_map_sha256 : ""));
    const auto budget = static_cast<int64_t>(static_cast<double>(uri.hot_bytes) * share);
    const auto most = static_cast<size_t>(HotSet::rows_for(budget, base->row_bytes()));
    ids.resize(std::min(ids.size(), most));
    ENGRAM_ASSIGN_OR_RETURN(hot, HotSet::load(*base, std::move(ids)));
  }
  std::unique_ptr<RowCache> cache;
  if (uri.cache_bytes > 0) {
    const auto budget = static_cast<int64_t>(static_cast<double>(uri.cache_bytes) * share);
    ENGRAM_ASSIGN_OR_RETURN(cache, RowCache::create(budget, base->row_bytes()));
  }
  if (!hot && !cache) return base;
  return std::unique_ptr<RowStore>(std::make_unique<CachedStore>(std::move(base), std::move(hot), std::move(cache)));
}

Result<std::shared_ptr<DriveFile>> open_drive_file(const StoreUri& uri) {
  DriveOptions options;
  options.reader.direct = uri.direct;
  options.reader.depth = uri.depth;
  options.reader.kind = uri.io == "io_uring"  ? PageReaderKind::kUring
                        : uri.io == "threads" ? PageReaderKind::kThreads
                                              : PageReaderKind::kAny;
  return DriveFile::open(uri.path, options);
}

Result<std::unique_ptr<RowStore>> open_tier(Env& env, const StoreUri& uri, const std::shared_ptr<DriveFile>& file,
                                            int layer_id) {
  if (uri.tier == "dram") return as_row_store(DramStore::open(env, uri.path, layer_id, uri.threads));
  if (uri.tier == "mapped") return as_row_store(MappedStore::open(env, uri.path, layer_id));
  if (uri.tier == "pagecache") return as_row_store(PageCacheStore::open(file, layer_id));
  return as_row_store(NvmeStore::open(file, layer_id));
}

}  // namespace

Result<OpenTable> open_row_stores(Env& env, std::string_view text, std::span<const int> layer_ids) {
  ENGRAM_ASSIGN_OR_RETURN(const StoreUri uri, StoreUri::parse(text));
  OpenTable table;
  std::shared_ptr<DriveFile> file;
  if (uri.tier == "nvme" || uri.tier == "pagecache") {
    ENGRAM_ASSIGN_OR_RETURN(file, open_drive_file(uri));
    table.info = file->info();
  } else {
    ENGRAM_ASSIGN_OR_RETURN(const RowFileReader reader, RowFileReader::open(env, uri.path));
    table.info = reader.info();
  }
  table.layer_ids.assign(layer_ids.begin(), layer_ids.end());
  if (layer_ids.empty()) {
    for (const RowTable& layer : table.info.tables) table.layer_ids.push_back(layer.layer_id);
  }
  std::vector<Overlay> overlays;
  for (const std::string& path : uri.overlays) {
    ENGRAM_ASSIGN_OR_RETURN(overlays.emplace_back(), Overlay::load(env, path, table.info));
  }
  std::vector<double> bytes;
  double all_bytes = 0;
  for (int layer_id : table.layer_ids) {
    ENGRAM_ASSIGN_OR_RETURN(const int at, table.info.find_layer(layer_id));
    const RowTable& layer = table.info.tables[static_cast<size_t>(at)];
    bytes.push_back(static_cast<double>(layer.num_rows) * static_cast<double>(layer.row_bytes));
    all_bytes += bytes.back();
  }
  for (size_t i = 0; i < table.layer_ids.size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(auto base, open_tier(env, uri, file, table.layer_ids[i]));
    ENGRAM_ASSIGN_OR_RETURN(
        auto store, put_caches(env, uri, table.info, table.layer_ids[i], bytes[i] / all_bytes, std::move(base)));
    if (!overlays.empty()) {
      ENGRAM_ASSIGN_OR_RETURN(store,
                              as_row_store(OverlayStore::create(std::move(store), overlays, table.layer_ids[i])));
    }
    table.stores.push_back(std::move(store));
  }
  return table;
}

Result<std::unique_ptr<RowStore>> open_row_store(Env& env, std::string_view uri, int layer_id) {
  ENGRAM_ASSIGN_OR_RETURN(OpenTable table, open_row_stores(env, uri, {&layer_id, 1}));
  return std::move(table.stores[0]);
}

}  // namespace engram
