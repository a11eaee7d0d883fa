#include "engram/text/unicode.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "engram/core/env.h"
#include "engram/core/json.h"
#include "engram/core/sha256.h"
#include "engram/text/pattern.h"

namespace engram {
namespace {

// Made by tests/golden/make/unicode_digests.py with the package `tokenizers`.
const nlohmann::json& digests() {
  static const nlohmann::json file =
      value_or_throw(read_json_file(Env::posix(), ENGRAM_SOURCE_DIR "/tests/text/data/unicode_digests.json"));
  return file;
}

std::string utf8(char32_t code_point) {
  std::string out;
  append_utf8(out, code_point);
  return out;
}

bool is_scalar(char32_t c) { return c < 0xD800 || (c >= 0xE000 && c < 0x110000); }

// Alone, between letters and among combining marks.
std::string context(const std::string& c) {
  return c + "|a" + c + "\u0327|a\u0301" + c + "|" + c + "\u0301|a\u0327\u0301" + c + "\u0328|" + c + c;
}

TEST(Unicode, NormalizersEqualTheOraclesForEveryScalarValue) {
  const std::map<std::string, std::function<std::string(std::string_view)>> normalizers = {
      {"NFC", [](std::string_view text) { return normalize(text, NormalForm::kNfc); }},
      {"NFD", [](std::string_view text) { return normalize(text, NormalForm::kNfd); }},
      {"NFKC", [](std::string_view text) { return normalize(text, NormalForm::kNfkc); }},
      {"NFKD", [](std::string_view text) { return normalize(text, NormalForm::kNfkd); }},
      {"StripAccents", strip_marks},
      {"Lowercase", lowercase},
      {"Strip", [](std::string_view text) { return std::string(strip_white_space(text)); }}};
  ASSERT_EQ(digests()["normalizers"].size(), normalizers.size());
  for (const auto& [name, normalizer] : normalizers) {
    const nlohmann::json& blocks = digests()["normalizers"][name];
    ASSERT_EQ(blocks.size(), 65u);
    for (const auto& [block, digest] : blocks.items()) {
      const auto first = static_cast<char32_t>(std::stoul(block, nullptr, 16));
      Sha256 sha;
      for (char32_t c = first; c < first + 0x1000; ++c) {
        if (is_scalar(c)) sha.update(normalizer(context(utf8(c))) + "\n");
      }
      EXPECT_EQ(sha.hex().substr(0, 16), digest.get<std::string>()) << name << " U+" << block;
    }
  }
}

TEST(Unicode, NormalizersLeaveTheOtherPlanesAlone) {
  for (char32_t c = 0x40000; c < 0x110000; c += 0x11) {
    if (c >= 0xE0000 && c < 0xE1000) continue;
    const std::string text = utf8(c);
    EXPECT_EQ(normalize(text, NormalForm::kNfkc), text);
    EXPECT_EQ(normalize(text, NormalForm::kNfd), text);
    EXPECT_EQ(strip_marks(text), text);
    EXPECT_EQ(lowercase(text), text);
  }
}

// The code points that `pattern` matches in a text of up to 4096 different ones, in order.
void match_chunk(const Pattern& pattern, const std::string& chunk, bool plain, std::vector<char32_t>& found) {
  std::vector<Match> slices;
  throw_if_error(pattern.slice(chunk, plain, slices));
  for (const Match& slice : slices) {
    for (size_t at = slice.begin; slice.matched && at < slice.end;) found.push_back(next_code_point(chunk, at));
  }
}

TEST(Unicode, PatternsMatchWhatOnigurumaMatches) {
  std::vector<std::string> chunks;
  int in_chunk = 4096;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (!is_scalar(c)) continue;
    if (in_chunk == 4096) chunks.emplace_back(), in_chunk = 0;
    append_utf8(chunks.back(), c), ++in_chunk;
  }
  for (const auto& [text, digest] : digests()["patterns"].items()) {
    Result<Pattern> pattern = Pattern::compile(text);
    ASSERT_TRUE(pattern.ok()) << pattern.status().message();
    Sha256 sha;
    for (const std::string& chunk : chunks) {
      std::vector<char32_t> found;
      match_chunk(*pattern, chunk, !needs_stand_ins(chunk), found);
      std::sort(found.begin(), found.end());
      sha.update(found.data(), found.size() * sizeof(char32_t));
    }
    EXPECT_EQ(sha.hex(), digest.get<std::string>()) << text;
  }
}

// PCRE2 runs them; every character stands alone, behind what a word may begin with and before a line's end.
TEST(Unicode, BothEnginesFindTheSameOfPublishedPatterns) {
  constexpr std::string_view kPublished[] = {
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+)",
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
      R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
      R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
      R"( ?[\p{P}\p{S}]+[\r\n]*|\d+)",
      "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
      R"([0-9]+|\d)"};
  for (const std::string_view source : kPublished) {
    ASSERT_TRUE(is_published_pattern(source)) << source;
    const Pattern pattern = value_or_throw(Pattern::compile(source));
    for (char32_t first = 0; first < 0x20000; first += 0x600) {
      std::string text;
      for (char32_t c = first; c < first + 0x400; ++c) {
        if (is_scalar(c) && !needs_stand_ins(utf8(c))) text += fmt::format("{0}a{0} {0}A'{0} '{0}\n\r", utf8(c));
      }
      std::vector<Match> fast, slow;
      throw_if_error(pattern.slice(text, true, fast));
      throw_if_error(pattern.slice(text, false, slow));
      const auto same = [](const Match& a, const Match& b) {
        return a.begin == b.begin && a.end == b.end && a.matched == b.matched;
      };
      EXPECT_TRUE(std::equal(fast.begin(), fast.end(), slow.begin(), slow.end(), same))
          << source << " at " << static_cast<uint32_t>(first);
    }
  }
}

TEST(Unicode, FindsTheFirstIllFormedByte) {
  EXPECT_EQ(find_invalid_utf8(""), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("a\u00e9\u4e2d\U0001F600"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("ab\xFF"), 2u);
  EXPECT_EQ(find_invalid_utf8("\xC0\xAF"), 0u);          // overlong
  EXPECT_EQ(find_invalid_utf8("a\xE0\x80\x80"), 1u);     // overlong
  EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0u);      // surrogate
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // over U+10FFFF
  EXPECT_EQ(find_invalid_utf8("abc\xE4\xB8"), 3u);       // truncated
}

// Wanted values are Python's bytes.decode("utf-8", "replace").
TEST(Unicode, LossyDecodingReplacesMaximalParts) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(utf8_lossy("a\xFF"
                       "b"),
            "a" + r + "b");
  EXPECT_EQ(utf8_lossy("\xE4\xB8"), r);
  EXPECT_EQ(utf8_lossy("\xE4\xB8z"), r + "z");
  EXPECT_EQ(utf8_lossy("\xF0\x9F\x98"), r);
  EXPECT_EQ(utf8_lossy("\xF0\x9F\x98\xF0\x9F\x98\x80"), r + "\U0001F600");
  EXPECT_EQ(utf8_lossy("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(utf8_lossy("\xC0\xAF\x80"), r + r + r);
  EXPECT_EQ(utf8_lossy("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(utf8_lossy("\xE0\x80"), r + r);
}

TEST(Unicode, CodePointsGoThereAndBack) {
  std::string text;
  std::vector<char32_t> points = {0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF};
  for (char32_t c : points) append_utf8(text, c);
  size_t at = 0;
  for (char32_t c : points) EXPECT_EQ(next_code_point(text, at), c);
  EXPECT_EQ(at, text.size());
  for (size_t i = points.size(); i-- > 0;) EXPECT_EQ(previous_code_point(text, at), points[i]);
  EXPECT_EQ(at, 0u);
}

TEST(Unicode, LongRunsOfMarksAreNotQuadratic) {
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) text += i % 2 ? "\u0327" : "\u0301";
  const std::string out = normalize(text, NormalForm::kNfd);
  EXPECT_EQ(out.size(), text.size());
  EXPECT_EQ(out.substr(1, 4), "\u0327\u0327");
}

}  // namespace
}  // namespace engram
