#include "engram/data/documents.h"

#include "engram/core/lines.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

bool is_separator(std::string_view line, std::string_view separator) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  if (separator == "auto") return line == "<|endoftext|>" || line == "\f";
  if (separator == "blank-line") return strip_white_space(line).empty();
  return line == separator;
}

std::string_view strip_line_breaks(std::string_view text) {
  const size_t first = text.find_first_not_of("\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of("\r\n") + 1 - first);
}

}  // namespace

std::vector<std::string_view> split_documents(std::string_view text, std::string_view separator) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  std::vector<std::string_view> documents;
  const auto add = [&](std::string_view document) {
    if (!strip_white_space(document).empty()) documents.push_back(strip_line_breaks(document));
  };
  size_t document = 0;  // where the current one begins
  for (std::string_view rest = text; separator != "none" && !rest.empty();) {
    const size_t at = text.size() - rest.size();
    if (!is_separator(take_line(rest), separator)) continue;
    add(text.substr(document, at - document));
    document = text.size() - rest.size();
  }
  add(text.substr(document));
  return documents;
}

std::vector<std::string_view> split_pieces(std::string_view text, size_t min_bytes, const TextCuts& cuts) {
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  for (size_t at = min_bytes; at < text.size();) {
    const size_t line_feed = text.find('\n', at);
    if (line_feed == std::string_view::npos || line_feed + 1 == text.size()) break;
    at = line_feed + 1;
    if (line_feed == begin || !cuts.may_cut(text, at)) continue;
    pieces.push_back(text.substr(begin, at - begin));
    begin = at;
    at += min_bytes;
  }
  pieces.push_back(text.substr(begin));
  return pieces;
}

}  // namespace engram
