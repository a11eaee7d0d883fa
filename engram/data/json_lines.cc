#include "engram/data/json_lines.h"

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/core/lines.h"
#include "engram/data/compressed_text.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

Result<JsonDocument> read_line(std::string_view line, const std::string& place, const std::string& text_field) {
  if (const size_t at = find_invalid_utf8(line); at != std::string_view::npos)
    return invalid_argument("{}: got a byte 0x{:02x} at {} of the line, wanted UTF-8", place,
                            static_cast<unsigned char>(line[at]), at);
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(line, place));
  Fields fields(json, place);
  JsonDocument document;
  const bool has_text = fields.find(text_field) != nullptr;
  const bool has_parts = fields.find("prompt") != nullptr || fields.find("answer") != nullptr;
  if (json.is_object() && has_text == has_parts)
    return invalid_argument("{}: got {}, wanted \"{}\", or \"prompt\" and \"answer\"", place,
                            has_text ? "both" : "neither", text_field);
  if (has_text) {
    fields.need(text_field, document.text);
  } else {
    std::string answer;
    fields.need("prompt", document.text);
    fields.need("answer", answer);
    if (answer.empty()) fields.fail("answer", "got an empty string, wanted a text");
    document.answer = static_cast<int64_t>(document.text.size());
    document.text += answer;
  }
  ENGRAM_RETURN_IF_ERROR(fields.status());
  return document;
}

}  // namespace

bool is_json_lines_name(std::string_view path) {
  path = without_compression_ending(path);
  return path.ends_with(".jsonl") || path.ends_with(".JSONL");
}

Result<std::vector<JsonDocument>> read_json_lines(std::string_view text, const std::string& name,
                                                  const std::string& text_field) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  std::vector<JsonDocument> documents;
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = take_line(text);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    ENGRAM_ASSIGN_OR_RETURN(JsonDocument document, read_line(line, fmt::format("{}:{}", name, number), text_field));
    if (!strip_white_space(document.text).empty()) documents.push_back(std::move(document));
  }
  return documents;
}

}  // namespace engram
