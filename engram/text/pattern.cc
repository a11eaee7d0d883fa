#include "engram/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string>
#include <utility>

#include "engram/core/json.h"
#include "engram/text/pattern_syntax.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

template <auto free_function>
struct Freer {
  void operator()(auto* pointer) const { free_function(pointer); }
};
using Code = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>>;

constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr uint32_t kMatchLimit = 20'000'000;   // backtracking steps of one match: about a second
constexpr uint32_t kHeapLimitKib = 256 << 10;  // of the interpreter, which runs when the JIT's stack is too small
constexpr size_t kJitStackBytes = 8 << 20;     // grows to this

pcre2_jit_stack* jit_stack_of_thread(void*) {
  thread_local JitStack stack(pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr));
  return stack.get();
}

pcre2_match_data* match_data_of_thread() {
  thread_local MatchData data(pcre2_match_data_create(1, nullptr));
  return data.get();
}

Result<Code> compile_code(const std::string& text, std::string_view source) {
  CompileContext context(pcre2_compile_context_create(nullptr));
  ENGRAM_CHECK(context != nullptr, "out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP, &error,
                          &offset, context.get()));
  if (!code) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return invalid_argument("pattern {}: {}", quote_text(source, 100), reinterpret_cast<const char*>(message));
  }
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without a JIT the interpreter runs
  return code;
}

}  // namespace

struct Pattern::Impl {
  std::string source;
  Code fast, exact;
  MatchContext context;

  // 1 and the span, 0 for no match, PCRE2's error otherwise.
  int find(const pcre2_code* code, std::string_view text, size_t from, Span* span) const {
    pcre2_match_data* data = match_data_of_thread();
    auto match = [&](uint32_t options) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, data, context.get());
    };
    int found = match(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) return 0;
    if (found < 0) return found;
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data);
    *span = {ends[0], ends[1]};
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
  ENGRAM_ASSIGN_OR_RETURN(PatternSyntax syntax, translate_pattern(regular_expression));
  auto impl = std::make_unique<Impl>();
  impl->source = regular_expression;
  ENGRAM_ASSIGN_OR_RETURN(impl->fast, compile_code(syntax.fast, regular_expression));
  ENGRAM_ASSIGN_OR_RETURN(impl->exact, compile_code(syntax.exact, regular_expression));
  impl->context.reset(pcre2_match_context_create(nullptr));
  ENGRAM_CHECK(impl->context != nullptr, "out of memory");
  pcre2_set_match_limit(impl->context.get(), kMatchLimit);
  pcre2_set_heap_limit(impl->context.get(), kHeapLimitKib);
  pcre2_jit_stack_assign(impl->context.get(), jit_stack_of_thread, nullptr);
  return Pattern(std::move(impl));
}

Result<Pattern> Pattern::compile_literal(std::string_view text) {
  if (text.empty()) return invalid_argument("pattern: the empty string is not supported");
  return compile(escape_literal(text));
}

Status Pattern::slice(std::string_view text, bool text_has_later_code_point, std::vector<Match>& slices) const {
  const pcre2_code* code = text_has_later_code_point ? impl_->exact.get() : impl_->fast.get();
  size_t from = 0, covered = 0;
  bool after_match = false;  // an empty match directly behind another does not count
  while (from <= text.size()) {
    Span span{};
    int found = impl_->find(code, text, from, &span);
    if (found < 0) {
      return Status(StatusCode::kResourceExhausted,
                    fmt::format("pattern {}: gives up at byte {} of a text of {} bytes (too much backtracking)",
                                quote_text(impl_->source, 100), from, text.size()));
    }
    if (found == 0) break;
    if (span.begin == span.end && after_match && span.begin == covered) {
      if (from >= text.size()) break;
      next_code_point(text, from);
      continue;
    }
    if (span.begin != covered) slices.push_back({{covered, span.begin}, false});
    slices.push_back({span, true});
    covered = from = span.end;
    after_match = true;
  }
  if (covered != text.size()) slices.push_back({{covered, text.size()}, false});
  return Status();
}

}  // namespace engram
