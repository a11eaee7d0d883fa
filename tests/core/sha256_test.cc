#include "engram/core/sha256.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(Sha256, EqualsTheStandardsExamples) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// The padding's edges: the digest of the digests of 0 .. 199 bytes, from Python's hashlib.
TEST(Sha256, PadsEveryLength) {
  Sha256 all;
  for (int n = 0; n < 200; ++n) {
    std::string text;
    for (int i = 0; i < n; ++i) text.push_back(static_cast<char>(i * 7 + n));
    all.update(sha256_hex(text));
  }
  EXPECT_EQ(all.hex(), "b8f5d54cfd1cbbcae2003d1365d9fab7e5bc61813fa3486ee6a6a6bf38db4745");
}

TEST(Sha256, PiecesGiveWhatTheWholeGives) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text.push_back(static_cast<char>(i * 31));
  for (size_t step : {1, 7, 63, 64, 65, 200}) {
    Sha256 sha;
    for (size_t at = 0; at < text.size(); at += step) sha.update(std::string_view(text).substr(at, step));
    sha.update(nullptr, 0);
    EXPECT_EQ(sha.hex(), sha256_hex(text));
    EXPECT_EQ(sha.hex(), sha256_hex(text)) << "hex() must not change the state";
  }
}

}  // namespace
}  // namespace engram
