// Draws of numpy.random.default_rng itself, made by tests/golden/make/numpy_random_vectors.py.
#include "engram/hash/numpy_random.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engram/core/json.h"

namespace engram {
namespace {

TEST(NumpyRandom, EqualsNumpyBitForBit) {
  nlohmann::json file =
      value_or_throw(read_json_file(Env::posix(), ENGRAM_SOURCE_DIR "/tests/parity/numpy_random.json"));
  int draws = 0;
  for (const auto& generator : file.at("generators")) {
    const uint64_t seed = generator.at("seed").get<uint64_t>();
    NumpyRandom random(seed);
    for (const auto& call : generator.at("calls")) {
      const std::string name = call.at("call");
      for (const auto& wanted : call.at("values")) {
        ++draws;
        if (name == "uint64") {
          EXPECT_EQ(random.next_uint64(), wanted.get<uint64_t>()) << seed;
        } else if (name == "random") {
          EXPECT_EQ(random.random(), wanted.get<double>()) << seed;
        } else {
          EXPECT_EQ(random.integers(call.at("low"), call.at("high")), wanted.get<int64_t>()) << seed << " " << call;
        }
      }
    }
  }
  EXPECT_EQ(draws, 11 * (3 + 14 * 5 + 4));
}

TEST(NumpyRandom, ACopyContinuesTheSameStream) {
  NumpyRandom first(7);
  first.integers(0, 10);  // leaves half a word behind
  NumpyRandom second = first;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(first.integers(0, 1000), second.integers(0, 1000));
}

TEST(NumpyRandom, NormalHasTheMomentsOfANormal) {
  NumpyRandom random(3);
  constexpr int kCount = 200000;
  double sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < kCount; ++i) {
    double x = random.normal();
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  EXPECT_NEAR(sum / kCount, 0.0, 0.01);
  EXPECT_NEAR(squares / kCount, 1.0, 0.02);
  EXPECT_NEAR(fourth / kCount, 3.0, 0.1);
}

}  // namespace
}  // namespace engram
