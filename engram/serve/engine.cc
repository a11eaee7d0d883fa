#include "engram/serve/engine.h"

#include <algorithm>
#include <numeric>

namespace engram {

void DurationHistogram::record(double seconds) {
  const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), seconds) - kBounds.begin();
  ++counts[static_cast<size_t>(bucket)];
  sum += seconds;
}

uint64_t DurationHistogram::total() const { return std::accumulate(counts.begin(), counts.end(), uint64_t{0}); }

Status internal_error(const std::exception& error) {
  const std::string text = error.what();
  return Status(StatusCode::kInternal, text.substr(0, text.find("\nException raised from")));
}

}  // namespace engram
