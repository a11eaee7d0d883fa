#include "engram/hash/layout.h"

#include <algorithm>
#include <array>
#include <map>
#include <unordered_set>

#include "engram/core/json.h"
#include "engram/core/mix.h"
#include "engram/hash/numpy_random.h"

namespace engram {
namespace {

__extension__ using uint128 = unsigned __int128;

// Far above any published model; tables stay below 2^50 rows, so that row ids are exact in a double.
constexpr int kMaxLayers = 1024, kMaxNgramSize = 16, kMaxHeads = 256, kMaxHeadDim = 65536;
constexpr int64_t kMaxVocabSize = int64_t{1} << 38;

uint64_t power_modulo(uint64_t base, uint64_t exponent, uint64_t modulus) {
  uint64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = static_cast<uint64_t>(static_cast<uint128>(result) * base % modulus);
    base = static_cast<uint64_t>(static_cast<uint128>(base) * base % modulus);
  }
  return result;
}

// Miller-Rabin with the first twelve primes as bases: no composite below 2^64 passes all of them.
bool is_prime(uint64_t n) {
  constexpr std::array<uint64_t, 12> kBases = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
  if (n < 2) return false;
  for (uint64_t prime : kBases) {
    if (n % prime == 0) return n == prime;
  }
  const int twos = __builtin_ctzll(n - 1);
  const uint64_t odd = (n - 1) >> twos;
  for (uint64_t base : kBases) {
    uint64_t x = power_modulo(base, odd, n);
    if (x == 1 || x == n - 1) continue;
    bool composite = true;
    for (int i = 1; i < twos && composite; ++i) {
      x = static_cast<uint64_t>(static_cast<uint128>(x) * x % n);
      composite = x != n - 1;
    }
    if (composite) return false;
  }
  return true;
}

Status check_range(const char* key, int64_t got, int64_t low, int64_t high) {
  if (got >= low && got <= high) return {};
  return invalid_argument("{}: got {}, wanted {} .. {}", key, got, low, high);
}

// The keys that shape the tables.
Status check_table_keys(const EngramConfig& config) {
  const int64_t layers = static_cast<int64_t>(config.layer_ids.size());
  if (Status status = check_range("layer_ids", layers, 1, kMaxLayers); !status.ok()) {
    return status.with_context("number of layers");
  }
  std::unordered_set<int> seen;
  for (int id : config.layer_ids) {
    ENGRAM_RETURN_IF_ERROR(check_range("layer_ids", id, 0, INT32_MAX));
    if (!seen.insert(id).second) return invalid_argument("layer_ids: got {} twice, wanted each block once", id);
  }
  ENGRAM_RETURN_IF_ERROR(check_range("max_ngram_size", config.max_ngram_size, 2, kMaxNgramSize));
  ENGRAM_RETURN_IF_ERROR(check_range("n_heads", config.n_heads, 1, kMaxHeads));
  if (config.rule == HashRule::kLongcat) {
    const double most = config.vocab_size_ratio * config.compressed_vocab_size + 2.0 * config.rows_per_token();
    if (config.vocab_size_ratio > 0 && most < static_cast<double>(kMaxVocabSize)) return {};
    return invalid_argument("vocab_size_ratio: got {}, wanted above 0, with heads of at most {} rows",
                            config.vocab_size_ratio, kMaxVocabSize);
  }
  if (static_cast<int>(config.vocab_size.size()) != config.max_ngram_size - 1) {
    return invalid_argument("vocab_size: got {} sizes, wanted {}: one for each order 2 .. max_ngram_size = {}",
                            config.vocab_size.size(), config.max_ngram_size - 1, config.max_ngram_size);
  }
  for (int64_t size : config.vocab_size) {
    ENGRAM_RETURN_IF_ERROR(check_range("vocab_size", size, 1, kMaxVocabSize));
    if (config.rule == HashRule::kQwen4Exp && size != config.vocab_size[0])
      return invalid_argument("vocab_size: got {} and {}, wanted one size for all orders", config.vocab_size[0], size);
  }
  return check_range("rows_divisible_by", config.rows_divisible_by, 1, kMaxVocabSize);
}

// [layers, R] as the model's own code computes it: a product and two sums, each rounded to a double.
std::vector<int64_t> longcat_head_sizes(const EngramConfig& config) {
  const volatile double rows =
      config.vocab_size_ratio * config.compressed_vocab_size;  // volatile: no fused multiply-add
  std::vector<int64_t> sizes;
  for (size_t layer = 0; layer < config.layer_ids.size(); ++layer) {
    for (int i = 0; i < config.rows_per_token(); ++i) sizes.push_back(static_cast<int64_t>(rows + 2.0 * i + 1.0));
  }
  return sizes;
}

// [layers, R], order-major. Every head takes the smallest prime from its order's start on that no head before it has.
std::vector<int64_t> assign_primes(const EngramConfig& config) {
  if (config.rule == HashRule::kLongcat) return longcat_head_sizes(config);
  std::vector<int64_t> primes;
  primes.reserve(config.layer_ids.size() * static_cast<size_t>(config.rows_per_token()));
  std::unordered_set<int64_t> used;
  // Between a start and its entry here every prime is used: later layers with the same start go on from there.
  std::map<int64_t, int64_t> searched_to;
  for (size_t layer = 0; layer < config.layer_ids.size(); ++layer) {
    for (int64_t start : config.vocab_size) {
      int64_t& candidate = searched_to.try_emplace(start, start).first->second;
      for (int head = 0; head < config.n_heads; ++head) {
        while (!is_prime(static_cast<uint64_t>(candidate)) || used.contains(candidate)) ++candidate;
        used.insert(candidate);
        primes.push_back(candidate++);
      }
    }
  }
  return primes;
}

std::vector<int64_t> sum_per_layer(const EngramConfig& config, const std::vector<int64_t>& primes) {
  std::vector<int64_t> rows(config.layer_ids.size(), 0);
  const size_t per_layer = static_cast<size_t>(config.rows_per_token());
  for (size_t i = 0; i < primes.size(); ++i) rows[i / per_layer] += primes[i];
  for (int64_t& sum : rows)
    sum += (config.rows_divisible_by - sum % config.rows_divisible_by) % config.rows_divisible_by;
  return rows;
}

// [N] of the layer at a position, each odd and at most INT64_MAX / V'.
std::vector<int64_t> xor_multipliers(const EngramConfig& config, size_t layer) {
  const int64_t half = std::max<int64_t>(1, INT64_MAX / config.compressed_vocab_size / 2);
  std::vector<int64_t> multipliers;
  if (config.rule == HashRule::kQwen4Exp) {
    const uint64_t base = static_cast<uint64_t>(config.seed) + uint64_t{10007} * layer;
    for (uint64_t i = 1; i <= static_cast<uint64_t>(config.max_ngram_size); ++i) {
      const uint64_t draw = splitmix64(base + 0x9E3779B97F4A7C15u * i);
      multipliers.push_back(static_cast<int64_t>(2 * (draw % static_cast<uint64_t>(half)) + 1));
    }
    return multipliers;
  }
  NumpyRandom random(static_cast<uint64_t>(config.seed + int64_t{10007} * config.layer_ids[layer]));
  for (int n = 0; n < config.max_ngram_size; ++n) multipliers.push_back(2 * random.integers(0, half) + 1);
  return multipliers;
}

// [N-1, R] of one layer whose heads have these sizes.
std::vector<int64_t> longcat_powers(const EngramConfig& config, std::span<const int64_t> sizes) {
  std::vector<int64_t> powers(static_cast<size_t>(config.max_ngram_size - 1) * sizes.size(), 0);
  for (size_t head = 0; head < sizes.size(); ++head) {
    uint128 power = 1;
    for (size_t k = 0; k <= head / static_cast<size_t>(config.n_heads); ++k) {
      power = power * static_cast<uint128>(config.compressed_vocab_size) % static_cast<uint128>(sizes[head]);
      powers[k * sizes.size() + head] = static_cast<int64_t>(power);
    }
  }
  return powers;
}

}  // namespace

const char* hash_rule_name(HashRule rule) {
  return rule == HashRule::kEngram ? "engram" : rule == HashRule::kQwen4Exp ? "qwen4exp" : "longcat";
}

Result<HashRule> parse_hash_rule(std::string_view name) {
  for (const HashRule rule : {HashRule::kEngram, HashRule::kQwen4Exp, HashRule::kLongcat}) {
    if (name == hash_rule_name(rule)) return rule;
  }
  return invalid_argument("hash rule: got {}, wanted engram, qwen4exp or longcat", quote_text(std::string(name)));
}

Status EngramConfig::validate() const {
  const bool is_engram = rule == HashRule::kEngram;
  ENGRAM_RETURN_IF_ERROR(
      check_range(is_engram ? "compressed_vocab_size" : "unigram_vocab_size", compressed_vocab_size, 1, INT32_MAX));
  ENGRAM_RETURN_IF_ERROR(check_table_keys(*this));
  ENGRAM_RETURN_IF_ERROR(check_range("head_dim", head_dim, 1, kMaxHeadDim));
  ENGRAM_RETURN_IF_ERROR(check_range(is_engram ? "pad_token_id" : "eos_token_id", pad_token_id, 0,
                                     is_engram ? INT32_MAX : compressed_vocab_size - 1));
  constexpr int64_t kMaxSeed = INT64_MAX - int64_t{10007} * INT32_MAX;  // seed + 10007 * layer_id fits
  return check_range("seed", seed, 0, kMaxSeed);
}

Result<EngramLayout> EngramLayout::create(const EngramConfig& config, const TokenMap& map) {
  if (map.compressed_vocab_size() != config.compressed_vocab_size) {
    return invalid_argument("compressed_vocab_size: got {}, wanted the {} of this tokenizer",
                            config.compressed_vocab_size, map.compressed_vocab_size());
  }
  ENGRAM_RETURN_IF_ERROR(check_range(config.rule == HashRule::kEngram ? "pad_token_id" : "eos_token_id",
                                     config.pad_token_id, 0, map.vocab_size() - 1));
  return create(config, map.ids()[static_cast<size_t>(config.pad_token_id)]);
}

Result<EngramLayout> EngramLayout::create(const EngramConfig& config, int compressed_pad_id) {
  ENGRAM_RETURN_IF_ERROR(config.validate());
  ENGRAM_RETURN_IF_ERROR(
      check_range("pad_token_id (compressed)", compressed_pad_id, 0, config.compressed_vocab_size - 1));
  if (config.rule != HashRule::kEngram && compressed_pad_id != config.pad_token_id)
    return invalid_argument("eos_token_id: got {} as {}, wanted raw ids for the rule {}", config.pad_token_id,
                            compressed_pad_id, hash_rule_name(config.rule));
  EngramLayout layout;
  layout.config_ = config;
  layout.compressed_pad_id_ = compressed_pad_id;
  layout.primes_ = assign_primes(config);
  layout.num_rows_ = sum_per_layer(config, layout.primes_);
  const size_t per_layer = static_cast<size_t>(config.rows_per_token());
  int64_t offset = 0;
  for (size_t i = 0; i < layout.primes_.size(); ++i) {
    if (i % per_layer == 0) offset = 0;
    layout.offsets_.push_back(offset);
    offset += layout.primes_[i];
  }
  for (size_t layer = 0; layer < config.layer_ids.size(); ++layer) {
    const auto multipliers = config.rule == HashRule::kLongcat
                                 ? longcat_powers(config, layout.primes(static_cast<int>(layer)))
                                 : xor_multipliers(config, layer);
    layout.multipliers_.insert(layout.multipliers_.end(), multipliers.begin(), multipliers.end());
  }
  return layout;
}

Result<int> EngramConfig::find_layer(int layer_id) const {
  const auto found = std::ranges::find(layer_ids, layer_id);
  if (found != layer_ids.end()) return static_cast<int>(found - layer_ids.begin());
  return not_found("block {} has no memory, wanted one of {}", layer_id, fmt::join(layer_ids, ", "));
}

std::span<const int64_t> EngramLayout::of_layer(const std::vector<int64_t>& values, int layer) const {
  ENGRAM_CHECK(layer >= 0 && layer < num_layers(), "layer={} num_layers={}", layer, num_layers());
  const size_t count = values.size() / config_.layer_ids.size();
  return std::span(values).subspan(static_cast<size_t>(layer) * count, count);
}

Result<std::vector<int64_t>> count_rows(const EngramConfig& config) {
  ENGRAM_RETURN_IF_ERROR(check_table_keys(config));
  return sum_per_layer(config, assign_primes(config));
}

}  // namespace engram
