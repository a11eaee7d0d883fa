// Text generation through the serving engine: what generate() (model/decode/generate.h) gives, each token read once.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engram/model/decode/generate.h"

namespace engram {

// Beside `env` the same arguments, text, tokens (except for ties closer than rounding) and errors as generate(). Where
// the context is full, the text goes on as generate() has it, whose context slides. kInternal: the model's logits are
// not finite.
Result<std::vector<int32_t>> generate_text(Env& env, const LoadedModel& model, const std::string& prompt,
                                           const GenerateOptions& options, const OnText& on_text);

}  // namespace engram
