#include "engram/text/pattern_syntax.h"

#include <vector>

#include "engram/core/json.h"
#include "engram/text/code_point_set.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr int kMaxGroupDepth = 100;
constexpr size_t kMaxTranslation = 256 << 10;  // more than PCRE2 can compile
constexpr uint64_t kMaxRepeat = 65535;         // PCRE2's own

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alpha(char32_t c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }
int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

void append_literal(std::string& out, char32_t c) {
  if (c >= 0x80 || is_alpha(c) || (c >= '0' && c <= '9')) {
    append_utf8(out, c);
  } else if (c > 0x20 && c < 0x7F) {
    out += {'\\', static_cast<char>(c)};
  } else {
    out += fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(c));
  }
}

// One pass over a pattern in one of the two modes. Errors are kept in status_; every step returns whether to go on.
class Translator {
 public:
  Translator(std::string_view pattern, bool exact) : pattern_(pattern), exact_(exact) {}

  Result<std::string> run() {
    groups_.push_back({});
    while (at_ < pattern_.size()) {
      if (!step()) return status_;
      if (out_.size() > kMaxTranslation) {
        refuse("too large");
        return status_;
      }
    }
    if (groups_.size() > 1) {
      refuse("a group that is not closed");
      return status_;
    }
    out_.append(static_cast<size_t>(groups_.back().extra_closes), ')');
    return out_;
  }

 private:
  struct Group {
    size_t start = 0;      // in out_
    int extra_closes = 0;  // groups opened for (?i) and the like, closed with this one
    bool repeatable = false;
    bool caseless = false;  // to restore behind the group
  };
  struct ClassAtom {
    bool is_set = false;
    char32_t code_point = 0;
    std::string set_text;
  };
  static constexpr size_t kNone = std::string::npos;

  bool refuse(const std::string& what) {
    status_ = invalid_argument("pattern {}: byte {}: {}", quote_text(pattern_, 100), at_, what);
    return false;
  }
  bool refuse_unsupported(const std::string& what) { return refuse(what + " is not supported"); }
  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool eat(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }

  bool step();
  bool open_group();
  bool open_options();
  bool close_group();
  bool quantifier();
  bool interval();
  bool escape();
  bool escaped_code_point(char c, char32_t* code_point);
  bool hex_digits(int least, int most, char32_t* code_point);
  bool named_set(char c, bool in_class, bool* is_set, std::string* text);
  bool property(bool negated, std::string* text);
  std::string category_text(std::string_view name, bool negated) const;
  std::string word_class() {
    bool is_set = false;
    std::string text;
    named_set('w', false, &is_set, &text);
    return "[" + text + "]";
  }
  bool char_class();
  bool class_atom(ClassAtom* atom);
  void anchor(std::string_view text);
  void atom(std::string_view text);
  bool literal(char32_t code_point);
  bool check_caseless(char32_t code_point);

  std::string_view pattern_;
  bool exact_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_start_ = kNone;  // where in out_ the thing begins that a quantifier would repeat
  char32_t last_literal_ = 0;  // directly before, for case folding over two characters
  bool caseless_ = false;
  std::vector<Group> groups_;
  Status status_;
};

void Translator::anchor(std::string_view text) {
  out_ += text;
  atom_start_ = kNone;
  last_literal_ = 0;
}

void Translator::atom(std::string_view text) {
  atom_start_ = out_.size();
  out_ += text;
  last_literal_ = 0;
}

// Oniguruma folds some pairs of letters to one character (ss to U+00DF); PCRE2 does not.
bool Translator::check_caseless(char32_t code_point) {
  if (!caseless_) return true;
  if (code_point >= 0x80) return refuse_unsupported("a character outside ASCII in a case-insensitive part");
  char pair[2] = {static_cast<char>(last_literal_ | 0x20), static_cast<char>(code_point | 0x20)};
  for (std::string_view folded : {"ss", "ff", "fi", "fl", "st"}) {
    if (last_literal_ != 0 && std::string_view(pair, 2) == folded) {
      return refuse_unsupported(fmt::format("'{}' in a case-insensitive part", folded));
    }
  }
  return true;
}

bool Translator::literal(char32_t code_point) {
  if (!check_caseless(code_point)) return false;
  atom_start_ = out_.size();
  append_literal(out_, code_point);
  last_literal_ = code_point;
  return true;
}

bool Translator::step() {
  switch (pattern_[at_]) {
    case '\\': return escape();
    case '[': return char_class();
    case '(': return open_group();
    case ')': return close_group();
    case '*':
    case '+':
    case '?': return quantifier();
    case '{': return interval();
    case '|': ++at_, anchor("|"); return true;
    case '^': ++at_, anchor("(?m:^)"); return true;
    case '$': ++at_, anchor("(?m:$)"); return true;
    case '.': ++at_, atom("."); return true;
    default: return literal(next_code_point(pattern_, at_));
  }
}

bool Translator::open_group() {
  if (groups_.size() > kMaxGroupDepth) return refuse(fmt::format("groups nested deeper than {}", kMaxGroupDepth));
  if (next_is("(*")) return refuse_unsupported("'(*'");
  if (eat("(?#")) {
    size_t end = pattern_.find(')', at_);
    if (end == kNone) return refuse("a comment that is not closed");
    at_ = end + 1;
    return true;
  }
  Group group{out_.size(), 0, true, caseless_};
  for (std::string_view opening : {"(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!"}) {
    if (!eat(opening)) continue;
    group.repeatable = opening == "(?:" || opening == "(?>";
    groups_.push_back(group);
    anchor(opening);
    return true;
  }
  if (next_is("(?")) return open_options();
  ++at_;
  groups_.push_back(group);
  anchor("(?:");  // nothing refers to a capture
  return true;
}

bool Translator::open_options() {
  size_t start = at_;
  at_ += 2;
  bool on = true, caseless = caseless_;
  std::string flags;
  for (; at_ < pattern_.size() && pattern_[at_] != ')' && pattern_[at_] != ':'; ++at_) {
    char c = pattern_[at_];
    if (c == '-' && on) {
      on = false;
      flags += '-';
    } else if (c == 'i') {
      flags += 'i';
      caseless = on;
    } else if (c == 'm') {
      flags += 's';
    } else {
      at_ = start;
      return refuse_unsupported(quote_text(pattern_.substr(at_, 4)));
    }
  }
  if (at_ == pattern_.size()) return refuse("a group that is not closed");
  bool has_body = pattern_[at_++] == ':';
  if (has_body) {
    groups_.push_back({out_.size(), 0, true, caseless_});
  } else {
    ++groups_.back().extra_closes;  // the options reach to the end of the enclosing group, over every |
  }
  caseless_ = caseless;
  anchor("(?" + flags + ":");
  return true;
}

bool Translator::close_group() {
  if (groups_.size() == 1) return refuse("')' without '('");
  ++at_;
  Group group = groups_.back();
  groups_.pop_back();
  anchor(std::string(static_cast<size_t>(1 + group.extra_closes), ')'));
  caseless_ = group.caseless;
  if (group.repeatable) atom_start_ = group.start;
  return true;
}

bool Translator::quantifier() {
  if (atom_start_ == kNone) return refuse_unsupported("a quantifier here");
  out_ += pattern_[at_++];
  if (next_is("?") || next_is("+")) out_ += pattern_[at_++];
  atom_start_ = kNone;
  last_literal_ = 0;
  return true;
}

// {n} {n,} {n,m} {,m}; anything else is a literal brace.
bool Translator::interval() {
  size_t end = at_ + 1;
  auto number = [&](uint64_t* value) {
    size_t start = end;
    for (*value = 0; end < pattern_.size() && is_digit(pattern_[end]) && *value <= kMaxRepeat; ++end) {
      *value = *value * 10 + static_cast<uint64_t>(pattern_[end] - '0');
    }
    return end > start;
  };
  uint64_t low = 0, high = 0;
  bool has_low = number(&low), has_comma = end < pattern_.size() && pattern_[end] == ',';
  if (has_comma) ++end;
  bool has_high = has_comma && number(&high);
  if (end >= pattern_.size() || pattern_[end] != '}' || (!has_low && !has_high)) {
    return literal(next_code_point(pattern_, at_));
  }
  if (atom_start_ == kNone) return refuse_unsupported("a quantifier here");
  if (low > kMaxRepeat || high > kMaxRepeat || (has_high && low > high)) {
    return refuse(fmt::format("a repeat that is not within 0 .. {} or not ascending", kMaxRepeat));
  }
  at_ = end + 1;
  std::string text = has_high    ? fmt::format("{{{},{}}}", low, high)
                     : has_comma ? fmt::format("{{{},}}", low)
                                 : fmt::format("{{{}}}", low);
  // In Ruby's syntax a + behind an interval repeats it, and so does a ? behind {n}.
  if (next_is("+") || (next_is("?") && !has_comma)) {
    out_.insert(atom_start_, "(?:");
    text += ')';
  }
  if (next_is("+") || next_is("?")) text += pattern_[at_++];
  anchor(text);
  return true;
}

bool Translator::hex_digits(int least, int most, char32_t* code_point) {
  *code_point = 0;
  int digits = 0;
  for (; digits < most && at_ < pattern_.size() && hex_value(pattern_[at_]) >= 0; ++digits, ++at_) {
    *code_point = *code_point * 16 + static_cast<char32_t>(hex_value(pattern_[at_]));
  }
  return digits >= least || refuse("too few hex digits");
}

// A backslash and `c` that stand for one character; at_ is behind them.
bool Translator::escaped_code_point(char c, char32_t* code_point) {
  switch (c) {
    case 'n': *code_point = '\n'; return true;
    case 't': *code_point = '\t'; return true;
    case 'r': *code_point = '\r'; return true;
    case 'f': *code_point = '\f'; return true;
    case 'v': *code_point = '\v'; return true;
    case 'a': *code_point = '\a'; return true;
    case 'e': *code_point = 0x1B; return true;
    case 'u':
      if (!hex_digits(4, 4, code_point)) return false;
      break;
    case 'x': {
      bool braced = eat("{");
      if (!hex_digits(1, braced ? 8 : 2, code_point)) return false;
      if (braced && !eat("}")) return refuse("'\\x{' without '}'");
      if (!braced && *code_point >= 0x80) return refuse_unsupported("a byte over 0x7f");
      break;
    }
    default:
      if (is_digit(c) || is_alpha(static_cast<unsigned char>(c))) {
        return refuse_unsupported(fmt::format("'\\{}'", c));
      }
      --at_;
      *code_point = next_code_point(pattern_, at_);
      return true;
  }
  if (*code_point >= 0x110000 || (*code_point >= 0xD800 && *code_point < 0xE000)) return refuse("no such code point");
  return true;
}

// \d \s \w \h \p{..} and their opposites as the inside of a class; *is_set is false for any other escape.
bool Translator::named_set(char c, bool in_class, bool* is_set, std::string* text) {
  *is_set = true;
  auto explicit_set = [&](const CodePointSet& set, bool negated) {
    *text = class_text(negated ? complement(set) : set);
    return true;
  };
  switch (c) {
    case 'p':
    case 'P': return property(c == 'P', text);
    case 'd':
    case 'D': *text = category_text("Nd", c == 'D'); return true;
    case 's':
    case 'S': return explicit_set(white_space_set(), c == 'S');
    case 'w':
      for (std::string_view name : {"L", "M", "Nd", "Nl", "Pc"}) *text += category_text(name, false);
      *text += class_text(extra_word_set(in_class));
      return true;
    case 'W': return explicit_set(word_set(in_class), true);
    case 'h':
    case 'H': return explicit_set({{'0', '9'}, {'A', 'F'}, {'a', 'f'}}, c == 'H');
    default: *is_set = false; return true;
  }
}

std::string Translator::category_text(std::string_view name, bool negated) const {
  if (!exact_) return fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', name);
  uint32_t mask = *category_mask(name);
  bool lost_members = name[0] == 'C' || name == "Mn" || name == "Mc";  // since PCRE2's Unicode version
  if (!negated && !lost_members) return fmt::format("\\p{{{}}}", name) + class_text(later_set_of_categories(mask));
  CodePointSet set = set_of_categories(mask);
  return class_text(negated ? complement(set) : set);
}

bool Translator::property(bool negated, std::string* text) {
  if (!eat("{")) return refuse_unsupported("a property without braces");
  size_t end = pattern_.find('}', at_);
  if (end == kNone) return refuse("a property that is not closed");
  std::string_view name = pattern_.substr(at_, end - at_);
  if (name.starts_with("^")) {
    negated = !negated;
    name.remove_prefix(1);
  }
  if (caseless_ && (name == "Lu" || name == "Ll" || name == "Lt")) {
    return refuse_unsupported(fmt::format("\\p{{{}}} in a case-insensitive part", name));
  }
  if (category_mask(name)) {
    *text = category_text(name, negated);
  } else if (std::optional<CodePointSet> script = set_of_script(name)) {
    *text = class_text(negated ? complement(*script) : *script);
  } else {
    return refuse_unsupported(fmt::format("the property {}", quote_text(name)));
  }
  at_ = end + 1;
  return true;
}

bool Translator::escape() {
  ++at_;
  if (at_ == pattern_.size()) return refuse("a backslash at the end");
  char c = pattern_[at_++];
  switch (c) {
    case 'A':
    case 'Z':
    case 'z': anchor(fmt::format("\\{}", c)); return true;
    case 'R': atom("(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])"); return true;
    case 'b': anchor(fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word_class())); return true;
    case 'B': anchor(fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word_class())); return true;
    default: break;
  }
  bool is_set = false;
  std::string text;
  if (!named_set(c, false, &is_set, &text)) return false;
  if (is_set) {
    atom("[" + text + "]");
    return true;
  }
  char32_t code_point = 0;
  return escaped_code_point(c, &code_point) && literal(code_point);
}

bool Translator::class_atom(ClassAtom* atom) {
  if (at_ >= pattern_.size()) return refuse("a character class that is not closed");
  if (next_is("[:")) return refuse_unsupported("a POSIX bracket");
  if (next_is("[")) return refuse_unsupported("a class inside a class");
  if (next_is("&&")) return refuse_unsupported("'&&' inside a class");
  if (!eat("\\")) {
    atom->code_point = next_code_point(pattern_, at_);
  } else {
    if (at_ == pattern_.size()) return refuse("a backslash at the end");
    char c = pattern_[at_++];
    if (!named_set(c, true, &atom->is_set, &atom->set_text)) return false;
    if (c == 'b') {
      atom->code_point = '\b';
    } else if (!atom->is_set && !escaped_code_point(c, &atom->code_point)) {
      return false;
    }
  }
  last_literal_ = 0;
  return atom->is_set || check_caseless(atom->code_point);
}

bool Translator::char_class() {
  std::string text = "[";
  ++at_;
  if (eat("^")) text += '^';
  if (next_is("]")) return refuse_unsupported("an empty class");
  while (!eat("]")) {
    ClassAtom first;
    if (!class_atom(&first)) return false;
    bool range = next_is("-") && pattern_.substr(at_).size() > 1 && pattern_[at_ + 1] != ']';
    if (first.is_set && range) return refuse_unsupported("'-' after a set");
    if (first.is_set) {
      text += first.set_text;
      continue;
    }
    append_literal(text, first.code_point);
    if (!range) continue;
    ++at_;
    ClassAtom last;
    if (!class_atom(&last)) return false;
    if (last.is_set || last.code_point < first.code_point) return refuse("a range that is not ascending");
    text += '-';
    append_literal(text, last.code_point);
    if (next_is("-") && !next_is("-]")) return refuse_unsupported("'-' after a range");
  }
  atom(text + "]");
  return true;
}

}  // namespace

Result<PatternSyntax> translate_pattern(std::string_view pattern) {
  PatternSyntax syntax;
  ENGRAM_ASSIGN_OR_RETURN(syntax.fast, Translator(pattern, false).run());
  ENGRAM_ASSIGN_OR_RETURN(syntax.exact, Translator(pattern, true).run());
  return syntax;
}

std::string escape_literal(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) append_literal(out, next_code_point(text, at));
  return out;
}

}  // namespace engram
