// Sequence: one request while it is served: its tokens, how many of them are in the pages, and which pages.
//
// Tokens are the prompt, then what was generated; while a step runs, drafts may follow these. The engine has
// computed the first num_computed of them: their keys and values (and what the memory keeps) are in the pages of
// block_table. A sequence whose tokens are all computed but the last is decoding.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engram/hash/ngram_context.h"
#include "engram/hash/row_ids.h"
#include "engram/serve/request.h"

namespace engram {

// The table rows of a sequence's tokens [begin, begin + ids.num_tokens()), each hashed once, and what the next are
// hashed with. ModelRunner fills it.
struct SequenceRows {
  std::optional<NgramContext> context;
  RowIds ids;
  int64_t begin = 0;

  int64_t end() const { return begin + ids.num_tokens(); }
  // Tokens from `token` on are others than those that were hashed: drafts that were wrong. REQUIRES: of the last
  // append().
  void forget_from(int64_t token) {
    if (token >= end()) return;
    throw_if_error(context->roll_back(end() - token));
    ids.resize(token - begin);
  }
};

struct Sequence {
  Sequence(uint64_t request_id, GenerationRequest what)
      : id(request_id),
        request(std::move(what)),
        tokens(std::exchange(request.prompt, {})),
        prompt_size(static_cast<int64_t>(tokens.size())) {}

  uint64_t id;
  GenerationRequest request;    // its prompt is in tokens
  std::vector<int32_t> tokens;  // prompt, generated, drafts
  SequenceRows rows;            // of its tokens
  int64_t prompt_size;
  int64_t num_computed = 0;
  int64_t num_cached = 0;              // of the prompt, found in the prefix cache at the first admission
  int64_t num_scored = 0;              // of the prompt, from its second token on: log probabilities that are known
  int64_t num_foretold = 0;            // Scheduler's: tokens that upcoming() has named
  int64_t num_drafts = 0;              // at the end of tokens
  std::optional<int64_t> draft_limit;  // Scheduler's: drafts of a step, by how the last ones did; 0: never any
  std::vector<int32_t> block_table;
  // BlockManager's: full blocks that are in the prefix cache's chain, and the last one's identity.
  int64_t num_chained = 0;
  uint64_t chain = 0;

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()) - num_drafts; }
  int64_t num_prompt() const { return prompt_size; }
  int64_t num_generated() const { return num_tokens() - num_prompt(); }
  int64_t num_left() const { return num_tokens() - num_computed; }  // tokens to run
  bool is_decoding() const { return num_left() == 1 && num_generated() > 0; }

  // Puts guesses at the next tokens after the known ones. They may be a part of `tokens`.
  void add_drafts(std::span<const int32_t> drafts) {
    const std::vector<int32_t> copy(drafts.begin(), drafts.end());
    tokens.insert(tokens.end(), copy.begin(), copy.end());
    num_drafts += std::ssize(copy);
  }
  // Takes them off again, but not their rows: SequenceRows::forget_from() once it is known which were wrong.
  std::vector<int32_t> take_drafts() {
    const std::vector<int32_t> out(tokens.end() - num_drafts, tokens.end());
    tokens.resize(tokens.size() - out.size());
    num_drafts = 0;
    return out;
  }
};

}  // namespace engram
