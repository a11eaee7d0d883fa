// engram hash: multipliers, head sizes and row ids of a configuration, for the ids on the command line.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "apps/integers.h"
#include "engram/hash/memory_hasher.h"
#include "engram/text/tokenizer.h"

namespace engram::apps {
namespace {

struct HashFlags {
  EngramConfig config;
  std::string rule = "engram", tokenizer, ids, starts;
  int ple_layers = 1;
  bool canonical = false, json = false;
};

// What an option belongs to: the rules that need it, and those that take it.
struct RuleOption {
  const char* name;
  std::vector<HashRule> needed, taken;
};
constexpr HashRule kEngram = HashRule::kEngram, kQwen = HashRule::kQwen4Exp, kLongcat = HashRule::kLongcat;
const std::vector<RuleOption> kRuleOptions = {{"--layer-ids", {kEngram}, {}},
                                              {"--vocab-size", {kEngram, kQwen}, {}},
                                              {"--unigram-vocab-size", {kQwen, kLongcat}, {}},
                                              {"--eos-id", {kQwen, kLongcat}, {}},
                                              {"--vocab-size-ratio", {kLongcat}, {}},
                                              {"--ple-layers", {}, {kQwen}},
                                              {"--seed", {}, {kEngram, kQwen}},
                                              {"--pad-id", {}, {kEngram}},
                                              {"--tokenizer", {}, {kEngram}},
                                              {"--canonical", {}, {kEngram}}};

// The rule that was named. Throws what CLI11 prints: an unknown rule, an option that it lacks or does not have.
HashRule check_options(const CLI::App& command, const HashFlags& flags) {
  const Result<HashRule> rule = parse_hash_rule(flags.rule);
  if (!rule.ok()) throw CLI::ValidationError("--rule", rule.status().message());
  for (const RuleOption& option : kRuleOptions) {
    const bool given = command.get_option(option.name)->count() > 0, needs = std::ranges::count(option.needed, *rule);
    if (needs && !given) throw CLI::RequiredError(option.name);
    if (given && !needs && !std::ranges::count(option.taken, *rule))
      throw CLI::ExcludesError(option.name, "--rule " + flags.rule);
  }
  if (*rule == kEngram && !flags.canonical && flags.tokenizer.empty())
    throw CLI::RequiredError("--tokenizer, or --canonical with --compressed-vocab-size,");
  return *rule;
}

Result<TokenMap> load_map(const HashFlags& flags) {
  if (flags.canonical) {
    const int size = flags.config.compressed_vocab_size;
    if (size < 1) return invalid_argument("--compressed-vocab-size: got {}, wanted at least 1", size);
    return TokenMap::identity(size);
  }
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::load(Env::posix(), flags.tokenizer));
  return TokenMap::from_tokenizer(tokenizer);
}

// Per layer id: the value that `of` makes of the layer's position.
template <typename Function>
nlohmann::ordered_json by_layer(const EngramLayout& layout, Function of) {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    object[std::to_string(layout.config().layer_ids[static_cast<size_t>(layer)])] = of(layer);
  }
  return object;
}

// [count] -> [count / width][width].
nlohmann::ordered_json matrix(std::span<const int64_t> values, int width) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (size_t at = 0; at < values.size(); at += static_cast<size_t>(width)) {
    auto row = values.subspan(at, static_cast<size_t>(width));
    rows.push_back(std::vector<int64_t>(row.begin(), row.end()));
  }
  return rows;
}

void print_text(const EngramLayout& layout, std::span<const int32_t> ids, const RowIds& row_ids) {
  const EngramConfig& config = layout.config();
  const bool is_engram = config.rule == kEngram, has_primes = config.rule != kLongcat;
  fmt::print("{} {} ids, {} {}\n", is_engram ? "compressed vocabulary" : "vocabulary", config.compressed_vocab_size,
             is_engram ? "pad" : "eos", layout.compressed_pad_id());
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    fmt::print("layer {}: {} rows{}\n", config.layer_ids[static_cast<size_t>(layer)], layout.num_rows(layer),
               has_primes ? fmt::format(", multipliers {}", fmt::join(layout.multipliers(layer), " ")) : "");
    for (int n = 2; n <= config.max_ngram_size; ++n) {
      auto primes =
          layout.primes(layer).subspan(static_cast<size_t>(config.slot(n)), static_cast<size_t>(config.n_heads));
      fmt::print("  {} of order {}: {}\n", has_primes ? "primes" : "head sizes", n, fmt::join(primes, " "));
    }
    for (size_t t = 0; t < ids.size(); ++t) {
      const auto rows = row_ids.layer(layer, static_cast<int64_t>(t), 1);
      fmt::print("  token {} (id {}): {}\n", t, ids[t], fmt::join(rows, " "));
    }
  }
}

Status run_hash(HashFlags flags) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> ids, parse_integers<int32_t>("--ids", flags.ids));
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> starts, parse_integers<int32_t>("--starts", flags.starts));
  const bool is_engram = flags.config.rule == kEngram;
  TokenMap map = TokenMap::identity(0);
  if (is_engram) {
    ENGRAM_ASSIGN_OR_RETURN(map, load_map(flags));
    const int pad = flags.config.pad_token_id;
    if (pad < 0 || pad >= map.vocab_size())
      return invalid_argument("--pad-id: got {}, wanted 0 .. {}", pad, map.vocab_size() - 1);
    flags.config.compressed_vocab_size = map.compressed_vocab_size();
  } else {
    ENGRAM_RETURN_IF_ERROR(flags.config.validate());
    map = TokenMap::identity(flags.config.compressed_vocab_size);
  }
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, EngramLayout::create(flags.config, map));
  ENGRAM_ASSIGN_OR_RETURN(const MemoryHasher hasher, MemoryHasher::create(layout, map));
  ENGRAM_ASSIGN_OR_RETURN(const RowIds row_ids, hasher.hash(ids, starts));
  if (!flags.json) {
    print_text(layout, ids, row_ids);
    return {};
  }
  nlohmann::ordered_json result;
  if (is_engram) {
    result["compressed_vocab_size"] = map.compressed_vocab_size();
    result["multipliers"] = by_layer(layout, [&](int layer) {
      return std::vector<int64_t>(layout.multipliers(layer).begin(), layout.multipliers(layer).end());
    });
    result["primes"] =
        by_layer(layout, [&](int layer) { return matrix(layout.primes(layer), layout.config().n_heads); });
  } else {
    result["rule"] = hash_rule_name(layout.config().rule);
    for (int layer = 0; layer < layout.num_layers(); ++layer)
      result["head_sizes"].push_back(std::vector<int64_t>(layout.primes(layer).begin(), layout.primes(layer).end()));
  }
  result["row_ids"] =
      by_layer(layout, [&](int layer) { return matrix(row_ids.layer(layer), layout.rows_per_token()); });
  fmt::print("{}\n", result.dump());
  return {};
}

}  // namespace

void add_hash(CLI::App& app, Invocation& invocation) {
  auto flags = std::make_shared<HashFlags>();
  EngramConfig& config = flags->config;
  CLI::App* command = app.add_subcommand("hash", "Print the table rows that token ids address");
  command->footer(
      "Examples:\n"
      "  engram hash --tokenizer tokenizer.json --layer-ids 1,14 --vocab-size 646400,646400 --pad-id 2 --ids '17464 11 "
      "1891'\n"
      "  engram hash --rule qwen4exp --unigram-vocab-size 248320 --vocab-size 20011137 --ple-layers 2 --seed 1234 "
      "--eos-id 248044 --ids '17464 11'\n"
      "  engram hash --rule longcat --unigram-vocab-size 131072 --vocab-size-ratio 78 --max-ngram-size 4 --n-heads 4 "
      "--eos-id 2 --ids '17464 11'");
  command->add_option("--rule", flags->rule, "engram, qwen4exp or longcat: how ids become rows")->capture_default_str();
  auto* tokenizer = command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json that the raw ids belong to");
  command->add_option("--layer-ids", config.layer_ids, "Blocks that carry an Engram, e.g. 1,14")->delimiter(',');
  command->add_option("--max-ngram-size", config.max_ngram_size, "N: orders 2 .. N")->capture_default_str();
  command->add_option("--n-heads", config.n_heads, "Hash heads per order")->capture_default_str();
  command
      ->add_option("--vocab-size", config.vocab_size,
                   "Start of the prime search for each order, e.g. 646400,646400; qwen4exp: for all")
      ->delimiter(',');
  command->add_option("--vocab-size-ratio", config.vocab_size_ratio, "longcat: rows of a head per id");
  command->add_option("--unigram-vocab-size", config.compressed_vocab_size, "qwen4exp, longcat: number of token ids");
  command->add_option("--ple-layers", flags->ple_layers, "qwen4exp: number of layers with a table")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--eos-id", config.pad_token_id, "qwen4exp, longcat: the id that ends a text");
  command->add_option("--seed", config.seed, "Seed of the multipliers")->capture_default_str();
  command->add_option("--pad-id", config.pad_token_id, "Raw id that stands before every boundary")
      ->capture_default_str();
  command->add_option("--ids", flags->ids, "Token ids between blanks; -1 is a masked position")->required();
  command->add_option("--starts", flags->starts, "Index of each document's first token (default: 0)");
  auto* canonical = command->add_flag("--canonical", flags->canonical, "Ids (and --pad-id) are already compressed");
  auto* size = command->add_option("--compressed-vocab-size", config.compressed_vocab_size,
                                   "Number of canonical ids, with --canonical");
  canonical->needs(size)->excludes(tokenizer);
  size->needs(canonical);
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, command, &invocation] {
    EngramConfig& hashed = flags->config;
    hashed.rule = check_options(*command, *flags);
    for (int layer = 0; hashed.rule != kEngram && layer < flags->ple_layers; ++layer) hashed.layer_ids.push_back(layer);
    if (hashed.rule == kQwen && hashed.vocab_size.size() == 1 && hashed.max_ngram_size >= 2)
      hashed.vocab_size.resize(static_cast<size_t>(hashed.max_ngram_size - 1), hashed.vocab_size[0]);
    invocation.run = [flags] { return run_hash(*flags); };
  });
}

}  // namespace engram::apps
