// A model's memory under another rule (hash/layout.h), small.
#pragma once
#include "engram/model/model_config.h"

namespace engram {

inline ModelConfig with_rule(ModelConfig c, HashRule rule, bool average_word = true) {
  c.memory = MemoryKind::kEngram;
  EngramConfig& e = c.engram;
  e.rule = rule;
  e.pad_token_id = 7;
  e.compressed_vocab_size = c.vocab_size;
  if (rule == HashRule::kQwen4Exp) {
    e.vocab_size.assign(static_cast<size_t>(e.max_ngram_size - 1), 40);
    e.rows_divisible_by = 16;
  } else {
    e.layer_ids = {0};
    e.vocab_size.clear();
    e.vocab_size_ratio = 0.93;
    c.engram_average_word = average_word;
  }
  return c;
}

}  // namespace engram
