// machine_rates: what the machine can do at most, measured.
#pragma once
#include <cstdint>

namespace engram::bench {

// `rounds` of ten independent chains of fp32 multiply-adds in registers, on the calling thread; the operations done, a
// multiply-add being two. `sink` takes the result, so that the work is not optimised away.
double multiply_adds(int64_t rounds, float* sink);

}  // namespace engram::bench
