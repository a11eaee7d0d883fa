// EngramLayout: where every n-gram head's rows lie in each layer's table.
//
// From a configuration it derives, exactly as the paper's public demo does with numpy (spec: docs/engram.md):
//   multipliers  per layer, N odd numbers from default_rng(seed + 10007 * layer_id), below INT64_MAX / V'
//   primes       one ascending search shared by the whole model: layer (as listed) -> order n -> head
//   offsets      exclusive prefix sums of a layer's primes in (order, head) order
// Immutable after create(); threads may share one; cheap to copy.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engram/core/status.h"
#include "engram/hash/token_map.h"

namespace engram {

// Keys are those of the V4.1 checkpoint and the paper's demo.
struct EngramConfig {
  std::vector<int> layer_ids;       // 0-based block ids that carry an Engram, each once
  int max_ngram_size = 3;           // N: orders 2..N
  int n_heads = 8;                  // K hash heads per order
  int head_dim = 80;                // d_row: columns per row
  std::vector<int64_t> vocab_size;  // [N-1] start of the prime search for each order
  int64_t seed = 0;
  int pad_token_id = 2;           // RAW id; its canonical id is what precedes every boundary
  int compressed_vocab_size = 0;  // V': number of canonical ids

  int rows_per_token() const { return (max_ngram_size - 1) * n_heads; }  // R
  int memory_dim() const { return rows_per_token() * head_dim; }         // R * d_row
  // Its keys in their order, for Fields and FieldWriter (core/fields.h).
  static void visit_fields(auto& config, auto&& visit) {
    visit("layer_ids", config.layer_ids);
    visit("max_ngram_size", config.max_ngram_size);
    visit("n_heads", config.n_heads);
    visit("head_dim", config.head_dim);
    visit("vocab_size", config.vocab_size);
    visit("seed", config.seed);
    visit("pad_token_id", config.pad_token_id);
    visit("compressed_vocab_size", config.compressed_vocab_size);
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
  // Without a map: a file says what its pad's canonical id is.
  static Result<EngramLayout> create(const EngramConfig& config, int compressed_pad_id);

  const EngramConfig& config() const { return config_; }
  int compressed_pad_id() const { return compressed_pad_id_; }
  int num_layers() const { return static_cast<int>(config_.layer_ids.size()); }
  int rows_per_token() const { return config_.rows_per_token(); }

  // `layer` is the position in config().layer_ids, not the block id. REQUIRES: 0 <= layer < num_layers().
  std::span<const int64_t> multipliers(int layer) const { return of_layer(multipliers_, layer); }  // [N], newest first
  std::span<const int64_t> primes(int layer) const { return of_layer(primes_, layer); }            // [R], order-major
  std::span<const int64_t> offsets(int layer) const { return of_layer(offsets_, layer); }          // [R]
  int64_t num_rows(int layer) const { return of_layer(num_rows_, layer)[0]; }  // sum of the layer's primes

 private:
  std::span<const int64_t> of_layer(const std::vector<int64_t>& values, int layer) const;

  EngramConfig config_;
  int compressed_pad_id_ = 0;
  std::vector<int64_t> multipliers_, primes_, offsets_, num_rows_;
};

// Rows each layer would have, without multipliers: what the parameter solver searches over.
Result<std::vector<int64_t>> count_rows(const EngramConfig& config);

}  // namespace engram
