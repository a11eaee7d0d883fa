// GGUF files of rules of raw ids: Qwen4Exp (llama.cpp's one tensor, ik_llama.cpp's one for each head) and LongCat.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "engram/core/json.h"
#include "engram/store/import/gguf_source.h"
#include "engram/store/import/import.h"

namespace engram::import {
namespace {

// An integer under the first of these keys that is there. kInvalidArgument names the last.
Result<int> read_one_of(const GgufFile& file, std::initializer_list<std::string> keys, int64_t low, int64_t high) {
  std::string key;
  for (const std::string& spelling : keys) {
    key = spelling;
    if (file.has(key)) break;
  }
  ENGRAM_ASSIGN_OR_RETURN(const int64_t value, file.integer(key));
  if (value < low || value > high)
    return invalid_argument("{}: key {} is {}, wanted {} .. {}", file.path(), key, value, low, high);
  return static_cast<int>(value);
}

// The number of token ids that the model hashes with: its own key, or the tokenizer's list.
Result<int> read_vocab_size(const GgufFile& file, const std::string& architecture) {
  const auto tokens = file.values().find("tokenizer.ggml.tokens");
  if (!file.has(architecture + ".vocab_size") && tokens != file.values().end() && tokens->second.is_array &&
      tokens->second.count >= 1 && tokens->second.count <= static_cast<uint64_t>(kMaxRawVocabulary))
    return static_cast<int>(tokens->second.count);
  return read_one_of(file, {architecture + ".vocab_size"}, 1, kMaxRawVocabulary);
}

// What gives the file's multipliers, or why nothing does. sizes: of the heads, checked as a prime search.
Result<EngramConfig> read_ple_config(const GgufFile& file, int layer_id, const std::vector<int64_t>& sizes,
                                     int64_t rows) {
  const std::string prefix = "qwen4exp.ple.";
  EngramConfig config;
  config.rule = HashRule::kQwen4Exp;
  config.layer_ids = {layer_id};
  ENGRAM_ASSIGN_OR_RETURN(config.max_ngram_size, read_one_of(file, {prefix + "ngram_size"}, 2, 64));
  ENGRAM_ASSIGN_OR_RETURN(config.n_heads, read_one_of(file, {prefix + "heads_per_ngram"}, 1, 1024));
  ENGRAM_ASSIGN_OR_RETURN(config.compressed_vocab_size, read_vocab_size(file, "qwen4exp"));
  ENGRAM_ASSIGN_OR_RETURN(
      config.pad_token_id,
      read_one_of(file, {prefix + "eos_token_id", "tokenizer.ggml.eos_token_id"}, 0, config.compressed_vocab_size - 1));
  config.seed = 1234;  // the package's own, which the converters leave out
  if (file.has(prefix + "seed")) {
    ENGRAM_ASSIGN_OR_RETURN(config.seed, file.integer(prefix + "seed"));
  }
  config.vocab_size.assign(static_cast<size_t>(config.max_ngram_size - 1), sizes.empty() ? 0 : sizes[0]);
  config.head_dim = 1;  // stands in until the tensors say how wide they are
  // The divisor is left out too: the smallest power of two that gives the rows, else the rows themselves.
  int64_t sum = 0;
  for (const int64_t size : sizes) sum += size;
  while (config.rows_divisible_by <= 4096 &&
         (sum + config.rows_divisible_by - 1) / config.rows_divisible_by * config.rows_divisible_by != rows)
    config.rows_divisible_by *= 2;
  if (config.rows_divisible_by > 4096) config.rows_divisible_by = rows;
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, EngramLayout::create(config, config.pad_token_id));
  const auto computed = layout.primes(0), multipliers = layout.multipliers(0);
  ENGRAM_RETURN_IF_ERROR(compare(file, prefix + "head_vocab_sizes", sizes, {computed.begin(), computed.end()}));
  ENGRAM_ASSIGN_OR_RETURN(const auto stated, file.integers(prefix + "layer_multipliers", kMaxList));
  ENGRAM_RETURN_IF_ERROR(compare(file, prefix + "layer_multipliers", stated, {multipliers.begin(), multipliers.end()}));
  return config;
}

// A float of 32 bits as the number with the fewest digits that it was made of.
Result<double> read_ratio(const GgufFile& file, const std::string& key) {
  ENGRAM_ASSIGN_OR_RETURN(const double ratio, file.number(key));
  return std::strtod(fmt::format("{}", static_cast<float>(ratio)).c_str(), nullptr);
}

}  // namespace

Result<std::unique_ptr<TableSource>> open_ple_gguf(GgufFile opened) {
  constexpr int64_t kMostPadding = 4096;
  auto source = std::make_unique<GgufSource>("Qwen4Exp GGUF", std::move(opened));
  const GgufFile& file = source->file();
  ENGRAM_ASSIGN_OR_RETURN(const auto layers, file.integers("qwen4exp.ple.layers", kMaxList));
  if (layers.size() != 1 || layers[0] < 0 || layers[0] > INT32_MAX)
    return invalid_argument("{}: key qwen4exp.ple.layers is {}, wanted one block id", file.path(), shape_text(layers));
  const int layer_id = static_cast<int>(layers[0]);
  ENGRAM_ASSIGN_OR_RETURN(const auto sizes, file.integers("qwen4exp.ple.head_vocab_sizes", kMaxList));
  ENGRAM_ASSIGN_OR_RETURN(const auto offsets, file.integers("qwen4exp.ple.head_offsets", kMaxList));
  std::vector<int64_t> wanted;
  int64_t sum = 0;
  for (const int64_t size : sizes) {
    wanted.push_back(sum);
    if (size < 1 || size > INT32_MAX)
      return invalid_argument("{}: key qwen4exp.ple.head_vocab_sizes holds {}", file.path(), size);
    sum += size;
  }
  ENGRAM_RETURN_IF_ERROR(compare(file, "qwen4exp.ple.head_offsets", offsets, wanted));
  const std::string name = "per_layer_token_embd.weight";
  const auto tensor = file.tensors().find(name);
  int64_t rows = sum;
  if (tensor == file.tensors().end() && file.tensors().contains("ple_ngram_embd.0.weight")) {
    std::vector<std::string> names;
    for (size_t head = 0; head < sizes.size(); ++head) names.push_back(fmt::format("ple_ngram_embd.{}.weight", head));
    ENGRAM_RETURN_IF_ERROR(add_inner_table(*source, names, layer_id, sizes, ""));
  } else {
    if (tensor == file.tensors().end()) return not_found("{}: no tensor {}", file.path(), name);
    rows = tensor->second.shape.size() < 2 ? 0 : tensor->second.shape[1];
    if (rows < sum || rows - sum >= kMostPadding)
      return invalid_argument("{}: tensor {} has {} rows, wanted {} and less than {} more as padding", file.path(),
                              name, rows, sum, kMostPadding);
    ENGRAM_RETURN_IF_ERROR(add_inner_table(*source, {name}, layer_id, {rows}, ""));
  }
  const int64_t width = source->tables()[0].format.width;
  const std::string width_key = "qwen4exp.embedding_length_per_layer_input";
  if (file.has(width_key)) {
    ENGRAM_ASSIGN_OR_RETURN(const int64_t stated, file.integer(width_key));
    ENGRAM_RETURN_IF_ERROR(compare(file, width_key, {stated}, {width}));
  }
  Result<EngramConfig> config = read_ple_config(file, layer_id, sizes, rows);
  if (config.ok()) {
    config->head_dim = static_cast<int>(width);
    source->set_hash(make_raw_hash(*config));
  } else {
    source->set_hash_note(config.status().message());
  }
  return std::unique_ptr<TableSource>(std::move(source));
}

Result<std::unique_ptr<TableSource>> open_longcat_gguf(GgufFile opened, const std::string& architecture) {
  auto source = std::make_unique<GgufSource>("LongCat GGUF", std::move(opened));
  const GgufFile& file = source->file();
  const std::string prefix = architecture + ".ngram.";
  EngramConfig config;
  config.rule = HashRule::kLongcat;
  config.layer_ids = {0};
  config.head_dim = 1;  // stands in until the tensors say how wide they are
  ENGRAM_ASSIGN_OR_RETURN(config.max_ngram_size, read_one_of(file, {prefix + "neighbor_num"}, 2, 64));
  ENGRAM_ASSIGN_OR_RETURN(config.n_heads, read_one_of(file, {prefix + "split_num"}, 1, 1024));
  ENGRAM_ASSIGN_OR_RETURN(config.vocab_size_ratio, read_ratio(file, prefix + "vocab_size_ratio"));
  ENGRAM_ASSIGN_OR_RETURN(config.compressed_vocab_size, read_vocab_size(file, architecture));
  ENGRAM_ASSIGN_OR_RETURN(
      config.pad_token_id,
      read_one_of(file, {prefix + "eos_token_id", "tokenizer.ggml.eos_token_id"}, 0, config.compressed_vocab_size - 1));
  const Result<EngramLayout> layout = EngramLayout::create(config, config.pad_token_id);
  if (!layout.ok()) return layout.status().with_context(file.path());
  std::vector<std::string> names;
  for (int head = 0; head < layout->rows_per_token(); ++head)
    names.push_back(fmt::format("ngram_embd.{}.weight", head));
  ENGRAM_RETURN_IF_ERROR(add_inner_table(*source, names, 0, {layout->primes(0).begin(), layout->primes(0).end()}, ""));
  config.head_dim = static_cast<int>(source->tables()[0].format.width);
  source->set_hash(make_raw_hash(config));
  return std::unique_ptr<TableSource>(std::move(source));
}

}  // namespace engram::import
