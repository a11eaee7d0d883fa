// Seen: rounding to bf16 for the matrix products turned some NaN into infinity and others into -0, so a damaged weight
// gave a loss. Right: every NaN stays one, as in rows of tables.
#include <gtest/gtest.h>

#include <bit>

#include "engram/kernels/bf16.h"
#include "engram/kernels/gemm_bf16.h"

namespace engram {
namespace {

TEST(NanBecomesANumber, EveryNanStaysOne) {
  for (const uint32_t bits : {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFF800001u, 0xFFFFFFFFu}) {
    const float nan = std::bit_cast<float>(bits);
    EXPECT_EQ(round_to_bf16(nan), 0x7FC0);
    EXPECT_EQ(bf16_word(nan, 1.0f), 0x3F807FC0u);
    EXPECT_EQ(bf16_word(1.0f, nan), 0x7FC03F80u);
  }
}

}  // namespace
}  // namespace engram
