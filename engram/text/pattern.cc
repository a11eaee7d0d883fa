#include "engram/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <oniguruma.h>
#include <pcre2.h>

#include <string>
#include <utility>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

template <auto free_function>
struct Freer {
  void operator()(auto* pointer) const { free_function(pointer); }
};
using FastCode = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;
using FastMatch = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using Code = std::unique_ptr<OnigRegexType, Freer<onig_free>>;

constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr unsigned long kMaxRetries = 10'000'000;    // backtracking steps of one search: about a second
constexpr unsigned int kMaxStackEntries = 16 << 20;  // of backtracking

// What a thread needs to search.
struct Search {
  OnigRegion* region = onig_region_new();
  OnigMatchParam* parameters = onig_new_match_param();
  FastMatch fast{pcre2_match_data_create(1, nullptr)};
  Search() {
    ENGRAM_CHECK(region != nullptr && parameters != nullptr && fast != nullptr, "out of memory");
    onig_set_retry_limit_in_match_of_match_param(parameters, kMaxRetries);
    onig_set_retry_limit_in_search_of_match_param(parameters, kMaxRetries);
    onig_set_match_stack_limit_size_of_match_param(parameters, kMaxStackEntries);
  }
  ~Search() {
    onig_region_free(region, 1);
    onig_free_match_param(parameters);
  }
};

// [[:punct:]] has the symbols, too, since Oniguruma 6.9.9, which `tokenizers` holds; Debian's is older.
std::string with_symbols(std::string_view pattern) {
  std::string out(pattern);
  for (const auto& [old, now] : {std::pair("[:punct:]", R"([\p{P}\p{S}])"), {"[:^punct:]", R"([^\p{P}\p{S}])"}})
    for (size_t at = 0; (at = out.find(old, at)) != std::string::npos;)
      out.replace(at, std::string_view(old).size(), now);
  return out;
}

Result<Code> compile_code(std::string_view source) {
  static const int ready = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    return onig_initialize(encodings, 1);
  }();
  ENGRAM_CHECK(ready == ONIG_NORMAL, "onig_initialize: {}", ready);
  const std::string text = with_symbols(source);
  const auto* begin = reinterpret_cast<const OnigUChar*>(text.data());
  OnigErrorInfo info{};
  regex_t* code = nullptr;
  const int result =
      onig_new(&code, begin, begin + text.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8, ONIG_SYNTAX_ONIGURUMA, &info);
  if (result == ONIG_NORMAL) return Code(code);
  OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN] = {};
  onig_error_code_to_str(message, result, &info);
  return invalid_argument("pattern {}: {}", quote_text(source, 100), reinterpret_cast<const char*>(message));
}

// Null where the two engines may differ.
FastCode compile_fast(std::string_view source) {
  if (!is_published_pattern(source)) return nullptr;
  int error = 0;
  size_t offset = 0;
  FastCode code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(), PCRE2_UTF | PCRE2_UCP, &error,
                              &offset, nullptr));
  if (code && pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE) != 0) code.reset();
  return code;
}

}  // namespace

struct Pattern::Impl {
  std::string source;
  bool literal = false;
  Code code;
  FastCode fast;

  // Whether there is a match in text[from, end), and where. 0: none; below 0: Oniguruma's error.
  int find(std::string_view text, size_t from, bool plain, Span* span) const {
    if (literal) {
      const size_t at = text.find(source, from);
      *span = {at, at + source.size()};
      return at != std::string_view::npos;
    }
    thread_local Search search;
    if (fast && plain) {
      const int found = pcre2_match(fast.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                    PCRE2_NO_UTF_CHECK, search.fast.get(), nullptr);
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(search.fast.get());
      *span = {ends[0], ends[1]};
      if (found >= 0 || found == PCRE2_ERROR_NOMATCH) return found >= 0;
    }  // where it gives up, the other tries
    const auto* begin = reinterpret_cast<const OnigUChar*>(text.data());
    const OnigUChar* end = begin + text.size();
    const int found = onig_search_with_param(code.get(), begin, end, begin + from, end, search.region, ONIG_OPTION_NONE,
                                             search.parameters);
    if (found == ONIG_MISMATCH) return 0;
    if (found < 0) return found;
    *span = {static_cast<size_t>(search.region->beg[0]), static_cast<size_t>(search.region->end[0])};
    return 1;
  }
};

Pattern::Pattern(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

Result<Pattern> Pattern::compile(std::string_view regular_expression) {
  if (regular_expression.size() > kMaxPatternBytes) {
    return invalid_argument("pattern of {} bytes, wanted at most {}", regular_expression.size(), kMaxPatternBytes);
  }
  if (needs_stand_ins(regular_expression)) {
    return invalid_argument("pattern {}: a character newer than Oniguruma {}", quote_text(regular_expression, 100),
                            onig_version());
  }
  auto impl = std::make_unique<Impl>();
  impl->source = regular_expression;
  ENGRAM_ASSIGN_OR_RETURN(impl->code, compile_code(regular_expression));
  impl->fast = compile_fast(regular_expression);
  return Pattern(std::move(impl));
}

Result<Pattern> Pattern::compile_literal(std::string_view text) {
  if (text.empty()) return invalid_argument("pattern: the empty string is not supported");
  auto impl = std::make_unique<Impl>();
  impl->source = text;
  impl->literal = true;
  return Pattern(std::move(impl));
}

Result<Pattern> Pattern::parse(const nlohmann::json& part, const std::string& where) {
  const nlohmann::json* pattern = json_find(part, "pattern");
  if (pattern == nullptr) return invalid_argument("{}: no \"pattern\"", where);
  const bool regex = json_find(*pattern, "Regex") != nullptr;
  ENGRAM_ASSIGN_OR_RETURN(std::string text, read_field<std::string>(*pattern, regex ? "Regex" : "String", where));
  Result<Pattern> compiled = regex ? compile(text) : compile_literal(text);
  if (!compiled.ok()) return compiled.status().with_context(where);
  return compiled;
}

LineFeedCut Pattern::line_feed_cut() const {
  return impl_->literal ? line_feed_cut_of_literal(impl_->source) : engram::line_feed_cut(impl_->source);
}

Status Pattern::search(std::string_view text, bool plain, const std::function<bool(Span)>& found) const {
  std::string stand_ins;  // of the same length
  if (!plain && !impl_->literal) text = stand_ins = with_stand_ins(text);
  size_t from = 0;
  bool after_match = false;  // an empty match directly behind another does not count
  for (size_t last = 0; from <= text.size();) {
    Span span{};
    const int result = impl_->find(text, from, plain, &span);
    if (result < 0) {
      return Status(StatusCode::kResourceExhausted,
                    fmt::format("pattern {}: gives up at byte {} of a text of {} bytes (too much backtracking)",
                                quote_text(impl_->source, 100), from, text.size()));
    }
    if (result == 0) break;
    if (span.begin == span.end && after_match && span.begin == last) {
      if (from >= text.size()) break;
      next_code_point(text, from);
      continue;
    }
    if (!found(span)) break;
    last = from = span.end;
    after_match = true;
  }
  return Status();
}

Status Pattern::slice(std::string_view text, bool plain, std::vector<Match>& slices) const {
  size_t covered = 0;
  ENGRAM_RETURN_IF_ERROR(search(text, plain, [&](Span span) {
    if (span.begin != covered) slices.push_back({{covered, span.begin}, false});
    slices.push_back({span, true});
    covered = span.end;
    return true;
  }));
  if (covered != text.size()) slices.push_back({{covered, text.size()}, false});
  return Status();
}

}  // namespace engram
