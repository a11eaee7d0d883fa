// A system that refuses threads: pthread_create() of the whole program. In one source of a test only. Sanitizers have
// one of their own, so tests that need it are left out there.
#pragma once
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ENGRAM_CAN_REFUSE_THREADS
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <climits>

namespace engram {
inline std::atomic<int> threads_left{INT_MAX};  // how many are started before it refuses
}

extern "C" __attribute__((visibility("default"))) int pthread_create(pthread_t* thread,
                                                                     const pthread_attr_t* attributes,
                                                                     void* (*work)(void*), void* given) {
  static const auto real = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return engram::threads_left-- > 0 ? real(thread, attributes, work, given) : EAGAIN;
}
#endif
