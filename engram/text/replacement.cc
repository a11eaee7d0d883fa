#include "engram/text/replacement.h"

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/text/unicode.h"

namespace engram {

Result<Replacement> Replacement::parse(const nlohmann::json& value, const std::string& where) {
  ENGRAM_ASSIGN_OR_RETURN(std::string content, read_field<std::string>(value, "content", where));
  ENGRAM_ASSIGN_OR_RETURN(Pattern pattern, Pattern::parse(value, where));
  return Replacement(std::move(pattern), std::move(content));
}

Result<std::string> Replacement::apply(std::string_view text, size_t limit) const {
  std::string out;
  size_t covered = 0;
  ENGRAM_RETURN_IF_ERROR(pattern_->search(text, !needs_stand_ins(text), [&](Span span) {
    out.append(text.substr(covered, span.begin - covered)).append(content_);
    covered = span.end;
    return out.size() <= limit;
  }));
  return out.append(text.substr(covered));
}

}  // namespace engram
