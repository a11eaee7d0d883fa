// Synthetic text: a small invented world, told over and over, for recipes and tests that need no download.
//
// A seed decides people, cities, rivers and how they are related; documents tell parts of it through a few dozen
// sentence forms. Names of two and three words recur in every document, so a memory of n-grams has much to learn and a
// small model reaches a low loss within minutes. ASCII; the same on every machine.
#pragma once
#include <cstdint>
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// One document, 300 to 1,200 bytes. A pure function of both numbers. REQUIRES: both are >= 0.
std::string synthetic_document(int64_t seed, int64_t index);

// Writes DIRECTORY/tokenizer.json (bytes plus <|endoftext|>), train.tokens and validation.tokens (every tenth
// document). kInvalidArgument: documents below 10, seed below 0.
Status make_synthetic_corpus(Env& env, const std::string& directory, int64_t documents, int64_t seed);

}  // namespace engram
