#include "engram/train/toml_fields.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engram/core/json.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr char kOverrideName[] = "override";

// A value as it may stand in a message: what it is, and short.
std::string describe_node(const toml::node& node) {
  if (auto value = node.value_exact<int64_t>()) return fmt::format("{}", *value);
  if (auto value = node.value_exact<double>()) return fmt::format("{}", *value);
  if (auto value = node.value_exact<bool>()) return *value ? "true" : "false";
  if (auto value = node.value_exact<std::string>()) return quote_text(*value);
  if (node.is_array()) return "an array";
  if (node.is_table()) return "a table";
  return "a date or time";
}

std::string describe_range(double low, double high) {
  if (std::isinf(high)) return fmt::format("at least {}", low);
  return fmt::format("in [{}, {}]", low, high);
}

// Moves every value of `from` into `into`; tables on both sides are merged.
void merge(toml::table& into, toml::table& from) {
  for (auto&& [key, value] : from) {
    toml::node* old = into.get(key.str());
    if (old && old->is_table() && value.is_table()) {
      merge(*old->as_table(), *value.as_table());
    } else {
      std::move(value).visit(
          [&, name = std::string(key.str())](auto&& node) { into.insert_or_assign(name, std::move(node)); });
    }
  }
}

// Levenshtein distance; keys are short.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

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

}  // namespace

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

Status apply_override(toml::table& root, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    return invalid_argument("override {}: wanted section.key=value", quote_text(assignment));
  if (assignment.find_first_of("\r\n") != std::string::npos)
    return invalid_argument("override {}: wanted one line", quote_text(assignment));
  const std::string key = assignment.substr(0, equals), value = assignment.substr(equals + 1);
  Result<toml::table> parsed = parse_toml(assignment, kOverrideName);
  if (!parsed.ok()) parsed = parse_toml(key + " = " + toml_text(value), kOverrideName);
  if (!parsed.ok()) return invalid_argument("override {}: wanted section.key=value", quote_text(assignment));
  merge(root, *parsed);
  return Status();
}

std::string location_of(const toml::node& node, const std::string& name) {
  const toml::source_region& source = node.source();
  if (source.path && *source.path == kOverrideName) return kOverrideName;
  if (source.begin.line == 0) return name;
  return fmt::format("{}:{}", name, source.begin.line);
}

const std::string* nearest_word(std::string_view word, const std::set<std::string>& known) {
  const std::string* best = nullptr;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(word.substr(0, 60), candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = &candidate;
    }
  }
  return best;
}

std::string suggestion(std::string_view word, const std::set<std::string>& known, const std::string& prefix) {
  const std::string* best = nearest_word(word, known);
  return best ? fmt::format("; did you mean {}{}{}?", prefix, prefix.empty() ? "" : ".", *best) : std::string();
}

Result<nlohmann::json> toml_to_json(const toml::node& node, const std::string& name) {
  if (auto value = node.value_exact<int64_t>()) return nlohmann::json(*value);
  if (auto value = node.value_exact<bool>()) return nlohmann::json(*value);
  if (auto value = node.value_exact<std::string>()) return nlohmann::json(*value);
  if (auto value = node.value_exact<double>(); value && std::isfinite(*value)) return nlohmann::json(*value);
  if (const toml::array* array = node.as_array()) {
    nlohmann::json json = nlohmann::json::array();
    for (const toml::node& element : *array) {
      ENGRAM_ASSIGN_OR_RETURN(nlohmann::json value, toml_to_json(element, name));
      json.push_back(std::move(value));
    }
    return json;
  }
  if (const toml::table* table = node.as_table()) {
    nlohmann::json json = nlohmann::json::object();
    for (auto&& [key, element] : *table) {
      ENGRAM_ASSIGN_OR_RETURN(nlohmann::json value, toml_to_json(element, name));
      json[std::string(key.str())] = std::move(value);
    }
    return json;
  }
  return invalid_argument("{}: got {}, wanted a finite number, a string, true or false, an array or a table",
                          location_of(node, name), describe_node(node));
}

std::string toml_text(bool value) { return value ? "true" : "false"; }
std::string toml_text(int64_t value) { return fmt::format("{}", value); }

std::string toml_text(double value) {
  std::string text = fmt::format("{}", value);  // the shortest text that reads back exactly
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string toml_text(const std::string& value) {
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

std::string toml_text(const std::vector<std::string>& value) {
  std::string text = "[";
  for (const std::string& element : value) text += (text.size() > 1 ? ", " : "") + toml_text(element);
  return text + "]";
}

TomlReader::TomlReader(const toml::table* table, std::string prefix, std::string name)
    : table_(table), prefix_(std::move(prefix)), name_(std::move(name)) {}

const toml::node* TomlReader::find(const char* key) {
  known_.insert(key);
  return status_.ok() && table_ ? table_->get(key) : nullptr;
}

void TomlReader::fail(const toml::node& node, const std::string& key, const std::string& wanted) {
  status_ = invalid_argument("{}: {}.{}: got {}, wanted {}", location_of(node, name_), prefix_, key,
                             describe_node(node), wanted);
}

void TomlReader::integer(const char* key, int64_t& value, int64_t low, int64_t high) {
  const toml::node* node = find(key);
  if (!node) return;
  const auto got = node->value_exact<int64_t>();
  if (got && *got >= low && *got <= high) {
    value = *got;
  } else {
    fail(*node, key, fmt::format("an integer in [{}, {}]", low, high));
  }
}

void TomlReader::number(const char* key, double& value, double low, double high) {
  const toml::node* node = find(key);
  if (!node) return;
  std::optional<double> got = node->value_exact<double>();
  if (const auto integer = node->value_exact<int64_t>()) got = static_cast<double>(*integer);
  if (got && std::isfinite(*got) && *got >= low && *got <= high) {
    value = *got;
  } else {
    fail(*node, key, "a number " + describe_range(low, high));
  }
}

void TomlReader::text(const char* key, std::string& value) {
  const toml::node* node = find(key);
  if (!node) return;
  if (auto got = node->value_exact<std::string>()) {
    value = std::move(*got);
  } else {
    fail(*node, key, "a string");
  }
}

void TomlReader::texts(const char* key, std::vector<std::string>& value) {
  const toml::node* node = find(key);
  if (!node) return;
  value.clear();
  if (auto got = node->value_exact<std::string>()) {
    value.push_back(std::move(*got));
    return;
  }
  const toml::array* array = node->as_array();
  if (!array) return fail(*node, key, "an array of strings");
  for (const toml::node& element : *array) {
    auto got = element.value_exact<std::string>();
    if (!got) return fail(element, fmt::format("{}[{}]", key, value.size()), "a string");
    value.push_back(std::move(*got));
  }
}

Status TomlReader::finish(std::string (*elsewhere)(std::string_view key)) {
  ENGRAM_RETURN_IF_ERROR(status_);
  if (!table_) return Status();
  for (auto&& [key, node] : *table_) {
    const std::string text(key.str());
    if (known_.contains(text)) continue;
    std::string hint = suggestion(text, known_, prefix_);
    if (hint.empty() && elsewhere) hint = elsewhere(text);
    return invalid_argument("{}: unknown key {}{}", location_of(node, name_),
                            quote_text(prefix_.empty() ? text : prefix_ + "." + text), hint);
  }
  return Status();
}

void TomlWriter::json(const nlohmann::ordered_json& object) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) continue;
    if (value.is_number_float()) {
      add(key, toml_text(value.get<double>()));
    } else {
      add(key, value.dump());  // integers, booleans, strings without controls and their arrays read alike in TOML
    }
  }
  for (const auto& [key, value] : object.items())
    if (value.is_object()) TomlWriter(entries_, prefix_ + "." + key).json(value);
}

}  // namespace engram
