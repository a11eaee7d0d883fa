// What every reported number carries: the version and commit the program was built from and the machine it ran on.
#pragma once
#include <cstdint>
#include <string>

namespace engram {

const char* build_version();  // "0.2.0"
// Full commit hash, with "-dirty" when tracked files had changes at build time; "unknown" outside a checkout.
const char* build_commit();
// "AMD EPYC 9R14, 2 cores, 23.4 GiB": processor model, usable cores, memory. No host name.
std::string machine_description();
// Largest resident set of this process so far, in bytes.
int64_t peak_rss_bytes();
// Bytes that this process can still take: the smaller of what the machine has available and what its control groups
// (versions 1 and 2, the enclosing ones too) leave under their limits. Clean page cache counts as free, as the kernel
// counts it. INT64_MAX where the system says nothing. `root` is put before /proc and /sys, for tests.
int64_t available_memory_bytes(const std::string& root = "");
// UTC date, "2026-11-24".
std::string today();

}  // namespace engram
