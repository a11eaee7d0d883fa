#include "engram/data/token_stream.h"

#include <algorithm>

namespace engram {

TokenStream::TokenStream(std::vector<const TokenShard*> shards) : shards_(std::move(shards)) {
  for (const TokenShard* shard : shards_) {
    begins_.push_back(num_tokens_);
    num_tokens_ += shard->info().num_tokens;
    counted_tokens_ += shard->info().counted_tokens;
  }
}

template <typename Copy>
void TokenStream::for_each_part(int64_t begin, std::span<int32_t> out, Copy&& copy) const {
  for (size_t s = shard_at(begin); !out.empty(); ++s) {
    const int64_t inside = begin - begins_[s];
    const auto count = std::min<int64_t>(shards_[s]->info().num_tokens - inside, std::ssize(out));
    copy(*shards_[s], inside, out.first(static_cast<size_t>(count)));
    out = out.subspan(static_cast<size_t>(count));
    begin += count;
  }
}

void TokenStream::copy_tokens(int64_t begin, std::span<int32_t> out) const {
  for_each_part(begin, out, [](const TokenShard& shard, int64_t at, auto part) { shard.copy_tokens(at, part); });
}

void TokenStream::copy_targets(int64_t begin, std::span<int32_t> out) const {
  for_each_part(begin, out, [](const TokenShard& shard, int64_t at, auto part) { shard.copy_targets(at, part); });
}

Status TokenStream::readable() const {
  for (const TokenShard* shard : shards_) ENGRAM_RETURN_IF_ERROR(shard->readable());
  return {};
}

std::vector<int32_t> TokenStream::starts(int64_t begin, int64_t end) const {
  std::vector<int32_t> result;
  for (size_t s = shard_at(begin); s < shards_.size() && begins_[s] < end; ++s) {
    const std::span<const int64_t> documents = shards_[s]->document_starts();
    auto it = std::upper_bound(documents.begin(), documents.end(), begin - begins_[s]);
    for (; it != documents.end() && *it + begins_[s] < end; ++it)
      result.push_back(static_cast<int32_t>(*it + begins_[s] - begin));
  }
  return result;
}

size_t TokenStream::shard_at(int64_t position) const {
  return static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), position) - begins_.begin()) - 1;
}

TokenWindows::TokenWindows(const TokenStream& stream, Packing packing, int64_t length)
    : packing_(packing), length_(length), stream_windows_(std::max<int64_t>(stream.num_tokens() - 1, 0) / length) {
  if (packing == Packing::kStream) return;
  int64_t shard_begin = 0;
  for (const TokenShard* shard : stream.shards()) {
    const std::span<const int64_t> starts = shard->document_starts();
    const int64_t tokens = shard->info().num_tokens;
    for (size_t d = 0; d < starts.size(); ++d)
      add_document(shard_begin + starts[d], shard_begin + (d + 1 < starts.size() ? starts[d + 1] : tokens));
    shard_begin += tokens;
  }
}

void TokenWindows::add_document(int64_t begin, int64_t end) {
  if (open_ && end - begins_.back() <= length_ + 1) {
    ends_.back() = end;
    return;
  }
  open_ = end - begin <= length_ + 1;
  for (; begin + 1 < end || open_; begin += length_) {
    begins_.push_back(begin);
    ends_.push_back(std::min(begin + length_ + 1, end));
    if (open_) return;
  }
}

}  // namespace engram
