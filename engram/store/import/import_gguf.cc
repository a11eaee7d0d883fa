// The GGUF dialects of DeepSeek-V4.1 (llama.cpp's keys, antirez's packed rows, other forks' spellings, tables beside
// the file). No two converters agree on the keys, so several spellings are taken and everything that
// can be computed is compared with what the file says.
#include <algorithm>
#include <initializer_list>

#include "engram/core/json.h"
#include "engram/store/import/gguf_source.h"
#include "engram/store/import/import.h"

namespace engram::import {
namespace {

constexpr uint64_t kMaxVocabulary = 1 << 26;
// The engram.* keys of a DeepSeek file under whichever prefix and spelling they stand. "" where there is none.
class EngramKeys {
 public:
  explicit EngramKeys(const GgufFile& file) : file_(file) {}
  std::string find(std::initializer_list<const char*> spellings) const {
    for (const char* prefix : {"deepseek41.engram.", "deepseek4.engram.", "engram."}) {
      for (const char* spelling : spellings) {
        if (file_.has(std::string(prefix) + spelling)) return std::string(prefix) + spelling;
      }
    }
    return "";
  }
  // The full name, for a message too when it is missing.
  std::string name(std::initializer_list<const char*> spellings) const {
    std::string found = find(spellings);
    return found.empty() ? std::string("deepseek41.engram.") + *spellings.begin() : found;
  }
  Result<std::vector<int64_t>> list(std::initializer_list<const char*> spellings, uint64_t most = kMaxList) const {
    return file_.integers(name(spellings), most);
  }

 private:
  const GgufFile& file_;
};

Result<TokenMap> read_token_map(const GgufFile& file, const EngramKeys& keys) {
  const std::string key = keys.name({"token_map"});
  ENGRAM_ASSIGN_OR_RETURN(const auto ids, file.integers(key, kMaxVocabulary));
  std::vector<int32_t> canonical;
  int64_t largest = -1;
  for (const int64_t id : ids) {
    // First-seen order: an id is at most one above all before it.
    if (id < 0 || id > largest + 1)
      return invalid_argument("{}: key {} holds {} after {}, not a map in first-seen order", file.path(), key, id,
                              largest);
    largest = std::max(largest, id);
    canonical.push_back(static_cast<int32_t>(id));
  }
  if (canonical.empty()) return invalid_argument("{}: key {} is empty", file.path(), key);
  if (const std::string size = keys.find({"compressed_vocab_size"}); !size.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const int64_t wanted, file.integer(size));
    if (wanted != largest + 1)
      return invalid_argument("{}: key {} has {} canonical ids, {} says {}", file.path(), key, largest + 1, size,
                              wanted);
  }
  return TokenMap::from_ids(std::move(canonical), static_cast<int>(largest + 1));
}

// The raw pad id: as given, else the first id whose canonical id is the one given.
Result<int> read_pad(const GgufFile& file, const EngramKeys& keys, const TokenMap& map) {
  if (const std::string key = keys.find({"pad_token_id"}); !key.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const int64_t raw, file.integer(key));
    if (raw < 0 || raw >= map.vocab_size())
      return invalid_argument("{}: key {} is {}, wanted 0 .. {}", file.path(), key, raw, map.vocab_size() - 1);
    return static_cast<int>(raw);
  }
  const std::string key = keys.name({"pad_id"});
  ENGRAM_ASSIGN_OR_RETURN(const int64_t canonical, file.integer(key));
  const auto at = std::find(map.ids().begin(), map.ids().end(), canonical);
  if (at == map.ids().end())
    return invalid_argument("{}: key {} is {}, which is not a canonical id", file.path(), key, canonical);
  return static_cast<int>(at - map.ids().begin());
}

// Everything but the width, from the numbers of primes, multipliers and layers.
Result<EngramConfig> read_config(const GgufFile& file, const EngramKeys& keys, const TokenMap& map) {
  EngramConfig config;
  ENGRAM_ASSIGN_OR_RETURN(const auto layer_ids, keys.list({"layer_ids"}));
  for (const int64_t id : layer_ids) {
    if (id < 0 || id > INT32_MAX) return invalid_argument("{}: layer id {}", file.path(), id);
    config.layer_ids.push_back(static_cast<int>(id));
  }
  const std::string primes_key = keys.find({"primes", "head_bucket_sizes"});
  if (primes_key.empty())
    return invalid_argument(
        "{}: no key deepseek41.engram.primes, so the table cannot be checked; early converters "
        "left it out, and the repair scripts add it",
        file.path());
  ENGRAM_ASSIGN_OR_RETURN(const auto primes, file.integers(primes_key, kMaxList));
  ENGRAM_ASSIGN_OR_RETURN(const auto multipliers, keys.list({"multipliers"}));
  const size_t layers = config.layer_ids.size();
  const size_t orders = layers == 0 || multipliers.size() % layers != 0 ? 0 : multipliers.size() / layers;
  if (orders < 2 || orders > 64 || primes.empty() || primes.size() % (layers * (orders - 1)) != 0)
    return invalid_argument("{}: {} layers, {} multipliers and {} primes do not fit each other", file.path(), layers,
                            multipliers.size(), primes.size());
  const size_t heads = primes.size() / (layers * (orders - 1));
  config.max_ngram_size = static_cast<int>(orders);
  config.n_heads = static_cast<int>(heads);
  for (size_t order = 0; order + 1 < orders; ++order) {
    if (primes[order * heads] > INT32_MAX)
      return invalid_argument("{}: key {} holds {}, wanted less than 2^31", file.path(), primes_key,
                              primes[order * heads]);
    config.vocab_size.push_back(primes[order * heads]);  // the search that starts at its own first result
  }
  config.compressed_vocab_size = map.compressed_vocab_size();
  ENGRAM_ASSIGN_OR_RETURN(config.pad_token_id, read_pad(file, keys, map));
  const std::pair<std::string, int> stated[] = {{keys.find({"max_ngram_size"}), config.max_ngram_size},
                                                {keys.find({"head_count", "n_heads"}), config.n_heads}};
  for (const auto& [key, wanted] : stated) {
    if (key.empty()) continue;
    ENGRAM_ASSIGN_OR_RETURN(const int64_t got, file.integer(key));
    ENGRAM_RETURN_IF_ERROR(compare(file, key, {got}, {wanted}));
  }
  return config;
}

// Primes, offsets, multipliers and rows as the file states them against the computed ones.
Status check_layout(const GgufFile& file, const EngramKeys& keys, const EngramLayout& layout) {
  std::vector<int64_t> primes, offsets, multipliers, rows;
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    primes.insert(primes.end(), layout.primes(layer).begin(), layout.primes(layer).end());
    offsets.insert(offsets.end(), layout.offsets(layer).begin(), layout.offsets(layer).end());
    multipliers.insert(multipliers.end(), layout.multipliers(layer).begin(), layout.multipliers(layer).end());
    rows.push_back(layout.num_rows(layer));
  }
  const std::pair<std::string, std::vector<int64_t>&> stated[] = {
      {keys.find({"primes", "head_bucket_sizes"}), primes},
      {keys.find({"offsets", "head_offsets"}), offsets},
      {keys.find({"multipliers"}), multipliers},
      {keys.find({"rows", "num_embeddings", "table_rows", "embedding_counts", "sidecar_rows"}), rows}};
  for (const auto& [key, wanted] : stated) {
    if (key.empty()) continue;
    ENGRAM_ASSIGN_OR_RETURN(const auto got, file.integers(key, kMaxList));
    ENGRAM_RETURN_IF_ERROR(compare(file, key, got, wanted));
  }
  return {};
}

// A table in a separate file beside the GGUF file.
Status add_outer_table(Env& env, GgufSource& source, const std::string& name, int64_t offset, int layer_id,
                       int64_t num_rows, const std::string& encoding) {
  if (name.empty() || name.find('/') != std::string::npos)
    return invalid_argument("{}: external path {} is not a file name beside it", source.path(), quote_text(name));
  const std::string path = join_path(parent_path(source.path()), name);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, env.map_file(path));
  if (offset < 0 || static_cast<uint64_t>(offset) > file->bytes().size())
    return data_loss("{}: rows start at byte {}, the file has {}", path, offset, file->bytes().size());
  const int64_t row_size = encoding == "e4m3_e8m0_32_row264" ? 264 : encoding == "lloyd4_e5m3_32_r136" ? 136 : 144;
  SourceTable table{layer_id, num_rows, {}, ""};
  StoredRows stored;
  ENGRAM_RETURN_IF_ERROR(choose_storage(encoding, 0, row_size, &table, &stored).with_context(path));
  ENGRAM_RETURN_IF_ERROR(take_bytes(path, file->bytes().subspan(static_cast<size_t>(offset)), table, &stored));
  source.add_table(std::move(table), {stored});
  source.keep(std::move(file));
  return {};
}

Status add_tables(Env& env, GgufSource& source, const EngramKeys& keys, const EngramLayout& layout) {
  const GgufFile& file = source.file();
  std::string encoding, storage;
  if (const std::string key = keys.find({"encoding"}); !key.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(encoding, file.string(key));
  }
  if (const std::string key = keys.find({"storage"}); !key.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(storage, file.string(key));
  }
  const std::vector<int>& layer_ids = layout.config().layer_ids;
  if (storage != "external") {
    for (size_t i = 0; i < layer_ids.size(); ++i)
      ENGRAM_RETURN_IF_ERROR(add_inner_table(source, {fmt::format("blk.{}.engram_embd.weight", layer_ids[i])},
                                             layer_ids[i], {layout.num_rows(static_cast<int>(i))}, encoding));
    return {};
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto paths, file.strings(keys.name({"external_paths"}), kMaxList));
  ENGRAM_ASSIGN_OR_RETURN(const auto offsets, keys.list({"external_offsets"}));
  if (paths.size() != layer_ids.size() || offsets.size() != layer_ids.size())
    return invalid_argument("{}: {} external paths and {} offsets for {} layers", source.path(), paths.size(),
                            offsets.size(), layer_ids.size());
  for (size_t i = 0; i < layer_ids.size(); ++i)
    ENGRAM_RETURN_IF_ERROR(add_outer_table(env, source, paths[i], offsets[i], layer_ids[i],
                                           layout.num_rows(static_cast<int>(i)), encoding));
  return {};
}

Result<std::unique_ptr<TableSource>> open_deepseek_gguf(Env& env, GgufFile opened) {
  auto source = std::make_unique<GgufSource>("DeepSeek-V4.1 GGUF", std::move(opened));
  const GgufFile& file = source->file();
  const EngramKeys keys(file);
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, read_token_map(file, keys));
  ENGRAM_ASSIGN_OR_RETURN(EngramConfig config, read_config(file, keys, map));
  config.head_dim = 1;  // stands in until the tables say how wide they are
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, EngramLayout::create(config, map));
  ENGRAM_RETURN_IF_ERROR(check_layout(file, keys, layout));
  ENGRAM_RETURN_IF_ERROR(add_tables(env, *source, keys, layout));
  const int64_t width = source->tables()[0].format.width;
  if (const std::string key = keys.find({"key_length", "head_dim"}); !key.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const int64_t stated, file.integer(key));
    ENGRAM_RETURN_IF_ERROR(compare(file, key, {stated}, {width}));
  }
  config.head_dim = static_cast<int>(width);
  source->set_hash({config, layout.compressed_pad_id(), map.sha256()});
  return std::unique_ptr<TableSource>(std::move(source));
}

}  // namespace

Result<std::unique_ptr<TableSource>> open_gguf(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(GgufFile file, GgufFile::open(env, path));
  if (file.has("qwen4exp.ple.layers")) return open_ple_gguf(std::move(file));
  ENGRAM_ASSIGN_OR_RETURN(const std::string architecture, file.string("general.architecture"));
  if (file.has(architecture + ".ngram.neighbor_num")) return open_longcat_gguf(std::move(file), architecture);
  if (EngramKeys(file).find({"layer_ids"}).empty())
    return invalid_argument("{}: architecture {} without engram.layer_ids: no tables that are known here", path,
                            quote_text(architecture));
  return open_deepseek_gguf(env, std::move(file));
}

}  // namespace engram::import
