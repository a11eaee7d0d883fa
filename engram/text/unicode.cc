#include "engram/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <vector>

#include "engram/core/utf8.h"
#include "engram/text/unicode_tables.h"

namespace engram {
namespace {

bool is_opaque(char32_t code_point) { return find_row(kOpaque, code_point) != nullptr; }
bool is_mark(char32_t code_point) {
  if (find_row(kExtraMarks, code_point) != nullptr) return true;
  int category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME && !is_opaque(code_point);
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

utf8proc_option_t options_of(NormalForm form) {
  int options = UTF8PROC_STABLE;
  bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  options |= compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  return static_cast<utf8proc_option_t>(options);
}

// Sorts each run of combining marks. (utf8proc's own ordering is quadratic in their number.)
void order_marks(std::span<utf8proc_int32_t> points) {
  auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (size_t i = 0; i < points.size(); ++i) {
    size_t end = i;
    while (end < points.size() && combining_class(points[end]) != 0) ++end;
    std::stable_sort(points.begin() + i, points.begin() + end,
                     [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
}

// Orders, composes when the form says so, and appends. Keeps nothing in `points`.
void finish_segment(std::vector<utf8proc_int32_t>& points, utf8proc_option_t options, std::string& out) {
  order_marks(points);
  auto length = static_cast<utf8proc_ssize_t>(points.size());
  length = utf8proc_normalize_utf32(points.data(), length, options);
  for (utf8proc_ssize_t i = 0; i < length; ++i) append_utf8(out, static_cast<char32_t>(points[i]));
  points.clear();
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Sequence next = next_utf8(text.substr(at));
    if (!next.valid) return at;
    at += next.length;
  }
  return std::string_view::npos;
}

std::string utf8_lossy(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Sequence next = next_utf8(bytes.substr(at));
    out += next.valid ? bytes.substr(at, next.length) : "\uFFFD";
    at += next.length;
  }
  return out;
}

char32_t next_code_point(std::string_view text, size_t& at) {
  auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  char32_t lead = byte(0), code_point = lead;
  size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (length > 1) code_point = lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) code_point = code_point << 6 | (byte(i) & 0x3F);
  at += length;
  return code_point;
}

char32_t previous_code_point(std::string_view text, size_t& at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  size_t start = at;
  return next_code_point(text, start);
}

void append_utf8(std::string& out, char32_t c) {
  auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

std::string normalize(std::string_view text, NormalForm form) {
  if (is_ascii(text)) return std::string(text);
  utf8proc_option_t options = options_of(form);
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> points;
  for (size_t at = 0; at < text.size();) {
    char32_t code_point = next_code_point(text, at);
    if (is_opaque(code_point)) {  // a starter that takes part in nothing
      finish_segment(points, options, out);
      append_utf8(out, code_point);
      continue;
    }
    utf8proc_int32_t decomposed[32];  // the longest mapping, U+FDFA's, has 18
    int last_boundclass = 0;
    utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point), decomposed, 32, options, &last_boundclass);
    points.insert(points.end(), decomposed, decomposed + std::clamp<utf8proc_ssize_t>(count, 0, 32));
  }
  finish_segment(points, options, out);
  return out;
}

std::string strip_marks(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    size_t start = at;
    if (!is_mark(next_code_point(text, at))) out += text.substr(start, at - start);
  }
  return out;
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    char32_t code_point = next_code_point(text, at);
    if (code_point < 0x80) {
      bool upper = code_point >= 'A' && code_point <= 'Z';
      out.push_back(static_cast<char>(code_point + (upper ? 'a' - 'A' : 0)));
    } else if (code_point == 0x130) {
      out += "i\xCC\x87";  // the one full mapping that is longer than the simple one
    } else if (const MappedRange* later = find_row(kLowerLater, code_point)) {
      append_utf8(out, static_cast<char32_t>(static_cast<int>(code_point) + later->value));
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point))));
    }
  }
  return out;
}

std::string_view strip_white_space(std::string_view text) {
  size_t begin = 0, end = text.size();
  while (begin < end) {
    size_t at = begin;
    if (!is_white_space(next_code_point(text, at))) break;
    begin = at;
  }
  while (end > begin) {
    size_t at = end;
    if (!is_white_space(previous_code_point(text, at))) break;
    end = at;
  }
  return text.substr(begin, end - begin);
}

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

namespace {

utf8proc_category_t category_of(char32_t c) {
  const MappedRange* row = find_row(kStandIns, c);
  return utf8proc_category(row != nullptr ? row->value : static_cast<utf8proc_int32_t>(c));
}

}  // namespace

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t category = category_of(c);
  return (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) ||
         find_row(kExtraNumeric, c) != nullptr;
}

bool is_word_character(char32_t c) {
  const utf8proc_category_t category = category_of(c);  // the letters, marks and numbers come first
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC ||
         find_row(kExtraWord, c) != nullptr;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) return c > ' ' && c < 0x7F && (c == '_' || !is_word_character(c));
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  const bool mark = category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
  return mark ? find_row(kNoPunctuation, c) == nullptr : find_row(kExtraPunctuation, c) != nullptr;
}

bool is_unprintable(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_CN || category >= UTF8PROC_CATEGORY_ZS;
}

bool needs_stand_ins(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    if (lead < 0xCD) {  // below the first, U+0363
      ++at;
      continue;
    }
    const char32_t c = next_code_point(text, at);
    const bool common = c >= 0x3400 && c < 0xA000;  // most of Chinese
    if (!common && find_row(kStandIns, c) != nullptr) return true;
  }
  return false;
}

std::string with_stand_ins(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    const MappedRange* row = find_row(kStandIns, c);
    append_utf8(out, row != nullptr ? static_cast<char32_t>(row->value) : c);
  }
  return out;
}

}  // namespace engram
