// Text generation by full recomputation: the readable reference that the serving engine must equal token for token.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"
#include "engram/model/checkpoint.h"
#include "engram/model/sampler.h"

namespace engram {

struct GenerateOptions {
  int max_tokens = 128;
  SamplerOptions sampler;
  bool memory_off = false;  // knock the rows out: Engram blocks add nothing
};

// Calls on_text with each completed piece of UTF-8 as it is decoded; returning false stops. Returns all token ids
// generated, an ending eos included. Special tokens are ids only, never text. The context is the last
// max_position_embeddings tokens, read as a separate text: positions and n-grams begin there. An empty prompt
// means the bos token.
// kInvalidArgument: an empty prompt without a bos token, a prompt that is not UTF-8, options out of range.
Result<std::vector<int32_t>> generate(const LoadedModel& model, const std::string& prompt,
                                      const GenerateOptions& options,
                                      const std::function<bool(std::string_view)>& on_text);

}  // namespace engram
