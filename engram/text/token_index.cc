#include "engram/text/token_index.h"

#include <bit>
#include <functional>

namespace engram {
namespace {

uint32_t hash_of(std::string_view token) {
  const uint64_t hash = std::hash<std::string_view>{}(token);
  return static_cast<uint32_t>(hash ^ hash >> 32);
}

}  // namespace

size_t TokenIndex::slot_of(std::string_view token, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t at = hash & mask;
  while (slots_[at].id >= 0 && (slots_[at].hash != hash || (*this)[slots_[at].id] != token)) at = (at + 1) & mask;
  return at;
}

void TokenIndex::grow(size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.id < 0) continue;
    size_t at = slot.hash & (slots_.size() - 1);
    while (slots_[at].id >= 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = slot;
  }
}

void TokenIndex::reserve(size_t tokens) {
  strings_.reserve(tokens);
  if (2 * tokens > slots_.size()) grow(std::bit_ceil(2 * tokens));
}

std::pair<int32_t, bool> TokenIndex::add(std::string_view token) {
  if (const int32_t id = find(token); id >= 0) return {id, false};
  const auto id = static_cast<int32_t>(strings_.size());
  set(token, id);
  return {id, true};
}

bool TokenIndex::set(std::string_view token, int32_t id) {
  const auto at = static_cast<size_t>(id);
  if (at < strings_.size() && taken_[at]) return strings_[at] == token;
  if (2 * (count_ + 1) > slots_.size()) grow(2 * slots_.size());
  if (at >= strings_.size()) {
    strings_.resize(at + 1);
    taken_.resize(at + 1);
  }
  const uint32_t hash = hash_of(token);
  Slot& slot = slots_[slot_of(token, hash)];
  if (slot.id >= 0) {
    strings_[static_cast<size_t>(slot.id)].clear();
    taken_[static_cast<size_t>(slot.id)] = false;
  } else {
    ++count_;
  }
  slot = {hash, id};
  strings_[at] = token;
  taken_[at] = true;
  return true;
}

int32_t TokenIndex::find(std::string_view token) const { return slots_[slot_of(token, hash_of(token))].id; }

}  // namespace engram
