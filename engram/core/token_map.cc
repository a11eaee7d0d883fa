#include "engram/core/token_map.h"

#include <numeric>

#include "engram/core/sha256.h"

namespace engram {

TokenMap TokenMap::identity(int vocab_size) {
  ENGRAM_CHECK(vocab_size >= 0, "vocab_size={}", vocab_size);
  std::vector<int32_t> ids(static_cast<size_t>(vocab_size));
  std::iota(ids.begin(), ids.end(), 0);
  TokenMap map;
  map.ids_ = std::make_shared<const std::vector<int32_t>>(std::move(ids));
  map.compressed_vocab_size_ = vocab_size;
  return map;
}

Result<TokenMap> TokenMap::from_ids(std::vector<int32_t> canonical_ids, int compressed_vocab_size) {
  for (size_t i = 0; i < canonical_ids.size(); ++i) {
    if (canonical_ids[i] < 0 || canonical_ids[i] >= compressed_vocab_size) {
      return invalid_argument("token map: id {} has the canonical id {}, wanted 0 .. {}", i, canonical_ids[i],
                              compressed_vocab_size - 1);
    }
  }
  TokenMap map;
  map.ids_ = std::make_shared<const std::vector<int32_t>>(std::move(canonical_ids));
  map.compressed_vocab_size_ = compressed_vocab_size;
  return map;
}

std::string TokenMap::sha256() const {
  std::string bytes;
  bytes.reserve(ids_->size() * 4);
  for (int32_t id : *ids_) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(static_cast<uint32_t>(id) >> shift));
  }
  return sha256_hex(bytes);
}

}  // namespace engram
