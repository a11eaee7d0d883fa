// Golden cases: values computed by somebody else's code, found in a folder at run time and known by content.
//
//   .safetensors with token_ids, hashes, gates and output   module cases
//   .json list whose items have `sequences`                  hash cases
//   .json object with `cases`                                tokenizer cases
// The folder is ENGRAM_GOLDEN_DIR (environment), else tests/golden of the source tree; subfolders are not searched.
// Every kind has one program and one ctest entry (label golden): its main() calls run_golden with a function that
// checks one file.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "engram/core/status.h"

namespace engram::golden {

enum class GoldenKind { kUnknown, kModule, kHash, kTokenizer };

const char* golden_kind_name(GoldenKind kind);  // "module", "hash", "tokenizer"
std::string golden_dir();

// kUnknown for a well-formed file of another sort; an error for a .json or .safetensors that cannot be read at all.
Result<GoldenKind> golden_kind_of(const std::string& path);
// Paths of one kind, sorted. An error when the folder cannot be read or holds no file of any kind.
Result<std::vector<std::string>> list_golden_files(GoldenKind kind);

// What checking one file gave. Cases that failed count as cases. A file that cannot be checked here (a package that
// is not installed) says so in `skipped`: the entry then shows as skipped in ctest, never as passed.
struct GoldenOutcome {
  int cases = 0;
  std::vector<std::string> failures;
  std::string skipped;
};
using GoldenCheck = std::function<GoldenOutcome(const std::string& path)>;

// ctest's SKIP_RETURN_CODE of the golden entries.
inline constexpr int kGoldenSkip = 77;

// Checks every file of the kind, prints failures, skips with their reasons and "golden: N <kind> cases". Returns
// main()'s exit code: 0, 1 (a failure, or a folder without any known file) or kGoldenSkip.
int run_golden(GoldenKind kind, const GoldenCheck& check);

}  // namespace engram::golden
