#include "engram/hash/ngram_context.h"

#include <algorithm>

namespace engram {
namespace {

Status check_ids(std::span<const int32_t> ids, int size) {
  // One comparison without a branch per id, so that the loop vectorises: ids from -1 on become 0, 1, ...
  const auto limit = static_cast<uint32_t>(size);
  const auto is_bad = [limit](int32_t id) { return static_cast<uint32_t>(id) + 1 > limit; };
  bool bad = false;
  for (int32_t id : ids) bad |= is_bad(id);
  if (!bad) return {};
  const auto found = std::ranges::find_if(ids, is_bad);
  return invalid_argument("token {}: got id {}, wanted -1 (masked) .. {}", found - ids.begin(), *found, size - 1);
}

Status check_starts(std::span<const int32_t> starts, size_t length) {
  for (size_t i = 0; i < starts.size(); ++i) {
    if (starts[i] < (i > 0 ? starts[i - 1] : 0) || static_cast<size_t>(starts[i]) >= length) {
      return invalid_argument("starts: got {} at place {}, wanted ascending indices of the {} tokens", starts[i], i,
                              length);
    }
  }
  return {};
}

}  // namespace

NgramContext::NgramContext(TokenMap map, int max_ngram_size, int64_t max_roll_back, int cut_id)
    : map_(std::move(map)),
      max_ngram_size_(max_ngram_size),
      cut_id_(cut_id),
      max_roll_back_(max_roll_back),
      ids_(static_cast<size_t>(max_ngram_size - 1), 0),
      reach_(1, 0) {
  ENGRAM_CHECK(max_ngram_size >= (cut_id < 0 ? 1 : 2) && max_ngram_size <= UINT8_MAX && max_roll_back >= 0,
               "max_ngram_size={} max_roll_back={}", max_ngram_size, max_roll_back);
}

// canonical(i) is the i-th new id, -1 when masked.
template <typename ToCanonical>
void NgramContext::push(size_t count, std::span<const int32_t> starts, ToCanonical canonical) {
  if (const int64_t over = num_held() - max_roll_back_; over > 0) {
    ids_.erase(ids_.begin(), ids_.begin() + over);
    reach_.erase(reach_.begin(), reach_.begin() + over);
  }
  num_tokens_ += static_cast<int64_t>(count);
  const size_t first = reach_.size();
  int reach = cut_id_ >= 0 && ids_.back() == cut_id_ ? 0 : reach_.back();
  ids_.resize(ids_.size() + count);
  reach_.resize(first + count);
  int32_t* ids = ids_.data() + (ids_.size() - count);
  // Tokens do not wait for each other's reach where no boundary is among them.
  bool cut = !starts.empty();
  for (size_t i = 0; i < count; ++i) {
    const int32_t id = canonical(i);
    cut |= id < 0 || id == cut_id_;
    ids[i] = id;
  }
  if (!cut) {
    const size_t rising = std::min(count, static_cast<size_t>(max_ngram_size_));
    for (size_t i = 0; i < rising; ++i)
      reach_[first + i] = static_cast<uint8_t>(reach = std::min(reach + 1, max_ngram_size_));
    std::fill(reach_.begin() + static_cast<ptrdiff_t>(first + rising), reach_.end(), max_ngram_size_);
    return;
  }
  auto start = starts.begin();
  for (size_t i = 0; i < count; ++i) {
    for (; start != starts.end() && static_cast<size_t>(*start) == i; ++start) reach = 0;
    const int32_t id = ids[i];
    reach = id < 0 ? 0 : std::min(reach + 1, max_ngram_size_);
    ids[i] = std::max(id, 0);
    reach_[first + i] = static_cast<uint8_t>(reach);
    if (id == cut_id_) reach = 0;  // it still belongs to the text before it
  }
}

Status NgramContext::append(std::span<const int32_t> token_ids, std::span<const int32_t> starts) {
  ENGRAM_RETURN_IF_ERROR(check_starts(starts, token_ids.size()));
  ENGRAM_RETURN_IF_ERROR(check_ids(token_ids, map_.vocab_size()));
  const std::span<const int32_t> map = map_.ids();
  push(token_ids.size(), starts, [&](size_t i) {
    const int32_t raw = token_ids[i];
    return raw < 0 ? -1 : map[static_cast<size_t>(raw)];
  });
  return {};
}

Status NgramContext::append_canonical(std::span<const CanonicalId> ids) {
  const std::span<const int32_t> numbers(reinterpret_cast<const int32_t*>(ids.data()), ids.size());
  ENGRAM_RETURN_IF_ERROR(check_ids(numbers, map_.compressed_vocab_size()));
  push(ids.size(), {}, [&](size_t i) { return numbers[i]; });
  return {};
}

Status NgramContext::roll_back(int64_t count) {
  if (count < 0 || count > num_held())
    return invalid_argument("taking back {} tokens of {}, wanted 0 .. {}", count, num_tokens_, num_held());
  ids_.resize(ids_.size() - static_cast<size_t>(count));
  reach_.resize(reach_.size() - static_cast<size_t>(count));
  num_tokens_ -= count;
  return {};
}

std::span<const int32_t> NgramContext::ids(int64_t count) const {
  ENGRAM_CHECK(count >= 0 && count <= num_held(), "count={} num_held={}", count, num_held());
  return std::span(ids_).last(static_cast<size_t>(count + max_ngram_size_ - 1));
}

std::span<const uint8_t> NgramContext::reach(int64_t count) const {
  ENGRAM_CHECK(count >= 0 && count <= num_held(), "count={} num_held={}", count, num_held());
  return std::span(reach_).last(static_cast<size_t>(count));
}

}  // namespace engram
