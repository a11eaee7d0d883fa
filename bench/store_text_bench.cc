// Real text through the tiers, in chunks, as a prefill does it.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>

#include "bench/process.h"
#include "bench/store_bench.h"
#include "bench/text_reader.h"
#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/data/token_shard.h"
#include "engram/store/rowfile/row_file.h"
#include "engram/text/tokenizer.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

// Text and table of one run.
struct TextCase {
  TokenMap map = TokenMap::identity(0);
  std::vector<int32_t> tokens;
  RowFileInfo info;
  MemoryHasher hasher;

  std::span<const int32_t> part(int64_t begin, int64_t count) const {
    return std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
  }
  // Row ids of the chunk that begins at `begin`. Chunks stand alone: nobody's look-back differs.
  RowIds row_ids(int64_t begin, int64_t count) const { return value_or_throw(hasher.hash(part(begin, count))); }
};

Result<TextCase> open_case(Env& env, const StoreBenchOptions& options) {
  TextCase text;
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(env, options.tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(env, options.tokens));
  text.tokens.resize(static_cast<size_t>(shard.info().num_tokens));
  shard.copy_tokens(0, text.tokens);
  ENGRAM_ASSIGN_OR_RETURN(const RowFileReader file, RowFileReader::open(env, options.table));
  text.info = file.info();
  ENGRAM_ASSIGN_OR_RETURN(text.map,
                          make_token_map(text.info.hash ? text.info.hash->config : EngramConfig(), tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(text.hasher, text.info.hasher(text.map));
  return text;
}

// Drops a file from the page cache.
void make_cold(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
}

// Tokens a second of chunks from `begin` on, for the time of one measurement; `end` is where it stopped.
Result<double> measure_chunks(const StoreBenchOptions& options, int64_t begin, int64_t limit, int64_t* end,
                              const std::function<Status(int64_t begin, int64_t count)>& chunk) {
  const double start = now_seconds();
  int64_t at = begin;
  double elapsed = 0;
  while (elapsed < options.seconds && at + options.chunk_tokens <= limit) {
    ENGRAM_RETURN_IF_ERROR(chunk(at, options.chunk_tokens));
    at += options.chunk_tokens;
    elapsed = now_seconds() - start;
  }
  if (end != nullptr) *end = at;
  return static_cast<double>(at - begin) / elapsed;
}

// Ours: hash and read in one call a chunk.
Result<Json> measure_pipeline(Env& env, const StoreBenchOptions& options, const TextCase& text, const std::string& uri,
                              bool warm_up, int64_t limit) {
  ENGRAM_ASSIGN_OR_RETURN(const TextReader reader, TextReader::open(env, uri, text.map, options.chunk_tokens));
  auto chunk = [&](int64_t begin, int64_t count) { return reader.read(text.part(begin, count)); };
  const auto total = static_cast<int64_t>(text.tokens.size());
  const int64_t warm = std::min(options.warm_up_tokens, total / 2) / options.chunk_tokens * options.chunk_tokens;
  for (int64_t at = 0; warm_up && at < warm; at += options.chunk_tokens)
    ENGRAM_RETURN_IF_ERROR(chunk(at, options.chunk_tokens));
  auto counts = [&] {
    std::array<double, 3> sum{};  // rows, distinct rows, pages
    for (const auto& store : reader.table.stores) {
      const StoreStats stats = store->stats();
      sum[0] += static_cast<double>(stats.rows);
      sum[1] += static_cast<double>(stats.unique_rows);
      sum[2] += static_cast<double>(stats.tiers.back().pages);
    }
    return sum;
  };
  const auto before = counts();
  int64_t end = 0;
  ENGRAM_ASSIGN_OR_RETURN(const double rate,
                          measure_chunks(options, warm_up ? warm : 0, std::min(limit, total), &end, chunk));
  const auto after = counts();
  const double row_count = after[0] - before[0];
  return Json{{"tokens_per_second", rate},
              {"tokens", end - (warm_up ? warm : 0)},
              {"rows_per_unique_row", row_count / (after[1] - before[1])},
              {"pages_per_row", (after[2] - before[2]) / row_count}};
}

// One pread of a page a row, one after the other, through the page cache: what a first version does.
Result<double> measure_pread(const StoreBenchOptions& options, const TextCase& text, int64_t begin, int64_t* end) {
  const int file = ::open(options.table.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return not_found("{}: cannot be opened", options.table);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
  std::vector<std::byte> out;
  auto chunk = [&](int64_t at, int64_t count) -> Status {
    const auto ids = text.row_ids(at, count);
    for (int layer = 0; layer < ids.num_layers(); ++layer) {
      const RowTable& table = text.info.tables[static_cast<size_t>(layer)];
      const std::span<const int64_t> rows = ids.layer(layer);
      const auto row_bytes = static_cast<size_t>(table.row_bytes);
      out.resize(rows.size() * row_bytes);
      for (size_t i = 0; i < rows.size(); ++i) {
        const int64_t offset = table.page_of(rows[i]) * kRowPageBytes + table.offset_of(rows[i]);
        if (::pread(file, out.data() + i * row_bytes, row_bytes, offset) != static_cast<ssize_t>(row_bytes))
          return data_loss("{}: short read at {}", options.table, offset);
      }
    }
    return {};
  };
  Result<double> rate = measure_chunks(options, begin, static_cast<int64_t>(text.tokens.size()), end, chunk);
  ::close(file);
  return rate;
}

// np.memmap over the same pages, fancy indexing. Row ids are made here: hashing is not in numpy's time.
Result<double> measure_memmap(const StoreBenchOptions& options, const TextCase& text, int64_t begin, int64_t chunks) {
  const std::string path = fmt::format("/tmp/engram_memmap_{}.ids", ::getpid());
  {
    ENGRAM_ASSIGN_OR_RETURN(const auto file, Env::posix().new_writable_file(path));
    for (int64_t c = 0; c < chunks; ++c) {
      const RowIds ids = text.row_ids(begin + c * options.chunk_tokens, options.chunk_tokens);
      for (int layer = 0; layer < ids.num_layers(); ++layer)
        ENGRAM_RETURN_IF_ERROR(file->append(std::as_bytes(ids.layer(layer))));
    }
  }
  Json job = {{"table", options.table},
              {"ids", path},
              {"chunk_tokens", options.chunk_tokens},
              {"rows_per_token", text.hasher.rows_per_token()},
              {"tables", Json::array()},
              {"seconds", options.seconds}};
  for (const RowTable& table : text.info.tables)
    job["tables"].push_back({{"first_page", table.first_page},
                             {"num_pages", table.num_pages},
                             {"rows_per_page", table.rows_per_page},
                             {"row_bytes", table.row_bytes}});
  auto outputs = run_commands({fmt::format("printf %s {} | {} {}", shell_quoted(job.dump()),
                                           shell_quoted(options.python), shell_quoted(options.memmap_script))});
  ::unlink(path.c_str());
  if (!outputs.ok()) return outputs.status();
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, parse_json((*outputs)[0], options.memmap_script));
  return read_field<double>(json, "tokens_per_second", options.memmap_script);
}

}  // namespace

Result<Json> run_text_bench(Env& env, const StoreBenchOptions& options) {
  if (!env.file_exists(options.python))
    return not_found("numpy side: no Python at '{}'; run scripts/setup.sh --oracles, or pass --python", options.python);
  ENGRAM_ASSIGN_OR_RETURN(const TextCase text, open_case(env, options));
  int64_t table_bytes = 0;
  for (const RowTable& table : text.info.tables) table_bytes += table.num_rows * table.row_bytes;
  Json measurements = Json::array();
  for (const double share : {0.0, 0.01, 0.05, 0.2}) {
    const auto cache = static_cast<int64_t>(share * static_cast<double>(table_bytes));
    std::string uri = fmt::format("nvme:{}?direct=1&depth={}", options.table, options.depth);
    if (cache > 0) uri += fmt::format("&cache={}", cache);
    ENGRAM_ASSIGN_OR_RETURN(Json result, measure_pipeline(env, options, text, uri, cache > 0, INT64_MAX));
    result["name"] = cache > 0 ? fmt::format("nvme, cache {:.0f} % of the table", 100 * share) : "nvme, no cache";
    result["page_cache"] = "not used";
    measurements.push_back(result);
  }
  auto add = [&](const std::string& name, const char* state, double rate) {
    measurements.push_back({{"name", name}, {"page_cache", state}, {"tokens_per_second", rate}});
  };
  // Each side reads cold text first, then the same text again.
  const std::string page_cache = fmt::format("pagecache:{}?depth={}", options.table, options.depth);
  make_cold(options.table);
  int64_t limit = INT64_MAX;
  for (const char* state : {"cold", "warm"}) {
    ENGRAM_ASSIGN_OR_RETURN(Json result, measure_pipeline(env, options, text, page_cache, false, limit));
    limit = result["tokens"];
    add("pagecache", state, result["tokens_per_second"]);
  }
  make_cold(options.table);
  int64_t end = 0;
  ENGRAM_ASSIGN_OR_RETURN(const double cold, measure_pread(options, text, 0, &end));
  add("synchronous pread", "cold", cold);
  TextCase same = text;
  same.tokens.resize(static_cast<size_t>(end));
  ENGRAM_ASSIGN_OR_RETURN(const double warm, measure_pread(options, same, 0, nullptr));
  add("synchronous pread", "warm", warm);
  make_cold(options.table);
  const int64_t chunks = std::max<int64_t>(1, end / options.chunk_tokens);
  for (const char* state : {"cold", "warm"}) {
    ENGRAM_ASSIGN_OR_RETURN(const double rate, measure_memmap(options, text, 0, chunks));
    add("np.memmap fancy indexing", state, rate);
  }
  return Json{{"table_bytes", table_bytes},
              {"rows_per_token", text.hasher.rows_per_token() * text.hasher.num_layers()},
              {"chunk_tokens", options.chunk_tokens},
              {"measurements", measurements}};
}

}  // namespace engram::bench
