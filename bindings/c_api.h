// What the sources of the C ABI share: its handles, and the border that no exception crosses. Not installed.
#pragma once
#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/engram.h"
#include "engram/hash/memory_hasher.h"
#include "engram/store/open.h"

struct engram_hasher {
  engram::MemoryHasher hasher;
};

struct engram_table {
  engram::OpenTable table;
  std::vector<engram::RowTable> layers;  // in the order of table.stores
};

namespace engram {

inline thread_local std::string last_error;  // engram_last_error()

inline engram_status finish(const Status& status) {
  if (!status.ok()) last_error = status.message();
  return static_cast<engram_status>(status.code());
}

// Runs a function that returns a Status.
template <typename Function>
engram_status guarded(Function function) noexcept {
  try {
    return finish(function());
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
    return ENGRAM_RESOURCE_EXHAUSTED;
  } catch (const std::exception& error) {
    last_error = error.what();
    return ENGRAM_INTERNAL;
  }
}

inline Status check_pointer(const void* pointer, const char* name) {
  return pointer == nullptr ? invalid_argument("{} is NULL", name) : Status();
}

// The caller's struct as this library's, fields that the caller does not know as 0.
template <typename Struct>
Status copy_in(const Struct* from, const char* name, Struct* to) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(from, name));
  if (from->size < sizeof(size_t)) return invalid_argument("{}.size is {}, wanted sizeof({})", name, from->size, name);
  *to = Struct{};
  std::memcpy(to, from, std::min(from->size, sizeof(Struct)));
  return {};
}

// What the caller has room for; its `size` stays.
template <typename Struct>
Status copy_out(const Struct& from, const char* name, Struct* to) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(to, name));
  const size_t size = to->size;
  if (size < sizeof(size_t)) return invalid_argument("{}.size is {}, wanted sizeof({})", name, size, name);
  std::memcpy(to, &from, std::min(size, sizeof(Struct)));
  to->size = size;
  return {};
}

// An array of the caller's; NULL only where it is empty.
template <typename T>
Result<std::span<T>> array(T* data, size_t count, const char* name) {
  if (data == nullptr && count > 0) return invalid_argument("{} is NULL, wanted {} elements", name, count);
  return std::span<T>(data, count);
}

inline Status check_layer(size_t layer, size_t layers) {
  return layer < layers ? Status() : invalid_argument("layer is {}, wanted 0 .. {}", layer, layers - 1);
}

// What an accessor without a status gives for NULL: -1, and the message.
template <typename Handle, typename Function>
auto number_of(const Handle* handle, const char* name, Function get) noexcept -> decltype(get(*handle)) {
  if (guarded([&] { return check_pointer(handle, name); }) != ENGRAM_OK) return -1;
  return get(*handle);
}

}  // namespace engram
