// Instructions that not every processor has, with what to do without them. Chosen at run time.
#pragma once
#include <cstdint>

#if defined(__x86_64__) && !defined(ENGRAM_PORTABLE)
#include <nmmintrin.h>
#define ENGRAM_CRC32C_FUNCTION __attribute__((target("sse4.2")))
#elif defined(__aarch64__) && defined(__linux__) && !defined(ENGRAM_PORTABLE)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define ENGRAM_CRC32C_FUNCTION __attribute__((target("+crc")))
#else
#define ENGRAM_CRC32C_FUNCTION
#endif

namespace engram::port {

// One step of a CRC-32C over 8 bytes or one. Only where has_crc32c(), in a function with ENGRAM_CRC32C_FUNCTION.
#if defined(__x86_64__) && !defined(ENGRAM_PORTABLE)
inline bool has_crc32c() { return __builtin_cpu_supports("sse4.2"); }
ENGRAM_CRC32C_FUNCTION inline uint64_t crc32c_step(uint64_t state, uint64_t word) { return _mm_crc32_u64(state, word); }
ENGRAM_CRC32C_FUNCTION inline uint32_t crc32c_step(uint32_t state, uint8_t byte) { return _mm_crc32_u8(state, byte); }
#elif defined(__aarch64__) && defined(__linux__) && !defined(ENGRAM_PORTABLE)
inline bool has_crc32c() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
ENGRAM_CRC32C_FUNCTION inline uint64_t crc32c_step(uint64_t state, uint64_t word) {
  return __crc32cd(static_cast<uint32_t>(state), word);
}
ENGRAM_CRC32C_FUNCTION inline uint32_t crc32c_step(uint32_t state, uint8_t byte) { return __crc32cb(state, byte); }
#else
inline bool has_crc32c() { return false; }
inline uint64_t crc32c_step(uint64_t, uint64_t) { return 0; }
inline uint32_t crc32c_step(uint32_t, uint8_t) { return 0; }
#endif

// function(), compiled for the widest vectors that this processor has. What it calls must be inlined always.
#if defined(__x86_64__) && !defined(ENGRAM_PORTABLE)
template <typename Function>
[[gnu::target("avx512f")]] auto call_avx512(const Function& function) {
  return function();
}
template <typename Function>
[[gnu::target("avx2")]] auto call_avx2(const Function& function) {
  return function();
}
template <typename Function>
auto with_widest_vectors(const Function& function) {
  if (__builtin_cpu_supports("avx512f")) return call_avx512(function);
  if (__builtin_cpu_supports("avx2")) return call_avx2(function);
  return function();
}
#else
template <typename Function>
auto with_widest_vectors(const Function& function) {
  return function();
}
#endif

}  // namespace engram::port
