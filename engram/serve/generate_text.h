// Text generation through the serving engine: what generate() (model/decode/generate.h) gives, each token read once.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engram/model/decode/generate.h"

namespace engram {

struct GenerationTimes {
  double first_token = 0;        // seconds from the call to the first token
  double tokens_per_second = 0;  // of the tokens behind the first; 0: there are none
};

// Beside `env` the same arguments, text, tokens (except for ties closer than rounding) and errors as generate(). Where
// the context is full, the text goes on as generate() has it, whose context slides. kInternal: the model's logits are
// not finite. `times`, when given, is filled where the text fits into the context.
Result<std::vector<int32_t>> generate_text(Env& env, const LoadedModel& model, const std::string& prompt,
                                           const GenerateOptions& options, const OnText& on_text,
                                           GenerationTimes* times = nullptr);

}  // namespace engram
