#include "engram/store/rowfile/row_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <string_view>

#include "engram/core/crc32c.h"
#include "engram/core/fields.h"
#include "engram/core/file_kind.h"
#include "engram/core/json.h"

namespace engram {
namespace {

static_assert(std::endian::native == std::endian::little, "row files are little-endian and read in place");

constexpr size_t kPage = kRowPageBytes, kPayload = kRowPagePayload;
constexpr char kMagic[8] = {'E', 'N', 'G', 'R', 'R', 'O', 'W', 'S'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMaxHeaderPages = 256;

// The first bytes of page 0; JSON follows at once and goes on over the payloads of the header's pages.
struct Prefix {
  char magic[8];
  uint32_t version;
  uint32_t header_pages;
  uint64_t num_pages;  // of the file
  uint32_t json_bytes;
  uint8_t zeros[36];
};
static_assert(sizeof(Prefix) == 64);

// The last bytes of every page.
struct Trailer {
  uint32_t number;
  uint32_t crc;
};
static_assert(sizeof(Trailer) == kPage - kPayload);

uint32_t page_crc(const std::byte* page) { return crc32c({page, kPage - sizeof(uint32_t)}); }

// A page-aligned buffer of whole pages.
struct AlignedPages {
  explicit AlignedPages(size_t pages)
      : bytes(pages * kPage), data(static_cast<std::byte*>(std::aligned_alloc(kPage, pages * kPage))) {
    ENGRAM_CHECK(data != nullptr, "out of memory for {} pages", pages);
  }
  ~AlignedPages() { std::free(data); }
  AlignedPages(const AlignedPages&) = delete;
  AlignedPages& operator=(const AlignedPages&) = delete;
  std::span<std::byte> span() { return {data, bytes}; }

  const size_t bytes;
  std::byte* const data;
};

// --- the JSON ---

nlohmann::ordered_json table_json(const RowTable& table) {
  return {{"layer_id", table.layer_id},
          {"rows", table.num_rows},
          {"type", row_type_name(table.format.type)},
          {"width", table.format.width},
          {"block", table.format.block},
          {"table_scale", table.format.table_scale},
          {"row_bytes", table.row_bytes},
          {"rows_per_page", table.rows_per_page},
          {"pages_per_row", table.pages_per_row},
          {"first_page", table.first_page}};
}

std::string header_json(const RowFileInfo& info) {
  nlohmann::ordered_json header;
  header["layers"] = nlohmann::ordered_json::array();
  for (const RowTable& table : info.tables) header["layers"].push_back(table_json(table));
  if (info.hash) header["hash"] = info.hash->to_json();
  return header.dump();
}

// The table as create() would be given it; what create() derives is compared afterwards, as JSON.
Result<RowTable> parse_table(Fields fields) {
  RowTable table;
  std::string type;
  double scale = 1;
  fields.need("layer_id", table.layer_id, 0);
  fields.need("rows", table.num_rows, 1, kMaxRowsPerTable);
  fields.need("type", type);
  fields.need("width", table.format.width, 1, kMaxRowWidth);
  fields.need("block", table.format.block, 0, kMaxRowWidth);
  fields.need("table_scale", scale);
  fields.skip({"row_bytes", "rows_per_page", "pages_per_row", "first_page"});
  table.format.table_scale = static_cast<float>(scale);
  if (static_cast<double>(table.format.table_scale) != scale)
    fields.fail("table_scale", fmt::format("got {}, wanted a float", scale));
  ENGRAM_RETURN_IF_ERROR(fields.finish());
  ENGRAM_ASSIGN_OR_RETURN(table.format.type, parse_row_type(type));
  return table;
}

Result<RowFileHash> parse_hash(Fields fields) {
  RowFileHash hash;
  std::string rule = hash_rule_name(hash.config.rule);  // files from before there were others
  fields("rule", rule);
  ENGRAM_ASSIGN_OR_RETURN(hash.config.rule, parse_hash_rule(rule));
  EngramConfig::visit_fields(hash.config, [&](const char* key, auto& value) { fields.need(key, value); });
  fields.need("compressed_pad_id", hash.compressed_pad_id, 0);
  fields.need("token_map_sha256", hash.token_map_sha256);
  ENGRAM_RETURN_IF_ERROR(fields.finish());
  return hash;
}

Result<RowFileInfo> parse_header_json(std::string_view text, const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json header, parse_json(text, name, 4));
  Fields fields(header, "");
  std::vector<RowTable> tables;
  for (Fields& layer : fields.sections("layers")) {
    ENGRAM_ASSIGN_OR_RETURN(RowTable table, parse_table(std::move(layer)));
    tables.push_back(table);
  }
  std::optional<RowFileHash> hash;
  if (fields.find("hash")) {
    ENGRAM_ASSIGN_OR_RETURN(hash, parse_hash(fields.section("hash")));
  }
  ENGRAM_RETURN_IF_ERROR(fields.finish());
  ENGRAM_ASSIGN_OR_RETURN(RowFileInfo info, RowFileInfo::create(std::move(tables), std::move(hash)));
  for (size_t i = 0; i < info.tables.size(); ++i) {
    // Derived numbers stand in the file for other readers; they must be the ones that follow from the rest.
    const nlohmann::json wanted = table_json(info.tables[i]);
    for (const char* key : {"row_bytes", "rows_per_page", "pages_per_row", "first_page"}) {
      const nlohmann::json& layer = header["layers"][i];
      const nlohmann::json& got = layer.contains(key) ? layer[key] : nlohmann::json();
      if (got != wanted[key])
        return invalid_argument("layers[{}]: {} is {}, wanted {}", i, key, quote_text(got.dump()), wanted[key].dump());
    }
  }
  return info;
}

// --- checks of create() ---

Status check_hash(const RowFileHash& hash, const std::vector<RowTable>& tables) {
  const std::string& digest = hash.token_map_sha256;
  if (digest.size() != 64 || digest.find_first_not_of("0123456789abcdef") != std::string::npos)
    return invalid_argument("token_map_sha256 is {}, wanted 64 lower-case hex digits", quote_text(digest));
  const EngramConfig& config = hash.config;
  ENGRAM_RETURN_IF_ERROR(config.validate());
  int64_t least_rows = 0;  // a cheap bound; layout() compares exactly
  for (int64_t size : config.vocab_size) least_rows += size;
  for (const RowTable& table : tables) {
    if (std::find(config.layer_ids.begin(), config.layer_ids.end(), table.layer_id) == config.layer_ids.end())
      return invalid_argument("layer {}: not in the hash's layer_ids", table.layer_id);
    if (table.format.width != config.head_dim)
      return invalid_argument("layer {}: rows have {} columns, wanted head_dim {}", table.layer_id, table.format.width,
                              config.head_dim);
    if (least_rows > table.num_rows / config.n_heads)
      return invalid_argument("layer {}: {} rows are fewer than its heads' {} x {}", table.layer_id, table.num_rows,
                              config.n_heads, least_rows);
  }
  return {};
}

Status place_table(RowTable& table, int64_t first_page) {
  if (table.layer_id < 0) return invalid_argument("layer id is {}, wanted at least 0", table.layer_id);
  if (table.num_rows < 1 || table.num_rows > kMaxRowsPerTable)
    return invalid_argument("layer {}: {} rows, wanted 1 .. {}", table.layer_id, table.num_rows, kMaxRowsPerTable);
  ENGRAM_RETURN_IF_ERROR(table.format.check().with_context(fmt::format("layer {}", table.layer_id)));
  table.row_bytes = table.format.row_bytes();
  table.rows_per_page = kRowPagePayload / table.row_bytes;
  table.pages_per_row = table.rows_per_page > 0 ? 1 : (table.row_bytes + kRowPagePayload - 1) / kRowPagePayload;
  table.first_page = first_page;
  table.num_pages = table.rows_per_page > 0 ? (table.num_rows + table.rows_per_page - 1) / table.rows_per_page
                                            : table.num_rows * table.pages_per_row;
  if (table.num_pages > (int64_t{1} << 50) - first_page)
    return invalid_argument("layer {}: {} pages make the file too large", table.layer_id, table.num_pages);
  return {};
}

Status place_tables(RowFileInfo& info, int64_t header_pages) {
  info.header_pages = header_pages;
  info.num_pages = header_pages;
  for (RowTable& table : info.tables) {
    ENGRAM_RETURN_IF_ERROR(place_table(table, info.num_pages));
    info.num_pages += table.num_pages;
  }
  return {};
}

int64_t pages_for_json(size_t json_bytes) {
  return static_cast<int64_t>((sizeof(Prefix) + json_bytes + kPayload - 1) / kPayload);
}

}  // namespace

nlohmann::ordered_json RowFileHash::to_json() const {
  nlohmann::ordered_json json;
  if (config.rule != HashRule::kEngram) json["rule"] = hash_rule_name(config.rule);
  EngramConfig::visit_fields(config, FieldWriter(json));
  json["compressed_pad_id"] = compressed_pad_id;
  json["token_map_sha256"] = token_map_sha256;
  return json;
}

Result<RowFileInfo> RowFileInfo::create(std::vector<RowTable> tables, std::optional<RowFileHash> hash) {
  if (tables.empty() || tables.size() > static_cast<size_t>(kMaxRowTables))
    return invalid_argument("a row file of {} layers, wanted 1 .. {}", tables.size(), kMaxRowTables);
  std::set<int> seen;
  for (const RowTable& table : tables) {
    if (!seen.insert(table.layer_id).second) return invalid_argument("layer {} appears twice", table.layer_id);
  }
  RowFileInfo info{std::move(tables), std::move(hash)};
  if (info.hash) ENGRAM_RETURN_IF_ERROR(check_hash(*info.hash, info.tables));
  // Longer page numbers make the JSON longer, which may move the pages: once more settles it.
  int64_t header_pages = 1, wanted = 1;
  do {
    header_pages = wanted;
    ENGRAM_RETURN_IF_ERROR(place_tables(info, header_pages));
    wanted = std::max(header_pages, pages_for_json(header_json(info).size()));
  } while (wanted != header_pages);
  if (header_pages > kMaxHeaderPages)
    return invalid_argument("the header takes {} pages, wanted at most {}", header_pages, kMaxHeaderPages);
  return info;
}

std::string RowFileInfo::header_bytes() const {
  const std::string json = header_json(*this);
  Prefix prefix{};
  std::memcpy(prefix.magic, kMagic, sizeof kMagic);
  prefix.version = kVersion;
  prefix.header_pages = static_cast<uint32_t>(header_pages);
  prefix.num_pages = static_cast<uint64_t>(num_pages);
  prefix.json_bytes = static_cast<uint32_t>(json.size());
  std::string text(reinterpret_cast<const char*>(&prefix), sizeof prefix);
  text += json;
  text.resize(static_cast<size_t>(header_pages) * kPayload);
  std::string pages(static_cast<size_t>(header_pages) * kPage, '\0');
  for (size_t page = 0; page < static_cast<size_t>(header_pages); ++page) {
    std::memcpy(pages.data() + page * kPage, text.data() + page * kPayload, kPayload);
    seal_row_page(std::as_writable_bytes(std::span(pages).subspan(page * kPage, kPage)), static_cast<int64_t>(page));
  }
  return pages;
}

namespace {

// What page 0 says about the header, checked.
Result<Prefix> parse_prefix(std::span<const std::byte> first_page, int64_t file_bytes, const std::string& name) {
  Prefix prefix;
  if (first_page.size() < kPage || std::memcmp(first_page.data(), kMagic, sizeof kMagic) != 0) {
    if (first_page.size() < sizeof kMagic || std::memcmp(first_page.data(), kMagic, sizeof kMagic) != 0)
      ENGRAM_RETURN_IF_ERROR(check_not_foreign(first_page, name));
    return data_loss(
        "{}: not a row file (it does not start with a page of \"ENGRROWS\"); `engram table convert` "
        "makes them",
        name);
  }
  std::memcpy(&prefix, first_page.data(), sizeof prefix);
  if (prefix.version != kVersion)
    return data_loss("{}: row file version is {}, wanted {}", name, prefix.version, kVersion);
  ENGRAM_RETURN_IF_ERROR(check_row_page(first_page.first(kPage), 0, name));
  const uint64_t json_room = prefix.header_pages * uint64_t{kPayload} - sizeof(Prefix);
  if (prefix.header_pages < 1 || prefix.header_pages > kMaxHeaderPages || prefix.json_bytes > json_room)
    return data_loss("{}: a header of {} pages with {} bytes of JSON, wanted 1 .. {} pages that hold it", name,
                     prefix.header_pages, prefix.json_bytes, kMaxHeaderPages);
  if (file_bytes < 0 || static_cast<uint64_t>(file_bytes) / kPage != prefix.num_pages || file_bytes % kPage != 0)
    return data_loss("{}: file has {} bytes, wanted {} pages of {}", name, file_bytes, prefix.num_pages, kPage);
  if (prefix.header_pages > prefix.num_pages)
    return data_loss("{}: {} header pages in a file of {}", name, prefix.header_pages, prefix.num_pages);
  return prefix;
}

}  // namespace

Result<RowFileInfo> RowFileInfo::parse(std::span<const std::byte> header, int64_t file_bytes, const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(const Prefix prefix, parse_prefix(header, file_bytes, name));
  if (header.size() < prefix.header_pages * kPage)
    return data_loss("{}: {} bytes of header, wanted {} pages", name, header.size(), prefix.header_pages);
  std::string text;
  for (size_t page = 0; page < prefix.header_pages; ++page) {
    const auto bytes = header.subspan(page * kPage, kPage);
    ENGRAM_RETURN_IF_ERROR(check_row_page(bytes, static_cast<int64_t>(page), name));
    text.append(reinterpret_cast<const char*>(bytes.data()), kPayload);
  }
  Result<RowFileInfo> info = parse_header_json(std::string_view(text).substr(sizeof(Prefix), prefix.json_bytes), name);
  if (!info.ok()) return data_loss("{}: bad header: {}", name, info.status().message());
  if (info->num_pages != static_cast<int64_t>(prefix.num_pages))
    return data_loss("{}: file has {} pages, wanted {} for its layers", name, prefix.num_pages, info->num_pages);
  // The one encoding: what follows the JSON is zeros and the numbers are spelled as header_bytes() spells them.
  const std::string wanted = info->header_bytes();
  if (std::memcmp(wanted.data(), header.data(), std::min(wanted.size(), header.size())) != 0)
    return data_loss("{}: the header's bytes are not the ones that its content gives", name);
  return info;
}

Result<RowFileInfo> RowFileInfo::read(const RandomAccessFile& file, const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(const int64_t file_bytes, file.size());
  AlignedPages first(1);
  ENGRAM_ASSIGN_OR_RETURN(size_t got, file.read_at(0, first.span()));
  ENGRAM_ASSIGN_OR_RETURN(const Prefix prefix, parse_prefix(first.span().first(got), file_bytes, name));
  AlignedPages header(prefix.header_pages);
  ENGRAM_ASSIGN_OR_RETURN(got, file.read_at(0, header.span()));
  return parse(header.span().first(got), file_bytes, name);
}

Result<int> RowFileInfo::find_layer(int layer_id) const {
  std::string there;
  for (size_t i = 0; i < tables.size(); ++i) {
    if (tables[i].layer_id == layer_id) return static_cast<int>(i);
    there += fmt::format("{}{}", i == 0 ? "" : ", ", tables[i].layer_id);
  }
  return not_found("layer {} is not in the file, which has {}", layer_id, there);
}

Result<EngramLayout> RowFileInfo::layout() const {
  if (!hash) return make_status(StatusCode::kFailedPrecondition, "the row file does not say how its rows are hashed");
  ENGRAM_ASSIGN_OR_RETURN(EngramLayout layout, EngramLayout::create(hash->config, hash->compressed_pad_id));
  for (const RowTable& table : tables) {
    ENGRAM_ASSIGN_OR_RETURN(const int layer, layout.config().find_layer(table.layer_id));
    const int64_t wanted = layout.num_rows(layer);
    if (table.num_rows != wanted)
      return data_loss("layer {}: {} rows, wanted {}, the sum of its heads", table.layer_id, table.num_rows, wanted);
  }
  return layout;
}

Result<MemoryHasher> RowFileInfo::hasher(const TokenMap& map, std::span<const int> layer_ids) const {
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout rows, layout());
  ENGRAM_RETURN_IF_ERROR(check_token_map(map));
  std::vector<int> all;
  for (const RowTable& table : tables) all.push_back(table.layer_id);
  return MemoryHasher::create(rows, map, layer_ids.empty() ? all : layer_ids);
}

Status RowFileInfo::check_token_map(const TokenMap& map) const {
  if (!hash || hash->token_map_sha256 == map.sha256()) return {};
  return make_status(StatusCode::kFailedPrecondition,
                     "the tokenizer's map has SHA-256 {}, the rows were made for {}: its rows would all be wrong",
                     map.sha256(), hash->token_map_sha256);
}

void seal_row_page(std::span<std::byte> page, int64_t number) {
  Trailer trailer{.number = static_cast<uint32_t>(number)};
  std::memcpy(page.data() + kPayload, &trailer, sizeof trailer);
  trailer.crc = page_crc(page.data());
  std::memcpy(page.data() + kPayload, &trailer, sizeof trailer);
}

Status check_row_page(std::span<const std::byte> page, int64_t number, const std::string& name) {
  Trailer trailer;
  std::memcpy(&trailer, page.data() + kPayload, sizeof trailer);
  if (const uint32_t crc = page_crc(page.data()); crc != trailer.crc)
    return data_loss("{}: page {} is damaged: CRC32C is {:08x}, wanted {:08x}", name, number, crc, trailer.crc);
  if (trailer.number != static_cast<uint32_t>(number))
    return data_loss("{}: page {} holds page {}", name, number, trailer.number);
  return {};
}

}  // namespace engram
