// MemoryTracer: what the memory did at each token of one sequence, as JSON.
//
//   {"position", "token_id", "text",           text: what this token completes; the rest of a character joins the next
//    "ngrams": [...],                          the texts of the last 2 .. N tokens, in the order of the rows
//    "layers": [{"layer_id", "gates": [M], "rows": [{"id", "tier", "hit"}]}]}
//
// A row is a hit unless its tier is the drive.
#pragma once
#include <cstdint>
#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "engram/serve/request.h"
#include "engram/text/tokenizer.h"
#include "engram/text/utf8_stream.h"

namespace engram {

// Not thread-safe. The tokenizer outlives it.
class MemoryTracer {
 public:
  MemoryTracer(const Tokenizer& tokenizer, int max_ngram_size);
  nlohmann::ordered_json add(const TokenTrace& trace);  // the tokens of the sequence in order

 private:
  const Tokenizer& tokenizer_;
  size_t max_ngram_size_;
  int64_t position_ = 0;
  std::deque<std::string> last_;  // bytes of the last max_ngram_size tokens
  Utf8Stream text_;
};

}  // namespace engram
