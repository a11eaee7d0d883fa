// The drive tier against fio, and one long prompt against the drive's rate.
#include <sys/resource.h>

#include <algorithm>
#include <deque>
#include <random>

#include "bench/process.h"
#include "bench/store_bench.h"
#include "bench/text_reader.h"
#include "engram/core/json.h"
#include "engram/data/token_shard.h"
#include "engram/store/open.h"
#include "engram/text/tokenizer.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

// How callers ask: the reads of long prompts are large and few, those of decode steps small and many.
struct ReadShape {
  size_t rows = 0, in_flight = 0;
};
constexpr ReadShape kReadShapes[] = {{4096, 2}, {32, 32}};

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

struct DriveRate {
  double reads_per_second = 0, cpu_us_per_read = 0;
};

// Every run reads other pages, as store_rate() does: what lies under a virtual drive remembers those it gave before.
Result<DriveRate> fio_rate(const StoreBenchOptions& options) {
  const std::string command = fmt::format(
      "{} --name=random --filename={} --readonly --rw=randread --bs=4k --direct=1 --ioengine=io_uring "
      "--iodepth={} --runtime={} --time_based --norandommap --randrepeat=0 --output-format=json",
      shell_quoted(options.fio), shell_quoted(options.table), options.depth, options.seconds);
  ENGRAM_ASSIGN_OR_RETURN(const auto outputs, run_commands({command}));
  // fio may print notes before its JSON.
  const size_t begin = std::min(outputs[0].find('{'), outputs[0].size());
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(outputs[0].substr(begin), "fio's output"));
  try {
    const auto& job = json.at("jobs").at(0);
    const double iops = job.at("read").at("iops").get<double>();
    return DriveRate{iops, (job.at("usr_cpu").get<double>() + job.at("sys_cpu").get<double>()) * 1e4 / iops};
  } catch (const nlohmann::json::exception& error) {
    return data_loss("fio's output: {}", error.what());
  }
}

uint64_t pages_read(const RowStore& store) {
  const StoreStats stats = store.stats();
  return stats.tiers.back().pages;
}

// Random rows, several reads in flight, so that the queue does not run dry at the end of one.
Result<DriveRate> store_rate(const StoreBenchOptions& options, RowStore& store, const ReadShape& shape) {
  std::mt19937_64 random(std::random_device{}());
  std::uniform_int_distribution<int64_t> row(0, store.num_rows() - 1);
  std::vector<int64_t> ids(shape.rows);
  std::vector<std::vector<std::byte>> out(shape.in_flight, std::vector<std::byte>(shape.rows * store.row_bytes()));
  std::deque<Pending> in_flight;
  const uint64_t pages = pages_read(store);
  const double start = now_seconds(), cpu = cpu_seconds();
  for (size_t i = 0; now_seconds() - start < options.seconds; ++i) {
    if (in_flight.size() == shape.in_flight) {
      ENGRAM_RETURN_IF_ERROR(in_flight.front().wait());
      in_flight.pop_front();
    }
    for (int64_t& id : ids) id = row(random);
    in_flight.push_back(store.read(ids, out[i % shape.in_flight]));
  }
  for (Pending& pending : in_flight) ENGRAM_RETURN_IF_ERROR(pending.wait());
  const auto reads = static_cast<double>(pages_read(store) - pages);
  return DriveRate{reads / (now_seconds() - start), (cpu_seconds() - cpu) / reads * 1e6};
}

std::string drive_uri(const StoreBenchOptions& options) {
  return fmt::format("nvme:{}?direct=1&depth={}", options.table, options.depth);
}

// In every other round fio goes last: what one side takes from a drive's burst credit must not favour the other.
Result<Json> measure_drive(const StoreBenchOptions& options, RowStore& store, const ReadShape& shape) {
  std::vector<double> fio, ours, fio_cpu, our_cpu, shares;
  for (int round = 0; round < options.rounds; ++round) {
    DriveRate limit, rate;
    if (round % 2 == 0) {
      ENGRAM_ASSIGN_OR_RETURN(limit, fio_rate(options));
      ENGRAM_ASSIGN_OR_RETURN(rate, store_rate(options, store, shape));
    } else {
      ENGRAM_ASSIGN_OR_RETURN(rate, store_rate(options, store, shape));
      ENGRAM_ASSIGN_OR_RETURN(limit, fio_rate(options));
    }
    fio.push_back(limit.reads_per_second);
    fio_cpu.push_back(limit.cpu_us_per_read);
    ours.push_back(rate.reads_per_second);
    our_cpu.push_back(rate.cpu_us_per_read);
    shares.push_back(rate.reads_per_second / limit.reads_per_second);
  }
  const Spread share = spread_of(shares);
  return Json{{"name", fmt::format("NvmeStore, depth {}, {} reads of {} rows in flight", options.depth, shape.in_flight,
                                   shape.rows)},
              {"reads_per_second", median(ours)},
              {"fio_reads_per_second", median(fio)},
              {"share_of_fio", share.median},
              {"share_of_fio_least", share.low},
              {"share_of_fio_most", share.high},
              {"cpu_us_per_read", median(our_cpu)},
              {"fio_cpu_us_per_read", median(fio_cpu)}};
}

}  // namespace

Result<Json> run_drive_bench(Env& env, const StoreBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(OpenTable table, open_row_stores(env, drive_uri(options)));
  Json out = {{"file_bytes", table.info.file_bytes()}, {"measurements", Json::array()}};
  for (const ReadShape& shape : kReadShapes) {
    ENGRAM_ASSIGN_OR_RETURN(Json measurement, measure_drive(options, *table.stores[0], shape));
    out["measurements"].push_back(std::move(measurement));
  }
  return out;
}

Result<Json> run_prompt_bench(Env& env, const StoreBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(env, options.tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, TokenMap::from_tokenizer(tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(env, options.tokens));
  const int64_t length = std::min(options.prompt_tokens, shard.info().num_tokens);
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  shard.copy_tokens(0, tokens);
  ENGRAM_ASSIGN_OR_RETURN(const TextReader reader, TextReader::open(env, drive_uri(options), map, length));
  std::vector<double> seconds, rates, ratios;
  uint64_t pages = 0;
  const auto count_pages = [&] {
    uint64_t sum = 0;
    for (const auto& store : reader.table.stores) sum += pages_read(*store);
    return sum;
  };
  for (int round = 0; round < options.rounds; ++round) {
    ENGRAM_ASSIGN_OR_RETURN(const DriveRate limit, fio_rate(options));
    const uint64_t before = count_pages();
    const double start = now_seconds();
    ENGRAM_RETURN_IF_ERROR(reader.read(tokens));
    seconds.push_back(now_seconds() - start);
    pages = count_pages() - before;
    rates.push_back(limit.reads_per_second);
    ratios.push_back(seconds.back() * limit.reads_per_second / static_cast<double>(pages));
  }
  const auto row_count = static_cast<double>(length) * reader.hasher.rows_per_token() * reader.hasher.num_layers();
  const Json measurement = {{"name", fmt::format("prompt of {} tokens in one call", length)},
                            {"rows", row_count},
                            {"pages_read", pages},
                            {"rows_per_page_read", row_count / static_cast<double>(pages)},
                            {"seconds", median(seconds)},
                            {"fio_reads_per_second", median(rates)},
                            {"ratio_to_pages_over_fio_rate", median(ratios)}};
  return Json{{"measurements", {measurement}}};
}

}  // namespace engram::bench
