// Multipliers, primes and row ids of the public demo, exactly: layout, hash(), hash_plain(), and hash() in two chunks.
#include <algorithm>

#include "engram/core/json.h"
#include "engram/hash/ngram_hasher.h"
#include "tests/golden/deepseek_map.h"
#include "tests/golden/golden_files.h"

namespace engram::golden {
namespace {

using nlohmann::json;

// An item of the two other dialects, whose vectors have their own keys.
EngramConfig dialect_config(const json& item) {
  EngramConfig config;
  config.rule = value_or_throw(parse_hash_rule(item.at("rule").get<std::string>()));
  config.compressed_vocab_size = item.at("vocab_size");
  config.pad_token_id = item.at("eos_token_id");
  if (config.rule == HashRule::kLongcat) {
    config.layer_ids = {0};
    config.max_ngram_size = item.at("neighbor_num");
    config.n_heads = item.at("split_num");
    config.vocab_size_ratio = item.at("vocab_size_ratio");
    return config;
  }
  for (int layer = 0; layer < item.at("ple_layers"); ++layer) config.layer_ids.push_back(layer);
  config.max_ngram_size = item.at("ngram_size");
  config.n_heads = item.at("heads_per_ngram");
  config.vocab_size.assign(static_cast<size_t>(config.max_ngram_size - 1), item.at("ngram_vocab_size_base"));
  config.seed = item.at("seed");
  return config;
}

EngramConfig config_of(const json& item) {
  if (item.contains("rule")) return dialect_config(item);
  EngramConfig config;
  config.layer_ids = item.at("layer_ids").get<std::vector<int>>();
  config.max_ngram_size = item.at("max_ngram_size");
  config.n_heads = item.at("n_heads");
  config.vocab_size = item.at("vocab_size_per_ngram").get<std::vector<int64_t>>();
  config.seed = item.at("seed");
  config.pad_token_id = item.value("pad_id", 2);
  config.compressed_vocab_size = item.at("compressed_vocab_size");
  return config;
}

// [[..], [..]] as one list.
std::vector<int64_t> flatten(const json& rows) {
  std::vector<int64_t> all;
  for (const json& row : rows) {
    for (const json& value : row) all.push_back(value.get<int64_t>());
  }
  return all;
}

// The same sequence in two chunks.
std::vector<int64_t> hash_in_two(const NgramHasher& hasher, const TokenMap& map, const std::vector<int32_t>& ids,
                                 const std::vector<int32_t>& starts, size_t cut) {
  std::vector<int64_t> rows(ids.size() * static_cast<size_t>(hasher.rows_per_token()));
  std::vector<int32_t> first_starts, second_starts;
  for (int32_t start : starts) {
    if (static_cast<size_t>(start) < cut)
      first_starts.push_back(start);
    else
      second_starts.push_back(start - static_cast<int32_t>(cut));
  }
  const size_t rows_before = cut * static_cast<size_t>(hasher.rows_per_token());
  const std::span<const int32_t> all = ids;
  NgramContext context(map, hasher.max_ngram_size(), 0, hasher.cut_id());
  throw_if_error(context.append(all.first(cut), first_starts));
  hasher.hash(context, static_cast<int64_t>(cut), std::span(rows).first(rows_before));
  throw_if_error(context.append(all.subspan(cut), second_starts));
  hasher.hash(context, static_cast<int64_t>(ids.size() - cut), std::span(rows).subspan(rows_before));
  return rows;
}

// row_ids: of one layer.
void check_sequence(const NgramHasher& hasher, const TokenMap& map, const json& sequence, const json& row_ids,
                    const std::string& where, GoldenOutcome& outcome) {
  const auto ids = sequence.at("token_ids").get<std::vector<int32_t>>();
  const auto starts = sequence.value("starts", std::vector<int32_t>{});
  const std::vector<int64_t> wanted = flatten(row_ids);
  std::vector<int64_t> rows(ids.size() * static_cast<size_t>(hasher.rows_per_token()));
  std::vector<CanonicalId> canonical;
  for (int32_t id : ids) canonical.push_back(CanonicalId{id < 0 ? -1 : map.ids()[static_cast<size_t>(id)]});
  hasher.hash_plain(canonical, starts, rows);
  if (rows != wanted) outcome.failures.push_back(where + ": hash_plain() differs");
  for (size_t cut = 0; cut <= ids.size(); ++cut) {
    if (hash_in_two(hasher, map, ids, starts, cut) == wanted) continue;
    outcome.failures.push_back(fmt::format("{}: hash() of two chunks cut at {} differs", where, cut));
  }
}

void check_item(const json& item, const TokenMap& map, const std::string& where, GoldenOutcome& outcome) {
  const EngramConfig config = config_of(item);
  const bool canonical = item.value("canonical", false);
  const int pad =
      canonical ? item.at("compressed_pad_id").get<int>() : map.ids()[static_cast<size_t>(config.pad_token_id)];
  if (item.contains("compressed_pad_id") && item.at("compressed_pad_id") != pad) {
    outcome.failures.push_back(fmt::format("{}: compressed pad id is {}", where, pad));
  }
  EngramLayout layout = value_or_throw(EngramLayout::create(config, pad));
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    const std::string layer_id = std::to_string(config.layer_ids[static_cast<size_t>(layer)]);
    if (!std::ranges::equal(layout.multipliers(layer),
                            item.at("multipliers").at(layer_id).get<std::vector<int64_t>>())) {
      outcome.failures.push_back(where + ": multipliers of layer " + layer_id + " differ");
    }
    if (!std::ranges::equal(layout.primes(layer), flatten(item.at("primes").at(layer_id)))) {
      outcome.failures.push_back(where + ": primes of layer " + layer_id + " differ");
    }
    const NgramHasher hasher(layout, layer);
    for (size_t i = 0; i < item.at("sequences").size(); ++i) {
      check_sequence(hasher, map, item.at("sequences")[i], item.at("sequences")[i].at("row_ids").at(layer_id),
                     fmt::format("{}, layer {}, sequence {}", where, layer_id, i), outcome);
    }
  }
}

void check_dialect(const json& item, const std::string& where, GoldenOutcome& outcome) {
  const EngramConfig config = config_of(item);
  const TokenMap map = TokenMap::identity(config.compressed_vocab_size);
  const EngramLayout layout = value_or_throw(EngramLayout::create(config, map));
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    const auto at = static_cast<size_t>(layer);
    const json& sizes = config.rule == HashRule::kLongcat ? item.at("table_rows") : item.at("head_sizes")[at];
    if (!std::ranges::equal(layout.primes(layer), sizes.get<std::vector<int64_t>>()))
      outcome.failures.push_back(fmt::format("{}: head sizes of layer {} differ", where, layer));
    if (item.contains("multipliers") &&
        !std::ranges::equal(layout.multipliers(layer), item.at("multipliers")[at].get<std::vector<int64_t>>()))
      outcome.failures.push_back(fmt::format("{}: multipliers of layer {} differ", where, layer));
    const NgramHasher hasher(layout, layer);
    for (size_t i = 0; i < item.at("sequences").size(); ++i) {
      const json& sequence = item.at("sequences")[i];
      check_sequence(hasher, map, sequence, sequence.at("row_ids")[at],
                     fmt::format("{}, layer {}, sequence {}", where, layer, i), outcome);
    }
  }
}

GoldenOutcome check_file(const std::string& path) {
  GoldenOutcome outcome;
  try {
    const json file = value_or_throw(read_json_file(Env::posix(), path));
    for (size_t i = 0; i < file.size(); ++i) {
      const std::string where = fmt::format("item {}", i);
      if (file[i].contains("rule")) {
        check_dialect(file[i], where, outcome);
      } else if (file[i].value("canonical", false)) {
        check_item(file[i], TokenMap::identity(file[i].at("compressed_vocab_size")), where, outcome);
      } else if (deepseek_token_map().status().code() == StatusCode::kNotFound) {
        outcome.skipped = "raw ids need the DeepSeek tokenizer: " + deepseek_token_map().status().message();
        continue;
      } else {
        check_item(file[i], value_or_throw(deepseek_token_map()), where, outcome);
      }
      ++outcome.cases;
    }
  } catch (const std::exception& error) {
    outcome.failures.push_back(error.what());
  }
  return outcome;
}

}  // namespace
}  // namespace engram::golden

int main() { return engram::golden::run_golden(engram::golden::GoldenKind::kHash, engram::golden::check_file); }
