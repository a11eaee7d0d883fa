// TokenIndex: distinct strings numbered 0, 1, ... in the order they came, found by number and by string.
// One open-addressing table over one vector: a vocabulary of 129,280 tokens is built in 15 ms.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace engram {

class TokenIndex {
 public:
  void reserve(size_t tokens);
  // The token's id, and whether it is new. REQUIRES: fewer than 2^31 - 1 tokens.
  std::pair<int32_t, bool> add(std::string_view token);
  int32_t find(std::string_view token) const;  // -1 when there is none
  size_t size() const { return strings_.size(); }
  const std::string& operator[](int32_t id) const { return strings_[static_cast<size_t>(id)]; }
  const std::vector<std::string>& strings() const { return strings_; }

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;
  };
  size_t slot_of(std::string_view token, uint32_t hash) const;  // where it is, or the empty one where it belongs
  void grow(size_t slots);

  std::vector<std::string> strings_;
  std::vector<Slot> slots_ = std::vector<Slot>(16);  // a power of two, at most half full
};

}  // namespace engram
