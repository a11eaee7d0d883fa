#include "engram/text/code_point_set.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>

#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr std::string_view kCategoryNames[] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd",
                                               "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
                                               "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};
constexpr char32_t kEnd = 0x110000;

bool is_surrogate(char32_t c) { return c >= 0xD800 && c < 0xE000; }

template <typename Predicate>
CodePointSet collect(Predicate&& holds) {
  CodePointSet set;
  for (char32_t c = 0; c < kEnd; ++c) {
    if (is_surrogate(c) || !holds(c)) continue;
    if (!set.empty() && set.back().last + 1 == c) {
      set.back().last = c;
    } else {
      set.push_back({c, c});
    }
  }
  return set;
}

template <size_t n>
CodePointSet copy_of(const CodePointRange (&rows)[n]) {
  return CodePointSet(rows, rows + n);
}

}  // namespace

std::optional<uint32_t> category_mask(std::string_view name) {
  if (name.empty() || name.size() > 2) return std::nullopt;
  uint32_t mask = 0;
  for (size_t i = 0; i < std::size(kCategoryNames); ++i) {
    if (kCategoryNames[i].starts_with(name)) mask |= 1u << i;
  }
  if (mask == 0) return std::nullopt;
  return mask;
}

uint32_t category_bit(char32_t code_point) {
  static const std::vector<uint8_t> categories = [] {
    std::vector<uint8_t> all(kEnd);
    for (char32_t c = 0; c < kEnd; ++c) all[c] = static_cast<uint8_t>(utf8proc_category(static_cast<int32_t>(c)));
    for (const MappedRange& later : kCategoryLater) {
      std::fill(all.begin() + later.first, all.begin() + later.last + 1, static_cast<uint8_t>(later.value));
    }
    return all;
  }();
  return 1u << categories[code_point];
}

CodePointSet set_of_categories(uint32_t mask) {
  return collect([mask](char32_t c) { return (category_bit(c) & mask) != 0; });
}

CodePointSet later_set_of_categories(uint32_t mask) {
  CodePointSet set;
  for (const MappedRange& row : kCategoryLater) {
    if ((1u << row.value & mask) != 0) set.push_back({row.first, row.last});
  }
  return set;
}

std::optional<CodePointSet> set_of_script(std::string_view name) {
  if (name == "Han") return copy_of(kScriptHan);
  if (name == "Hiragana") return copy_of(kScriptHiragana);
  if (name == "Katakana") return copy_of(kScriptKatakana);
  if (name == "Hangul") return copy_of(kScriptHangul);
  return std::nullopt;
}

CodePointSet extra_word_set(bool in_class) {
  CodePointSet set = copy_of(kExtraWord);
  if (in_class) std::erase_if(set, [](const CodePointRange& range) { return range.last < 0x100; });
  return set;
}

const CodePointSet& word_set(bool in_class) {
  auto make = [](bool within) {
    uint32_t mask = 0;
    for (std::string_view name : {"L", "M", "Nd", "Nl", "Pc"}) mask |= *category_mask(name);
    const CodePointSet extra = extra_word_set(within);
    return collect([&](char32_t c) { return (category_bit(c) & mask) != 0 || contains(extra, c); });
  };
  static const CodePointSet alone = make(false), inside = make(true);
  return in_class ? inside : alone;
}

const CodePointSet& white_space_set() {
  static const CodePointSet set = collect(is_white_space);
  return set;
}

const CodePointSet& numeric_set() {
  static const CodePointSet set = [] {
    uint32_t mask = *category_mask("N");
    return collect(
        [mask](char32_t c) { return (category_bit(c) & mask) != 0 || find_row(kExtraNumeric, c) != nullptr; });
  }();
  return set;
}

CodePointSet complement(const CodePointSet& set) {
  CodePointSet out;
  char32_t next = 0;
  auto add = [&](char32_t first, char32_t last) {
    if (first > last) return;
    if (is_surrogate(first)) first = 0xE000;
    if (is_surrogate(last)) last = 0xD7FF;
    if (first <= last) out.push_back({first, last});
  };
  for (const CodePointRange& range : set) {
    if (range.first > next) add(next, range.first - 1);
    next = range.last + 1;
  }
  if (next < kEnd) add(next, kEnd - 1);
  return out;
}

bool contains(const CodePointSet& set, char32_t code_point) {
  auto after = std::upper_bound(set.begin(), set.end(), code_point,
                                [](char32_t value, const CodePointRange& range) { return value < range.first; });
  return after != set.begin() && code_point <= (after - 1)->last;
}

bool has_later_code_point(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    auto lead = static_cast<unsigned char>(text[at]);
    if (lead < 0xE0) {  // no later code point has fewer than three bytes
      ++at;
      continue;
    }
    char32_t code_point = next_code_point(text, at);
    bool common = code_point >= 0x3400 && code_point < 0xA000;  // most of Chinese
    if (!common && find_row(kCategoryLater, code_point) != nullptr) return true;
  }
  return false;
}

std::string class_text(const CodePointSet& set) {
  std::string out;
  for (const CodePointRange& range : set) {
    out += fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(range.first));
    if (range.last != range.first) out += fmt::format("-\\x{{{:x}}}", static_cast<uint32_t>(range.last));
  }
  return out;
}

}  // namespace engram
