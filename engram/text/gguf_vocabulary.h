// The tokenizer of a GGUF file, from the arrays under tokenizer.ggml.*.
//
// Such a file names its pre-tokenizer and keeps tokens, merges or scores. Here they become the tokenizer.json that says
// the same, which is then read as any other. Models: "gpt2" (byte-level BPE) with a known `pre`, and "llama"
// (SentencePiece's BPE; its merges are made from the scores, as Hugging Face makes them).
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/text/tokenizer.h"

namespace engram {

// Field NAME holds tokenizer.ggml.NAME. An array that the file lacks is empty.
struct GgufVocabulary {
  std::string model, pre;
  std::vector<std::string> tokens;
  std::vector<float> scores;        // llama: one for each token
  std::vector<int32_t> token_type;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<std::string> merges;  // gpt2: "left right"
  int32_t bos_token_id = -1, eos_token_id = -1, unknown_token_id = -1;  // -1: none
  std::optional<bool> add_bos_token, add_eos_token;                     // absent: llama adds BOS, nothing else is added
  bool add_space_prefix = true;
};

// Its json() is the tokenizer.json. kInvalidArgument, with `name` (the file's): a model or `pre` that is not known,
// lists of different lengths, an id outside the list.
Result<Tokenizer> tokenizer_of(const GgufVocabulary& vocabulary, const std::string& name);

}  // namespace engram
