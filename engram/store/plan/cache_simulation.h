// Hit counts of caches over a trace of row accesses: what the planner compares. Sizes are in rows.
//
// Keys are dense: 0 .. num_keys - 1 (the caller renumbers rows). Accesses before `warm` fill the cache and are not
// counted. A trace sampled by row (each row of it in or out, with probability p) and sizes multiplied by p estimate the
// hit rate of the whole one (SHARDS, Waldspurger et al., FAST 2015).
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace engram {

// Hits of an LRU cache of each size, from one pass over reuse distances. O(n log n).
std::vector<int64_t> simulate_lru(std::span<const uint32_t> trace, uint32_t num_keys, size_t warm,
                                  std::span<const int64_t> sizes);

// Hits of one S3-FIFO cache: a small queue of a tenth, a main queue, and a ghost queue of as many keys as the main one
// holds (Yang et al., SOSP 2023). O(n).
int64_t simulate_s3_fifo(std::span<const uint32_t> trace, uint32_t num_keys, size_t warm, int64_t size);

}  // namespace engram
