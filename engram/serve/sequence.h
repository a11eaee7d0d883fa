// Sequence: one request while it is served: its tokens, how many of them are in the pages, and which pages.
//
// Tokens are the prompt, then what was generated. The engine has computed the first num_computed of them: their keys
// and values (and what the memory keeps) are in the pages of block_table. A sequence whose tokens are all computed but
// the last is decoding.
#pragma once
#include <cstdint>
#include <vector>

#include "engram/serve/request.h"

namespace engram {

struct Sequence {
  Sequence(uint64_t request_id, GenerationRequest what)
      : id(request_id), request(std::move(what)), tokens(request.prompt) {}

  uint64_t id;
  GenerationRequest request;
  std::vector<int32_t> tokens;
  int64_t num_computed = 0;
  int64_t num_cached = 0;    // of the prompt, found in the prefix cache at the first admission
  int64_t num_foretold = 0;  // Scheduler's: tokens that upcoming() has named
  std::vector<int32_t> block_table;
  // BlockManager's: full blocks that are in the prefix cache's chain, and the last one's identity.
  int64_t num_chained = 0;
  uint64_t chain = 0;

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_prompt() const { return static_cast<int64_t>(request.prompt.size()); }
  int64_t num_generated() const { return num_tokens() - num_prompt(); }
  int64_t num_left() const { return num_tokens() - num_computed; }  // tokens to run
  bool is_decoding() const { return num_left() == 1 && num_generated() > 0; }
};

}  // namespace engram
