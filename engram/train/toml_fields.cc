#include "engram/train/toml_fields.h"

#include <toml++/toml.h>

#include "engram/core/json.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr char kOverrideName[] = "override";

// The line of the first byte that is not ASCII, 0 when there is none. Lines that hold nothing but a comment may have
// any text, unless a multi-line string could make them something else. toml++ 3.3 runs into undefined behaviour on
// such characters at many places, so they do not reach it; strings spell them as \u00E9.
size_t line_of_stray_byte(std::string_view text) {
  const bool comments_are_comments =
      text.find("\"\"\"") == std::string_view::npos && text.find("'''") == std::string_view::npos;
  size_t line = 1;
  bool blank = true, comment = false;  // nothing but blanks so far; behind a # that only blanks precede
  for (const char c : text) {
    if (c == '\n') {
      ++line;
      blank = true;
      comment = false;
    } else if (static_cast<unsigned char>(c) >= 0x80 && !comment) {
      return line;
    } else if (blank && c == '#') {
      comment = comments_are_comments;
      blank = false;
    } else if (c != ' ' && c != '\t') {
      blank = false;
    }
  }
  return 0;
}

Result<toml::table> parse_toml(std::string_view text, const std::string& name) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // the byte-order mark that editors of Windows write
  if (const size_t line = line_of_stray_byte(text); line > 0)
    return invalid_argument(
        "{}:{}: not TOML: got a character that is not ASCII outside comment lines; a string spells it as \\u00E9", name,
        line);
  toml::parse_result result = toml::parse(text, name);
  if (result) return std::move(result).table();
  const toml::parse_error& error = result.error();
  return invalid_argument("{}:{}:{}: not TOML: {}", name, error.source().begin.line, error.source().begin.column,
                          quote_text(error.description(), 160));
}

// Adds `node`, which is at `path`, to the document.
Status convert(const toml::node& node, const std::string& name, const std::string& path, FieldSource& source,
               nlohmann::json& json) {
  const auto line = node.source().begin.line;
  const std::string place = name == kOverrideName || line == 0 ? name : fmt::format("{}:{}", name, line);
  if (!node.is_table()) {
    source.places.insert_or_assign(path, place);
  } else if (!path.empty()) {
    source.places.emplace(path, place);  // an override leaves a section where it is
  }
  if (const toml::table* table = node.as_table()) {
    if (!json.is_object()) json = nlohmann::json::object();
    for (auto&& [key, element] : *table) {
      const std::string word(key.str());
      ENGRAM_RETURN_IF_ERROR(convert(element, name, path.empty() ? word : path + "." + word, source, json[word]));
    }
  } else if (const toml::array* array = node.as_array()) {
    json = nlohmann::json::array();
    for (size_t i = 0; i < array->size(); ++i)
      ENGRAM_RETURN_IF_ERROR(convert((*array)[i], name, fmt::format("{}[{}]", path, i), source, json.emplace_back()));
  } else if (const auto integer = node.value_exact<int64_t>()) {
    json = *integer;
  } else if (const auto number = node.value_exact<double>()) {
    json = *number;
  } else if (const auto flag = node.value_exact<bool>()) {
    json = *flag;
  } else if (const auto text = node.value_exact<std::string>()) {
    json = *text;
  } else {
    return invalid_argument("{}: {}: got a date or time, wanted a number, a string, true or false, an array or a table",
                            place, path);
  }
  return Status();
}

std::string quoted(const std::string& value) {
  const bool utf8 = find_invalid_utf8(value) == std::string::npos;
  std::string text = "\"";
  for (size_t i = 0; i < value.size();) {
    const auto c = static_cast<unsigned char>(value[i]);
    const auto code_point = static_cast<uint32_t>(utf8 ? next_code_point(value, i) : value[i++]);
    if (c == '"' || c == '\\') {
      text += '\\';
      text += static_cast<char>(c);
    } else if (c >= 0x20 && c < 0x7f) {
      text += static_cast<char>(c);
    } else if (code_point > 0xFFFF && utf8) {
      text += fmt::format("\\U{:08X}", code_point);
    } else if (c < 0x80 || utf8) {
      text += fmt::format("\\u{:04X}", code_point);
    } else {
      text += static_cast<char>(c);  // not UTF-8: the reader refuses it
    }
  }
  return text + "\"";
}

std::string toml_text(const nlohmann::ordered_json& value) {
  if (value.is_string()) return quoted(value.get<std::string>());
  if (value.is_number_float()) {
    std::string text = fmt::format("{}", value.get<double>());  // the shortest text that reads back exactly
    return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
  }
  if (!value.is_array() || value.empty() || !value.front().is_string()) return value.dump();
  std::string text = "[";
  for (const auto& element : value) text += (text.size() > 1 ? ", " : "") + toml_text(element);
  return text + "]";
}

void add_entries(const nlohmann::ordered_json& object, const std::string& prefix,
                 std::vector<std::pair<std::string, std::string>>& entries) {
  const auto holds_tables = [](const auto& value) {
    return value.is_array() && !value.empty() && value[0].is_object();
  };
  for (const auto& [key, value] : object.items())
    if (!value.is_object() && !holds_tables(value)) entries.emplace_back(prefix + key, toml_text(value));
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) add_entries(value, prefix + key + ".", entries);
    for (size_t i = 0; holds_tables(value) && i < value.size(); ++i)
      add_entries(value[i], fmt::format("{}{}[{}].", prefix, key, i), entries);
  }
}

}  // namespace

Result<TomlDocument> TomlDocument::parse(std::string_view text, const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(const toml::table table, parse_toml(text, name));
  TomlDocument document;
  document.source.name = name;
  ENGRAM_RETURN_IF_ERROR(convert(table, name, "", document.source, document.root));
  return document;
}

Status TomlDocument::set(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    return invalid_argument("override {}: wanted section.key=value", quote_text(assignment));
  if (assignment.find_first_of("\r\n") != std::string::npos)
    return invalid_argument("override {}: wanted one line", quote_text(assignment));
  Result<toml::table> parsed = parse_toml(assignment, kOverrideName);
  if (!parsed.ok())
    parsed = parse_toml(assignment.substr(0, equals) + " = " + quoted(assignment.substr(equals + 1)), kOverrideName);
  if (!parsed.ok()) return invalid_argument("override {}: wanted section.key=value", quote_text(assignment));
  return convert(*parsed, kOverrideName, "", source, root);
}

std::vector<std::pair<std::string, std::string>> toml_entries(const nlohmann::ordered_json& object) {
  std::vector<std::pair<std::string, std::string>> entries;
  add_entries(object, "", entries);
  return entries;
}

}  // namespace engram
