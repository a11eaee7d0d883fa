#include "engram/serve/block_manager.h"

#include <algorithm>

#include "engram/core/mix.h"

namespace engram {

namespace {

constexpr size_t kMostRoots = 4096;  // clients choose the combinations

}  // namespace

BlockManager::BlockManager(int64_t num_blocks, int64_t block_size, bool prefix_cache)
    : block_size_(block_size), prefix_cache_(prefix_cache), blocks_(static_cast<size_t>(num_blocks)) {
  ENGRAM_CHECK(num_blocks > 0 && block_size > 0, "{} blocks of {} tokens", num_blocks, block_size);
  for (int32_t i = 0; i < static_cast<int32_t>(num_blocks); ++i) {
    blocks_[static_cast<size_t>(i)].free_at = free_.insert(free_.end(), i);
  }
}

uint64_t BlockManager::root(const Sequence& sequence) {
  if (sequence.request.memory_off) return 2;
  if (sequence.request.overlays.empty()) return 1;
  if (roots_.size() >= kMostRoots) roots_.clear();  // what was cached under them is not found again
  const auto [root, is_new] = roots_.try_emplace(sequence.request.overlays, next_identity_);
  if (is_new) ++next_identity_;
  return root->second;
}

uint64_t BlockManager::content_key(uint64_t parent, const int32_t* tokens) const {
  uint64_t key = parent;
  for (int64_t i = 0; i < block_size_; ++i) key = mix_bits(key + static_cast<uint32_t>(tokens[i]));
  return key;
}

int32_t BlockManager::find(uint64_t parent, const int32_t* tokens) const {
  const auto [begin, end] = by_content_.equal_range(content_key(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    const Block& block = blocks_[static_cast<size_t>(it->second)];
    if (block.parent == parent && std::equal(block.tokens.begin(), block.tokens.end(), tokens)) return it->second;
  }
  return -1;
}

void BlockManager::hold(int32_t index) {
  Block& block = blocks_[static_cast<size_t>(index)];
  if (block.references++ == 0) free_.erase(block.free_at);
}

void BlockManager::forget(int32_t index) {
  Block& block = blocks_[static_cast<size_t>(index)];
  if (block.identity == 0) return;
  const auto [begin, end] = by_content_.equal_range(content_key(block.parent, block.tokens.data()));
  by_content_.erase(std::find_if(begin, end, [index](const auto& entry) { return entry.second == index; }));
  block.identity = 0;
}

void BlockManager::take_prefix(Sequence& sequence) {
  ENGRAM_CHECK(sequence.block_table.empty(), "sequence {} has blocks already", sequence.id);
  sequence.chain = root(sequence);
  sequence.num_chained = 0;
  // What a trace shows is computed, not taken from a cache, whose pages hold no logits either.
  if (!prefix_cache_ || sequence.request.trace || sequence.request.sampling.prompt_logprobs >= 0) return;
  while ((sequence.num_chained + 1) * block_size_ < sequence.num_tokens()) {
    const int32_t block = find(sequence.chain, sequence.tokens.data() + sequence.num_chained * block_size_);
    if (block < 0) break;
    hold(block);
    sequence.block_table.push_back(block);
    sequence.chain = blocks_[static_cast<size_t>(block)].identity;
    ++sequence.num_chained;
  }
  sequence.num_computed = sequence.num_chained * block_size_;
}

bool BlockManager::reserve(Sequence& sequence, int64_t tokens) {
  const int64_t wanted = (tokens + block_size_ - 1) / block_size_;
  const int64_t missing = wanted - static_cast<int64_t>(sequence.block_table.size());
  if (missing > num_free()) return false;
  for (int64_t i = 0; i < missing; ++i) {
    const int32_t block = free_.front();
    forget(block);
    hold(block);
    sequence.block_table.push_back(block);
  }
  return true;
}

void BlockManager::publish(Sequence& sequence) {
  if (!prefix_cache_) return;
  while ((sequence.num_chained + 1) * block_size_ <= sequence.num_computed) {
    const int32_t* tokens = sequence.tokens.data() + sequence.num_chained * block_size_;
    int32_t known = find(sequence.chain, tokens);
    if (known < 0) {
      known = sequence.block_table[static_cast<size_t>(sequence.num_chained)];
      Block& block = blocks_[static_cast<size_t>(known)];
      block.identity = next_identity_++;
      block.parent = sequence.chain;
      block.tokens.assign(tokens, tokens + block_size_);
      by_content_.emplace(content_key(block.parent, tokens), known);
    }
    sequence.chain = blocks_[static_cast<size_t>(known)].identity;
    ++sequence.num_chained;
  }
}

void BlockManager::release(Sequence& sequence) {
  for (auto it = sequence.block_table.rbegin(); it != sequence.block_table.rend(); ++it) {
    Block& block = blocks_[static_cast<size_t>(*it)];
    ENGRAM_CHECK(block.references > 0, "block {} is released twice", *it);
    if (--block.references == 0) block.free_at = free_.insert(free_.end(), *it);
  }
  sequence.block_table.clear();
  sequence.num_computed = 0;
}

}  // namespace engram
