#include "engram/model/windows.h"

#include <algorithm>

namespace engram {

bool for_each_window(std::span<const int32_t> token_ids, std::span<const int64_t> document_starts, int64_t length,
                     int64_t batch_size, const std::function<bool(const WindowBatch&)>& visit) {
  const int64_t predicted = static_cast<int64_t>(token_ids.size()) - 1;
  for (int64_t done = 0; done < predicted;) {
    const int64_t full = (predicted - done) / length;  // whole windows left; the last window may be shorter
    WindowBatch batch;
    batch.begin = done;
    batch.count = full > 0 ? std::min(full, batch_size) : 1;
    batch.length = full > 0 ? length : predicted - done;
    std::vector<int32_t> targets;
    batch.starts.resize(static_cast<size_t>(batch.count));
    for (int64_t w = 0; w < batch.count; ++w) {
      const int64_t first = done + w * batch.length;
      const auto window = token_ids.subspan(static_cast<size_t>(first), static_cast<size_t>(batch.length) + 1);
      batch.tokens.insert(batch.tokens.end(), window.begin(), window.end() - 1);
      targets.insert(targets.end(), window.begin() + 1, window.end());
      auto next = std::upper_bound(document_starts.begin(), document_starts.end(), first);
      for (; next != document_starts.end() && *next < first + batch.length; ++next) {
        batch.starts[static_cast<size_t>(w)].push_back(static_cast<int32_t>(*next - first));
      }
    }
    batch.targets = torch::tensor(targets, torch::kInt).to(torch::kLong).view({batch.count, batch.length});
    if (!visit(batch)) return false;
    done += batch.count * batch.length;
  }
  return true;
}

}  // namespace engram
