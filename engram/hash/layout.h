// EngramLayout: where every n-gram head's rows lie in each layer's table, and how ids become rows.
//
// Three rules are published (docs/embedding.md); a configuration names one:
//   engram    the paper's, exactly as its public demo computes it with numpy (docs/engram.md). Multipliers: N odd
//             numbers a layer from default_rng(seed + 10007 * layer_id), below INT64_MAX / V'; head sizes: primes of
//             one ascending search shared by the whole model, layer (as listed) -> order n -> head. What lies behind a
//             boundary reads as the pad
//   qwen4exp  raw ids; multipliers from SplitMix64(seed + 10007 * position of the layer); the same primes. An eos is a
//             boundary for the ids after it, and eos is what they read there
//   longcat   raw ids; head i has int(ratio * V + 2 i + 1) rows, and the multipliers are powers of V modulo them; a sum
//             in place of the XOR. The same boundary; nothing is added for what lies behind it
// Offsets are exclusive prefix sums of a layer's head sizes in (order, head) order.
// Immutable after create(); threads may share one; cheap to copy.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engram/core/status.h"
#include "engram/hash/token_map.h"

namespace engram {

enum class HashRule { kEngram, kQwen4Exp, kLongcat };
const char* hash_rule_name(HashRule rule);  // "engram", "qwen4exp", "longcat"
Result<HashRule> parse_hash_rule(std::string_view name);

// Keys are those of the V4.1 checkpoint and the paper's demo.
struct EngramConfig {
  HashRule rule = HashRule::kEngram;
  std::vector<int> layer_ids;       // 0-based block ids that carry an Engram, each once
  int max_ngram_size = 3;           // N: orders 2..N
  int n_heads = 8;                  // K hash heads per order
  int head_dim = 80;                // d_row: columns per row
  std::vector<int64_t> vocab_size;  // [N-1] start of the prime search for each order; longcat: none
  int64_t seed = 0;
  int pad_token_id = 2;           // RAW id; its canonical id is what precedes every boundary. Other rules: the eos id
  int compressed_vocab_size = 0;  // V': number of canonical ids; other rules: of raw ids
  double vocab_size_ratio = 0;    // longcat: rows of a head per id of the vocabulary
  int64_t rows_divisible_by = 1;  // qwen4exp: a table is padded up to a multiple

  int rows_per_token() const { return (max_ngram_size - 1) * n_heads; }  // R
  int memory_dim() const { return rows_per_token() * head_dim; }         // R * d_row
  // The keys of its rule in their order, but for the rule itself: for Fields and FieldWriter (core/fields.h).
  static void visit_fields(auto& config, auto&& visit) {
    const bool is_engram = config.rule == HashRule::kEngram, has_primes = config.rule != HashRule::kLongcat;
    visit("layer_ids", config.layer_ids);
    visit("max_ngram_size", config.max_ngram_size);
    visit("n_heads", config.n_heads);
    visit("head_dim", config.head_dim);
    if (has_primes) visit("vocab_size", config.vocab_size);
    if (!has_primes) visit("vocab_size_ratio", config.vocab_size_ratio);
    if (has_primes) visit("seed", config.seed);
    visit(is_engram ? "pad_token_id" : "eos_token_id", config.pad_token_id);
    visit(is_engram ? "compressed_vocab_size" : "unigram_vocab_size", config.compressed_vocab_size);
    if (config.rule == HashRule::kQwen4Exp) visit("rows_divisible_by", config.rows_divisible_by);
  }
  // The position of a block in layer_ids. kNotFound: it has no Engram.
  Result<int> find_layer(int layer_id) const;
  // The ranges of all keys. kInvalidArgument names the key, got, wanted.
  Status validate() const;
  // Where a token's row of an order (2 .. N) and head is among its R.
  int slot(int order, int head = 0) const { return (order - 2) * n_heads + head; }
};

class EngramLayout {
 public:
  // The pad's canonical id is looked up in the map. kInvalidArgument names the key, got, wanted: a range, a pad outside
  // the vocabulary, a compressed_vocab_size that is not the map's.
  static Result<EngramLayout> create(const EngramConfig& config, const TokenMap& map);
  // Without a map: a file says what its pad's canonical id is (for raw ids: the eos id itself).
  static Result<EngramLayout> create(const EngramConfig& config, int compressed_pad_id);

  const EngramConfig& config() const { return config_; }
  int compressed_pad_id() const { return compressed_pad_id_; }
  // The canonical id that ends a text for the ids after it; -1: none does, documents are the caller's.
  int cut_id() const { return config_.rule == HashRule::kEngram ? -1 : compressed_pad_id_; }
  // What the ids behind a boundary read as.
  int boundary_id() const { return config_.rule == HashRule::kLongcat ? 0 : compressed_pad_id_; }
  int num_layers() const { return static_cast<int>(config_.layer_ids.size()); }
  int rows_per_token() const { return config_.rows_per_token(); }

  // `layer` is the position in config().layer_ids, not the block id. REQUIRES: 0 <= layer < num_layers().
  // [N], newest first; longcat: powers [N-1, R] from the newest but one on, 0 beyond a head's order.
  std::span<const int64_t> multipliers(int layer) const { return of_layer(multipliers_, layer); }
  // [R], order-major: the rows of each head. Longcat's are no primes.
  std::span<const int64_t> primes(int layer) const { return of_layer(primes_, layer); }
  std::span<const int64_t> offsets(int layer) const { return of_layer(offsets_, layer); }  // [R]
  int64_t num_rows(int layer) const { return of_layer(num_rows_, layer)[0]; }  // their sum; qwen4exp: padded

 private:
  std::span<const int64_t> of_layer(const std::vector<int64_t>& values, int layer) const;

  EngramConfig config_;
  int compressed_pad_id_ = 0;
  std::vector<int64_t> multipliers_, primes_, offsets_, num_rows_;
};

// Rows each layer would have, without multipliers: what the parameter solver searches over.
Result<std::vector<int64_t>> count_rows(const EngramConfig& config);

}  // namespace engram
