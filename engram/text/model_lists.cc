#include "engram/text/model_lists.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

#include "engram/text/unicode.h"

namespace engram {
namespace {

class Reader {
 public:
  Reader(std::string_view text, ModelLists& lists) : text_(text), lists_(lists) {}

  // Where the values of the two lists stand in the text, once read_file() has found them.
  struct Range {
    size_t begin = 0, end = 0;
  };
  Range vocabulary, merges;

  bool read_file() {
    const bool read = read_object([&](std::string_view key) {
      return key == "model" && next_is('{') ? read_object([&](std::string_view inner) { return read_part(inner); })
                                            : skip_value();
    });
    skip_white();
    return read && at_ == text_.size() && vocabulary.end > 0 && merges.end > 0;
  }

 private:
  bool read_part(std::string_view key) {
    if (key == "vocab" && next_is('{')) return read_list(vocabulary, [&] { return read_vocabulary(); });
    if (key == "merges" && next_is('[')) return read_list(merges, [&] { return read_merges(); });
    return skip_value();
  }

  template <typename Read>
  bool read_list(Range& range, Read read) {
    if (range.end > 0) return false;  // twice
    range.begin = at_;
    if (!read()) return false;
    range.end = at_;
    return true;
  }

  bool read_vocabulary() {
    return read_object([&](std::string_view token) {
      int32_t id = 0;
      if (!read_id(id)) return false;
      lists_.vocabulary.push_back({token, id});
      return true;
    });
  }

  bool read_merges() {
    size_t index = 0;
    return read_array([&] {
      ModelLists::Merge merge{{}, {}, index++};
      if (next_is('[')) {
        if (!take('[') || !read_string(merge.left) || !take(',') || !read_string(merge.right) || !take(']'))
          return false;
      } else {
        std::string_view line;
        if (!read_string(line)) return false;
        if (is_merges_header(line)) return true;
        if (!split_merge(line, merge.left, merge.right)) return false;
      }
      lists_.merges.push_back(merge);
      return true;
    });
  }

  template <typename ReadValue>
  bool read_object(ReadValue read_value) {
    if (!take('{')) return false;
    if (take('}')) return true;
    do {
      std::string_view key;
      if (!read_string(key) || !take(':')) return false;
      skip_white();
      if (!read_value(key)) return false;
    } while (take(','));
    return take('}');
  }

  template <typename ReadValue>
  bool read_array(ReadValue read_value) {
    if (!take('[')) return false;
    if (take(']')) return true;
    do {
      if (!read_value()) return false;
    } while (take(','));
    return take(']');
  }

  void skip_white() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }
  bool next_is(char c) {
    skip_white();
    return at_ < text_.size() && text_[at_] == c;
  }
  bool take(char c) {
    const bool there = next_is(c);
    at_ += there;
    return there;
  }

  // A value of any kind. Brackets and strings are balanced; whether the rest is JSON, the DOM's parser says later.
  bool skip_value() {
    size_t depth = 0;
    do {
      skip_white();
      if (at_ == text_.size()) return false;
      const char c = text_[at_];
      if (c == '"') {
        std::string_view unused;
        if (!read_string(unused)) return false;
        continue;
      }
      if (depth == 0 && (c == ',' || c == ':' || c == '}' || c == ']')) return false;
      ++at_;
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (depth == 0 && c != '}' && c != ']') {  // a number or a word
        at_ = std::min(text_.find_first_of(",}] \t\r\n", at_), text_.size());
      }
    } while (depth > 0);
    return true;
  }

  bool read_id(int32_t& id) {
    skip_white();
    const char* const begin = text_.data() + at_;
    const char* const end = text_.data() + text_.size();
    if (begin == end || *begin < '0' || *begin > '9') return false;
    const auto [next, error] = std::from_chars(begin, end, id);
    if (error != std::errc() || id == INT32_MAX || (*begin == '0' && next != begin + 1)) return false;
    at_ += static_cast<size_t>(next - begin);
    return next_is(',') || next_is('}');  // no fraction, no exponent
  }

  bool read_string(std::string_view& out) {
    if (!take('"')) return false;
    for (size_t end = at_; end < text_.size(); ++end) {
      const auto c = static_cast<unsigned char>(text_[end]);
      if (c < 0x20) return false;
      if (c == '\\') return read_escaped(out);
      if (c != '"') continue;
      out = text_.substr(at_, end - at_);
      at_ = end + 1;
      return true;
    }
    return false;
  }

  bool read_escaped(std::string_view& out) {
    std::string& plain = lists_.unescaped.emplace_back();
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c == '"') {
        out = plain;
        return true;
      }
      if (c != '\\') {
        plain.push_back(c);
      } else if (!read_escape(plain)) {
        return false;
      }
    }
    return false;
  }

  bool read_escape(std::string& plain) {
    if (at_ == text_.size()) return false;
    const char c = text_[at_++];
    constexpr std::string_view kShort = "\"\\/bfnrt", kMeaning = "\"\\/\b\f\n\r\t";
    if (const size_t found = kShort.find(c); found != std::string_view::npos) {
      plain.push_back(kMeaning[found]);
      return true;
    }
    if (c != 'u' || at_ + 4 > text_.size()) return false;
    uint32_t code_point = 0;
    const char* const digits = text_.data() + at_;
    if (std::from_chars(digits, digits + 4, code_point, 16).ptr != digits + 4) return false;
    if (code_point >= 0xD800 && code_point < 0xE000) return false;  // half of a pair: rare enough for the DOM
    append_utf8(plain, code_point);
    at_ += 4;
    return true;
  }

  std::string_view text_;
  ModelLists& lists_;
  size_t at_ = 0;
};

}  // namespace

bool split_merge(std::string_view text, std::string_view& left, std::string_view& right) {
  const size_t blank = text.find(' ');
  if (blank == std::string_view::npos || text.find(' ', blank + 1) != std::string_view::npos) return false;
  left = text.substr(0, blank);
  right = text.substr(blank + 1);
  return true;
}

bool is_merges_header(std::string_view text) { return text.starts_with("#version"); }

std::optional<SplitTokenizerFile> split_tokenizer_file(std::string_view text) {
  if (find_invalid_utf8(text) != std::string_view::npos) return std::nullopt;
  SplitTokenizerFile file;
  Reader reader(text, file.lists);
  if (!reader.read_file()) return std::nullopt;
  const bool vocabulary_first = reader.vocabulary.begin < reader.merges.begin;
  const auto& first = vocabulary_first ? reader.vocabulary : reader.merges;
  const auto& second = vocabulary_first ? reader.merges : reader.vocabulary;
  file.rest += text.substr(0, first.begin);
  file.rest += vocabulary_first ? "{}" : "[]";
  file.rest += text.substr(first.end, second.begin - first.end);
  file.rest += vocabulary_first ? "[]" : "{}";
  file.rest += text.substr(second.end);
  return file;
}

}  // namespace engram
