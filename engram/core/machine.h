// What every reported number carries: the commit the program was built from and the machine it ran on.
#pragma once
#include <cstdint>
#include <string>

namespace engram {

// Full commit hash, with "-dirty" when tracked files had changes at build time; "unknown" outside a checkout.
const char* build_commit();
// "AMD EPYC 9R14, 2 cores, 23.4 GiB": processor model, usable cores, memory. No host name.
std::string machine_description();
// Largest resident set of this process so far, in bytes.
int64_t peak_rss_bytes();
// UTC date, "2026-11-24".
std::string today();

}  // namespace engram
