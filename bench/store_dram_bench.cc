// The memory tier against a plain gather loop.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>

#include "bench/process.h"
#include "bench/store_bench.h"
#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/store/import/table_tools.h"
#include "engram/store/rowfile/row_file.h"
#include "engram/store/tiers/dram_store.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kBatchRows = 4096, kBatches = 64;
constexpr int64_t kSpanBytes = int64_t{8} << 30;  // of the table that ids fall into

using Batches = std::vector<std::vector<int64_t>>;

Batches random_batches(int64_t rows, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int64_t> row(0, rows - 1);
  Batches batches(kBatches, std::vector<int64_t>(kBatchRows));
  for (auto& batch : batches)
    for (int64_t& id : batch) id = row(random);
  return batches;
}

// The limit: no checks, no counters, and the fetch distance that suits the machine best (`ahead`).
void plain_gather(const std::byte* rows, size_t row_bytes, const std::vector<int64_t>& ids, size_t ahead,
                  std::byte* out) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i + ahead < ids.size()) {
      const std::byte* next = rows + static_cast<size_t>(ids[i + ahead]) * row_bytes;
      for (size_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(next + at);
      __builtin_prefetch(next + row_bytes - 1);
    }
    std::memcpy(out + i * row_bytes, rows + static_cast<size_t>(ids[i]) * row_bytes, row_bytes);
  }
}

using Gather = std::function<void(const std::vector<int64_t>& ids, std::byte* out)>;

// Rows a second of each of several gathers, by `threads` threads with their own batches and outputs. The gathers take
// turns batch by batch, a fraction of a millisecond each, so that what slows the machine slows all of them.
std::vector<double> rows_per_second(int threads, int64_t rows, size_t row_bytes, double seconds,
                                    const std::vector<Gather>& gathers) {
  std::vector<std::vector<double>> rates(static_cast<size_t>(threads), std::vector<double>(gathers.size()));
  auto work = [&](size_t thread) {
    const Batches batches = random_batches(rows, thread + 1);
    std::vector<std::byte> out(kBatchRows * row_bytes);
    std::vector<double> spent(gathers.size());
    size_t turns = 0;
    const double end = now_seconds() + seconds;
    for (double now = now_seconds(); now < end; ++turns) {
      for (size_t i = 0; i < gathers.size(); ++i) {
        const size_t g = turns % 2 == 0 ? i : gathers.size() - 1 - i;  // none always follows the same other
        gathers[g](batches[(turns * gathers.size() + g) % kBatches], out.data());
        const double after = now_seconds();
        if (turns > 0) spent[g] += after - now;  // the first turn touches the output
        now = after;
      }
    }
    for (size_t g = 0; g < gathers.size(); ++g)
      rates[thread][g] = static_cast<double>((turns - 1) * kBatchRows) / spent[g];
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < threads; ++i) pool.emplace_back(work, i);
  work(0);
  for (std::thread& thread : pool) thread.join();
  std::vector<double> sum(gathers.size());
  for (const auto& of_thread : rates)
    for (size_t g = 0; g < sum.size(); ++g) sum[g] += of_thread[g];
  return sum;
}

// Rows ahead that suit this machine best.
size_t best_distance(const std::byte* rows, int64_t count, size_t row_bytes) {
  const std::vector<size_t> distances = {4, 8, 12, 16, 24, 32};
  std::vector<Gather> gathers;
  for (const size_t ahead : distances) {
    gathers.push_back([=](const auto& ids, std::byte* out) { plain_gather(rows, row_bytes, ids, ahead, out); });
  }
  const auto rates = rows_per_second(1, count, row_bytes, 2, gathers);
  return distances[static_cast<size_t>(std::max_element(rates.begin(), rates.end()) - rates.begin())];
}

struct Unmap {
  size_t bytes;
  void operator()(void* memory) const { ::munmap(memory, bytes); }
};

// The same number of bytes on 4 KiB pages, every page touched.
Result<std::unique_ptr<void, Unmap>> small_pages(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return make_status(StatusCode::kResourceExhausted, "no memory for {} bytes", bytes);
  ::madvise(memory, bytes, MADV_NOHUGEPAGE);
  for (size_t at = 0; at < bytes; at += 4096) static_cast<char*>(memory)[at] = 1;
  return std::unique_ptr<void, Unmap>(memory, Unmap{bytes});
}

}  // namespace

Result<Json> run_dram_bench(Env& env, const StoreBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const RowFileReader file, RowFileReader::open(env, options.table));
  const int layer = file.info().tables.front().layer_id;
  ENGRAM_ASSIGN_OR_RETURN(auto store, DramStore::open(env, options.table, layer));
  const size_t row_bytes = store->row_bytes();
  const int64_t rows = std::min(store->num_rows(), kSpanBytes / static_cast<int64_t>(row_bytes));
  const size_t ahead = best_distance(store->rows().data(), rows, row_bytes);
  const Gather plain = [&](const std::vector<int64_t>& ids, std::byte* out) {
    plain_gather(store->rows().data(), row_bytes, ids, ahead, out);
  };
  std::atomic<bool> failed = false;
  const Gather lookup = [&](const std::vector<int64_t>& ids, std::byte* out) {
    if (!store->read(ids, {out, ids.size() * row_bytes}).wait().ok()) failed = true;
  };
  const size_t bytes = static_cast<size_t>(rows) * row_bytes;
  ENGRAM_ASSIGN_OR_RETURN(const auto memory, small_pages(bytes));
  const Gather plain_on_small = [&](const std::vector<int64_t>& ids, std::byte* out) {
    plain_gather(static_cast<const std::byte*>(memory.get()), row_bytes, ids, ahead, out);
  };
  Json measurements = Json::array();
  for (int threads : {1, 2}) {
    std::vector<double> ours, limit, small, shares, gain;
    for (int round = 0; round < options.rounds; ++round) {
      const auto rates = rows_per_second(threads, rows, row_bytes, options.seconds, {lookup, plain, plain_on_small});
      ours.push_back(rates[0]);
      limit.push_back(rates[1]);
      small.push_back(rates[2]);
      shares.push_back(rates[0] / rates[1]);
      gain.push_back(rates[0] / rates[2]);
    }
    const Spread share = spread_of(shares);
    measurements.push_back({{"name", fmt::format("DramStore, {} thread{}", threads, threads > 1 ? "s" : "")},
                            {"rows_per_second", median(ours)},
                            {"plain_gather_rows_per_second", median(limit)},
                            {"share_of_plain_gather", share.median},
                            {"share_least", share.low},
                            {"share_most", share.high},
                            {"plain_gather_4k_pages_rows_per_second", median(small)},
                            {"ratio_to_4k_pages", median(gain)}});
  }
  if (failed) return make_status(StatusCode::kInternal, "{}: a row could not be read", options.table);
  return Json{{"rows", rows},
              {"row_bytes", row_bytes},
              {"bytes", bytes},
              {"rows_fetched_ahead", ahead},
              {"measurements", measurements}};
}

Result<Json> run_peer_bench(Env& env, const StoreBenchOptions& options) {
  constexpr int64_t kHeads = 24, kRowsPerHead = 20000, kWidth = 256;
  RowTable shape;
  shape.layer_id = 1;
  shape.num_rows = kHeads * kRowsPerHead;
  shape.format.type = RowType::kFP32;
  shape.format.width = kWidth;
  ENGRAM_ASSIGN_OR_RETURN(const RowFileInfo info, RowFileInfo::create({shape}, std::nullopt));
  const std::string path = options.table + ".peer";
  ENGRAM_RETURN_IF_ERROR(write_synthetic(env, path, info, 0, false, nullptr));
  auto opened = DramStore::open(env, path, 1);
  ENGRAM_RETURN_IF_ERROR(env.remove_file(path));
  if (!opened.ok()) return opened.status();
  RowStore& store = **opened;

  std::mt19937_64 random(0);
  std::uniform_int_distribution<int64_t> row(0, kRowsPerHead - 1);
  std::vector<std::vector<int64_t>> chunks(16);
  for (auto& ids : chunks)
    for (int64_t i = 0; i < options.chunk_tokens * kHeads; ++i) ids.push_back(i % kHeads * kRowsPerHead + row(random));
  std::vector<std::byte> out(chunks[0].size() * store.row_bytes());
  const Json job = {{"heads", kHeads},
                    {"rows", kRowsPerHead},
                    {"width", kWidth},
                    {"chunk_tokens", options.chunk_tokens},
                    {"seconds", options.seconds}};
  const std::string command = fmt::format("printf %s {} | {} {}", shell_quoted(job.dump()),
                                          shell_quoted(options.python), shell_quoted(options.mooncake_script));
  std::vector<double> ours, theirs;
  for (int round = 0; round < options.rounds; ++round) {
    ENGRAM_ASSIGN_OR_RETURN(const auto outputs, run_commands({command}));
    ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(outputs[0], options.mooncake_script));
    ENGRAM_ASSIGN_OR_RETURN(const double rate, read_field<double>(json, "tokens_per_second", options.mooncake_script));
    theirs.push_back(rate);
    int64_t tokens = 0;
    const double start = now_seconds();
    while (now_seconds() - start < options.seconds) {
      ENGRAM_RETURN_IF_ERROR(store.read(chunks[static_cast<size_t>(tokens / options.chunk_tokens) % 16], out).wait());
      tokens += options.chunk_tokens;
    }
    ours.push_back(static_cast<double>(tokens) / (now_seconds() - start));
  }
  const Json measurement = {{"name", "DramStore, float32 rows of 256"},
                            {"tokens_per_second", median(ours)},
                            {"mooncake_tokens_per_second", median(theirs)},
                            {"ratio_to_mooncake", median(ours) / median(theirs)}};
  return Json{{"rows_per_token", kHeads}, {"chunk_tokens", options.chunk_tokens}, {"measurements", {measurement}}};
}

}  // namespace engram::bench
