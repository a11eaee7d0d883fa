#include "engram/serve/output_text.h"

#include <algorithm>

namespace engram {

OutputText::OutputText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stop)
    : tokenizer_(std::move(tokenizer)), stop_(std::move(stop)) {
  std::erase(stop_, std::string());
}

std::string OutputText::push(int32_t token) {
  if (stopped_ || tokenizer_->is_special(token)) return {};
  held_ += utf8_.push(tokenizer_->token_bytes(token));
  return release(/*at_end=*/false);
}

std::string OutputText::finish() {
  if (stopped_) return {};
  held_ += utf8_.finish();
  return release(/*at_end=*/true);
}

std::string OutputText::release(bool at_end) {
  size_t first = std::string::npos;
  for (const std::string& stop : stop_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    return held_.substr(0, first);
  }
  // The longest end of the text that begins a stop string.
  size_t kept = 0;
  for (const std::string& stop : stop_) {
    if (at_end) break;
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > kept; --n) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) kept = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - kept);
  held_.erase(0, held_.size() - kept);
  return out;
}

}  // namespace engram
