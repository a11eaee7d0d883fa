#include "bench/hash_bench.h"

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/process.h"
#include "engram/core/env.h"
#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/hash/memory_hasher.h"
#include "engram/hash/numpy_random.h"

namespace engram::bench {
namespace {

constexpr int kVocabSize = 129280, kCompressedVocabSize = 99092, kPadId = 2;
constexpr size_t kTokens = size_t{1} << 20;

struct Workload {
  std::vector<int32_t> map, ids;
  MemoryHasher hasher;
};

// numpy_hash.py has the same numbers.
EngramConfig raw_config(HashRule rule) {
  EngramConfig config;
  config.rule = rule;
  config.layer_ids = {0};
  if (rule == HashRule::kQwen4Exp) {
    config.vocab_size = {20000000, 20000000};
    config.seed = 1234;
    config.pad_token_id = 248044;
    config.compressed_vocab_size = 248320;
  } else {
    config.max_ngram_size = 5;
    config.n_heads = 4;
    config.vocab_size_ratio = 100.567;
    config.compressed_vocab_size = 163840;
  }
  return config;
}

// Random ids of a rule without a token map.
Result<Workload> make_raw_workload(HashRule rule) {
  Workload load;
  const EngramConfig config = raw_config(rule);
  const TokenMap map = TokenMap::identity(config.compressed_vocab_size);
  load.map.assign(map.ids().begin(), map.ids().end());
  NumpyRandom random(0);
  for (size_t i = 0; i < kTokens; ++i)
    load.ids.push_back(static_cast<int32_t>(random.integers(0, config.compressed_vocab_size)));
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, EngramLayout::create(config, map));
  ENGRAM_ASSIGN_OR_RETURN(load.hasher, MemoryHasher::create(layout, map));
  return load;
}

Result<Workload> make_workload(HashRule rule) {
  if (rule != HashRule::kEngram) return make_raw_workload(rule);
  Workload load;
  NumpyRandom random(0);
  // Every canonical id occurs; the rest of the raw ids share one with somebody.
  for (int id = 0; id < kVocabSize; ++id) {
    load.map.push_back(static_cast<int32_t>(id < kCompressedVocabSize ? id : random.integers(0, kCompressedVocabSize)));
  }
  for (size_t i = 0; i < kTokens; ++i) {
    load.ids.push_back(static_cast<int32_t>(random.integers(0, kVocabSize)));
  }
  EngramConfig config;
  config.layer_ids = {1, 14};
  config.max_ngram_size = 3;
  config.n_heads = 8;
  config.vocab_size = {2262400, 2262400};
  config.compressed_vocab_size = kCompressedVocabSize;
  ENGRAM_ASSIGN_OR_RETURN(TokenMap map, TokenMap::from_ids(load.map, kCompressedVocabSize));
  config.pad_token_id = kPadId;
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, EngramLayout::create(config, map));
  ENGRAM_ASSIGN_OR_RETURN(load.hasher, MemoryHasher::create(layout, map));
  return load;
}

// As tensors are: aligned to a cache line.
struct Free {
  void operator()(int64_t* pointer) const { std::free(pointer); }
};
using RowBuffer = std::unique_ptr<int64_t[], Free>;

// Rates of rounds of `work`, `amount` units each, for about `seconds`. The first round warms up.
std::vector<double> measure(double seconds, double amount, const std::function<void()>& work) {
  work();
  std::vector<double> rates;
  const double began = now_seconds();
  while (rates.size() < 3 || now_seconds() - began < seconds) {
    const double start = now_seconds();
    work();
    rates.push_back(amount / (now_seconds() - start));
  }
  return rates;
}

// One batch of ids [B, T] into rows [layer][sequence][token][R].
Status hash_batch(const Workload& load, std::span<const int32_t> ids, size_t sequence, std::span<int64_t> rows) {
  const auto rows_per_token = static_cast<size_t>(load.hasher.rows_per_token());
  for (size_t begin = 0; begin < ids.size(); begin += sequence) {
    NgramContext context = load.hasher.new_context();
    ENGRAM_RETURN_IF_ERROR(context.append(ids.subspan(begin, sequence)));
    for (size_t layer = 0; layer < load.hasher.layers().size(); ++layer) {
      load.hasher.layers()[layer].hash(
          context, static_cast<int64_t>(sequence),
          rows.subspan((layer * ids.size() + begin) * rows_per_token, sequence * rows_per_token));
    }
  }
  return {};
}

// numpy_hash.py's checksum, over the rows of every batch.
Result<uint64_t> checksum(const Workload& load, size_t batch_tokens, size_t sequence, std::span<int64_t> rows) {
  uint64_t sum = 0, weight = 0;
  for (size_t begin = 0; begin < kTokens; begin += batch_tokens) {
    const std::span<const int32_t> ids = std::span(load.ids).subspan(begin, batch_tokens);
    ENGRAM_RETURN_IF_ERROR(hash_batch(load, ids, sequence, rows));
    for (int64_t row : rows) sum += static_cast<uint64_t>(row) * ++weight;
  }
  return sum;
}

std::string_view bytes_of(const std::vector<int32_t>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t)};
}

Status check_numpy_side(const HashBenchOptions& options) {
  if (!Env::posix().file_exists(options.script)) {
    return not_found("numpy side: no file '{}'; pass --script bench/numpy_hash.py", options.script);
  }
  // A bare name is looked up in PATH by the shell.
  if (options.python.find('/') != std::string::npos && !Env::posix().file_exists(options.python)) {
    return not_found("numpy side: no Python at '{}'; run scripts/setup.sh --oracles, or pass --python", options.python);
  }
  return {};
}

Result<nlohmann::json> run_numpy(const Workload& load, const HashBenchOptions& options) {
  Env& env = Env::posix();
  TemporaryFolder folder;
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, folder.file("map"), bytes_of(load.map)));
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, folder.file("ids"), bytes_of(load.ids)));
  std::string command;
  for (const std::string& word :
       {options.python, options.script, std::string("--rule"), std::string(hash_rule_name(options.rule)),
        std::string("--map"), folder.file("map"), std::string("--ids"), folder.file("ids"), std::string("--batch"),
        std::to_string(options.batch), std::string("--sequence"), std::to_string(options.sequence),
        std::string("--seconds"), std::to_string(options.seconds)}) {
    command += shell_quoted(word) + " ";
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto outputs, run_commands({command}));
  return parse_json(outputs[0], options.script);
}

}  // namespace

HashBenchOptions default_hash_bench_options() {
  HashBenchOptions options;
  options.python = ENGRAM_SOURCE_DIR "/.venv-oracles/bin/python";
  options.script = ENGRAM_SOURCE_DIR "/bench/numpy_hash.py";
  return options;
}

Result<HashBenchResult> run_hash_bench(const HashBenchOptions& options) {
  if (!std::has_single_bit(options.batch) || !std::has_single_bit(options.sequence) || options.batch > kTokens ||
      options.sequence > kTokens / options.batch) {
    return invalid_argument("batch, sequence: got {} x {}, wanted powers of two, at most {} tokens", options.batch,
                            options.sequence, kTokens);
  }
  ENGRAM_RETURN_IF_ERROR(check_numpy_side(options));
  ENGRAM_ASSIGN_OR_RETURN(Workload load, make_workload(options.rule));
  const size_t batch_tokens = options.batch * options.sequence;
  const size_t count = load.hasher.layers().size() * batch_tokens * static_cast<size_t>(load.hasher.rows_per_token());
  const RowBuffer buffer(static_cast<int64_t*>(std::aligned_alloc(64, count * sizeof(int64_t))));
  if (buffer == nullptr) {
    return make_status(StatusCode::kResourceExhausted, "no memory for {} row ids of 8 bytes", count);
  }
  const std::span<int64_t> rows(buffer.get(), count);
  const double bytes_per_token = static_cast<double>(rows.size_bytes()) / static_cast<double>(batch_tokens);
  Status status;
  size_t begin = 0;
  auto hash = [&] {
    const std::span<const int32_t> ids = std::span(load.ids).subspan(begin, batch_tokens);
    if (status.ok()) status = hash_batch(load, ids, options.sequence, rows);
    begin = (begin + batch_tokens) % kTokens;
  };
  // Ours before and after numpy, so that a slow spell of the machine hits both.
  std::vector<double> rates = measure(options.seconds / 2, static_cast<double>(batch_tokens), hash);
  ENGRAM_RETURN_IF_ERROR(status);
  ENGRAM_ASSIGN_OR_RETURN(nlohmann::json numpy, run_numpy(load, options));
  std::vector<double> later = measure(options.seconds / 2, static_cast<double>(batch_tokens), hash);
  rates.insert(rates.end(), later.begin(), later.end());

  ENGRAM_ASSIGN_OR_RETURN(std::string wanted, read_field<std::string>(numpy, "checksum", options.script));
  ENGRAM_ASSIGN_OR_RETURN(uint64_t sum, checksum(load, batch_tokens, options.sequence, rows));
  if (std::string got = std::to_string(sum); got != wanted) {
    return make_status(StatusCode::kInternal, "row ids differ from numpy's: checksum {}, wanted {}", got, wanted);
  }
  std::vector<double> stream = measure(options.seconds / 4, static_cast<double>(rows.size_bytes()), [&] {
    std::memset(rows.data(), 1, rows.size_bytes());
    asm volatile("" : : "r"(rows.data()) : "memory");  // the compiler must not drop the fill
  });

  HashBenchResult result;
  result.row_ids_per_token = load.hasher.num_layers() * load.hasher.rows_per_token();
  result.target = hwy::TargetName(hwy::SupportedTargets() & -hwy::SupportedTargets());
  ENGRAM_ASSIGN_OR_RETURN(result.numpy_version, read_field<std::string>(numpy, "numpy", options.script));
  ENGRAM_ASSIGN_OR_RETURN(result.numpy_tokens_per_second,
                          read_field<double>(numpy, "tokens_per_second", options.script));
  result.tokens_per_second = median(rates);
  result.ratio_to_numpy = result.tokens_per_second / result.numpy_tokens_per_second;
  result.bytes_written_per_second = result.tokens_per_second * bytes_per_token;
  result.stream_bytes_per_second = median(stream);
  result.share_of_stream = result.bytes_written_per_second / result.stream_bytes_per_second;
  return result;
}

}  // namespace engram::bench
