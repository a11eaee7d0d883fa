#include "engram/text/template_lexer.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include "engram/core/json.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr int kMostTokens = 1000;  // a chain of operators is a deep tree
constexpr std::string_view kOperators[] = {"==", "!=", "<=", ">=", "//", "**", "<", ">", "=", "+", "-", "*", "/",
                                           "%",  "~",  "|",  "(",  ")",  "[",  "]", "{", "}", ",", ":", "."};

bool is_blank(char c) { return c == ' ' || (c >= 9 && c <= 13); }
bool is_name_character(char c) {
  return (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? true : (c >= '0' && c <= '9') || c == '_';
}

}  // namespace

TemplateLexer::TemplateLexer(std::string_view source) {
  for (size_t i = 0; i < source.size(); ++i)  // Jinja's newlines
    if (source[i] != '\r') {
      source_ += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      source_ += '\n';
    }
  if (source_.ends_with('\n')) source_.pop_back();
}

void TemplateLexer::next() {
  while (at_ < source_.size() && is_blank(source_[at_])) ++at_;
  line_ = line();
  token_ = Token::kEnd;
  text_.clear();
  if (!status_.ok()) return;
  const std::string_view rest = std::string_view(source_).substr(at_);
  if (++tokens_ > kMostTokens) {
    refuse(fmt::format("a tag of more than {} tokens", kMostTokens));
  } else if (rest.empty()) {
    fail("a tag that is not closed");
  } else if (open_ == 0 && (rest.starts_with("%}") || rest.starts_with("}}") || rest.starts_with("-%}") ||
                            rest.starts_with("-}}") || rest.starts_with("+%}"))) {
    return;
  } else if (rest[0] == '"' || rest[0] == '\'') {
    read_string(rest[0]);
  } else if (rest[0] >= '0' && rest[0] <= '9') {
    token_ = Token::kNumber;
    size_t end = 0;
    const auto is_digit = [&](size_t i) {
      return i < rest.size() && ((rest[i] >= '0' && rest[i] <= '9') || rest[i] == '_');
    };
    while (is_digit(end)) ++end;
    if (end < rest.size() && rest[end] == '.' && is_digit(end + 1)) {
      for (++end; is_digit(end);) ++end;
    }
    for (const char c : rest.substr(0, end))
      if (c != '_') text_ += c;
    at_ += end;
  } else if (is_name_character(rest[0])) {
    token_ = Token::kName;
    text_ = rest.substr(
        0, static_cast<size_t>(std::find_if_not(rest.begin(), rest.end(), is_name_character) - rest.begin()));
    at_ += text_.size();
  } else {
    const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                     [&](std::string_view op) { return rest.starts_with(op); });
    if (found == std::end(kOperators)) {
      fail(fmt::format("an unexpected {}", quote_text(rest.substr(0, 1))));
      return;
    }
    token_ = Token::kOperator;
    text_ = *found;
    at_ += text_.size();
    open_ += text_ == "(" || text_ == "[" || text_ == "{" ? 1 : text_ == ")" || text_ == "]" || text_ == "}" ? -1 : 0;
  }
}

void TemplateLexer::read_string(char quote) {
  constexpr std::string_view kShort = "ntrbfav\\'\"\n", kMeaning = "\n\t\r\b\f\a\v\\'\"";
  token_ = Token::kString;
  for (++at_; at_ < source_.size() && source_[at_] != quote; ++at_) {
    if (source_[at_] != '\\') {
      text_ += source_[at_];
      continue;
    }
    if (++at_ == source_.size()) break;
    const char c = source_[at_];
    if (const size_t found = kShort.find(c); found != std::string_view::npos) {
      if (found < kMeaning.size()) text_ += kMeaning[found];
    } else if (const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0; digits > 0) {
      uint32_t code = 0;
      const char* const begin = source_.data() + at_ + 1;
      const bool enough =
          at_ + digits < source_.size() && std::from_chars(begin, begin + digits, code, 16).ptr == begin + digits;
      if (!enough || code >= 0x110000 || (code >= 0xD800 && code < 0xE000)) {
        fail("a bad escape in a string");
        return;
      }
      append_utf8(text_, code);
      at_ += digits;
    } else {
      (text_ += '\\') += c;  // as Python leaves it
    }
  }
  if (at_ < source_.size()) {
    ++at_;
  } else {
    fail("a string that is not closed");
  }
}

bool TemplateLexer::take(std::string_view text) {
  if (!is(text)) return false;
  next();
  return true;
}

void TemplateLexer::expect(std::string_view text) {
  if (!take(text))
    fail(fmt::format("got {}, wanted '{}'", token_ == Token::kEnd ? "the tag's end" : quote_text(text_), text));
}

std::string TemplateLexer::take_name() {
  if (token_ != Token::kName) fail("wanted a name");
  std::string name = text_;
  next();
  return name;
}

char TemplateLexer::add_text(Node& body) {
  for (;;) {
    const size_t begin = at_;
    tokens_ = 0;
    size_t open = source_.find('{', begin);
    const auto opens = [&] {
      return open + 1 < source_.size() && std::string_view("{%#").find(source_[open + 1]) != std::string_view::npos;
    };
    while (open != std::string::npos && !opens()) open = source_.find('{', open + 1);
    open = std::min(open, source_.size());
    std::string text = source_.substr(begin, open - begin);
    const char kind = open < source_.size() ? source_[open + 1] : '\0';
    at_ = std::min(open + 2, source_.size());
    const char sign = kind != '\0' && at_ < source_.size() ? source_[at_] : '\0';
    if (sign == '-') {
      while (!text.empty() && is_blank(text.back())) text.pop_back();
    } else if (sign != '+' && (kind == '%' || kind == '#')) {
      const size_t line_begin = text.rfind('\n') + 1;  // npos + 1 is 0
      const bool at_line = line_begin > 0 || begin == 0 || source_[begin - 1] == '\n';
      if (at_line && text.find_first_not_of(" \t", line_begin) == std::string::npos) text.resize(line_begin);
    }
    if (!text.empty()) body.parts.push_back(node(Kind::kText, std::move(text)));
    if (sign == '-' || (sign == '+' && kind == '%')) ++at_;
    if (kind != '#') return kind;
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) {
      fail("a comment that is not closed");
      return '\0';
    }
    const bool strip = end > at_ && source_[end - 1] == '-';
    at_ = end + 2;
    skip_behind(strip, true);
  }
}

void TemplateLexer::skip_behind(bool strip, bool newline) {
  if (strip) {
    while (at_ < source_.size() && is_blank(source_[at_])) ++at_;
  } else if (newline && at_ < source_.size() && source_[at_] == '\n') {
    ++at_;
  }
}

void TemplateLexer::close(std::string_view end) {
  if (!status_.ok()) return;
  const std::string_view rest = std::string_view(source_).substr(at_);
  const bool sign = !rest.empty() && (rest[0] == '-' || rest[0] == '+');
  if (token_ != Token::kEnd || rest.substr(sign, 2) != end) {
    fail(fmt::format("got {}, wanted '{}'", token_ == Token::kEnd ? "another end" : quote_text(text_), end));
    return;
  }
  at_ += 2 + sign;
  skip_behind(sign && rest[0] == '-', end == "%}" && !sign);
}

}  // namespace engram
