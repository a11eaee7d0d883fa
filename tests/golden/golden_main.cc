// What the golden programs share: list the files of one kind, check each, report for people and for ctest.
#include <cstdio>

#include "tests/golden/golden_files.h"

namespace engram::golden {

int run_golden(GoldenKind kind, const GoldenCheck& check) {
  const char* name = golden_kind_name(kind);
  Result<std::vector<std::string>> paths = list_golden_files(kind);
  if (!paths.ok()) {
    std::printf("golden: FAILED: %s\n", paths.status().message().c_str());
    return 1;
  }
  int cases = 0, failures = 0, skips = 0;
  for (const std::string& path : *paths) {
    GoldenOutcome outcome = check(path);
    cases += outcome.cases;
    for (const std::string& failure : outcome.failures) {
      std::printf("golden: FAILED: %s: %s\n", path.c_str(), failure.c_str());
      ++failures;
    }
    if (!outcome.skipped.empty()) {
      std::printf("golden: skipped %s: %s\n", path.c_str(), outcome.skipped.c_str());
      ++skips;
    } else if (outcome.cases == 0 && outcome.failures.empty()) {
      std::printf("golden: FAILED: %s: holds no case\n", path.c_str());
      ++failures;
    }
  }
  if (paths->empty()) {
    std::printf("golden: skipped: no %s cases in %s\n", name, golden_dir().c_str());
    ++skips;
  }
  std::printf("golden: %d %s cases\n", cases, name);
  return failures > 0 ? 1 : skips > 0 ? kGoldenSkip : 0;
}

}  // namespace engram::golden
