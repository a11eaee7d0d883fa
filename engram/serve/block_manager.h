// BlockManager: which sequence owns which page. Pages of block_size tokens, counted references, a prefix cache.
//
// A full block whose tokens are computed is known by its content: its tokens, the block before it (by identity, so a
// match is exact and never a matter of a hash), and whether the memory is on, with which overlays. A new sequence takes
// over the longest such chain that its prompt begins with. A block without a holder keeps its content until its page is
// needed. Least recently used blocks are evicted first; within a sequence, from the end. One thread; nothing here
// touches the pages themselves.
#pragma once
#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "engram/serve/sequence.h"

namespace engram {

class BlockManager {
 public:
  BlockManager(int64_t num_blocks, int64_t block_size, bool prefix_cache = true);

  int64_t block_size() const { return block_size_; }
  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }  // cached content included

  // For a sequence without blocks: takes over cached ones, at most all but the last token of it, which has to run; none
  // where more than the next token is asked of its prompt. Sets block_table and num_computed.
  void take_prefix(Sequence& sequence);
  // Appends blocks so that `tokens` of the sequence have a place. False: too few are free, nothing has changed.
  bool reserve(Sequence& sequence, int64_t tokens);
  // Makes the blocks that num_computed has filled known to others.
  void publish(Sequence& sequence);
  // Gives all blocks back; num_computed becomes 0.
  void release(Sequence& sequence);

 private:
  struct Block {
    int64_t references = 0;
    uint64_t identity = 0;  // 0: its content is not known to others
    uint64_t parent = 0;
    std::vector<int32_t> tokens;
    std::list<int32_t>::iterator free_at;
  };
  // Where the chains of a sequence's kind begin.
  uint64_t root(const Sequence& sequence);
  uint64_t content_key(uint64_t parent, const int32_t* tokens) const;
  // The block with this content, -1: none.
  int32_t find(uint64_t parent, const int32_t* tokens) const;
  void hold(int32_t block);
  void forget(int32_t block);

  int64_t block_size_;
  bool prefix_cache_;
  std::vector<Block> blocks_;
  std::list<int32_t> free_;                                // longest unused first
  std::unordered_multimap<uint64_t, int32_t> by_content_;  // content_key -> block
  std::map<std::vector<std::string>, uint64_t> roots_;     // by overlays
  uint64_t next_identity_ = 3;
};

}  // namespace engram
