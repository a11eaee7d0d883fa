#include "engram/text/template_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engram/text/unicode.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

std::string number_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

// repr() of a string: single quotes unless it holds them alone.
std::string python_quote(std::string_view text) {
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    constexpr std::string_view kPlain = "\n\r\t\\", kEscaped = "nrt\\";
    const size_t known = c < 0x80 ? kPlain.find(static_cast<char>(c)) : std::string_view::npos;
    if (known != std::string_view::npos || c == static_cast<unsigned char>(quote)) {
      (out += '\\') += known != std::string_view::npos ? kEscaped[known] : quote;
    } else if (c < ' ' || c == 0x7F || (c != ' ' && is_unprintable(c))) {
      out += c < 0x100     ? fmt::format("\\x{:02x}", static_cast<uint32_t>(c))
             : c < 0x10000 ? fmt::format("\\u{:04x}", static_cast<uint32_t>(c))
                           : fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    } else {
      append_utf8(out, c);
    }
  }
  return out += quote;
}

std::string python_repr(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "None";
    case Json::value_t::boolean: return value.get<bool>() ? "True" : "False";
    case Json::value_t::string: return python_quote(value.get_ref<const std::string&>());
    case Json::value_t::number_float: return number_text(value.get<double>());
    case Json::value_t::array:
    case Json::value_t::object: break;
    default: return value.dump();
  }
  std::string out;
  for (const auto& [key, item] : value.items()) {
    out += out.empty() ? "" : ", ";
    if (value.is_object()) out += python_quote(key) + ": ";
    out += python_repr(item);
  }
  return value.is_object() ? fmt::format("{{{}}}", out) : fmt::format("[{}]", out);
}

void append_json(std::string& out, const Json& value, int indent, int level) {
  if (value.is_number_float()) {
    std::string text = number_text(value.get<double>());
    out += text == "nan" ? "NaN" : text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text;
    return;
  }
  if (!value.is_structured()) {
    out += value.dump();
    return;
  }
  const char* ends = value.is_object() ? "{}" : "[]";
  const auto line = [&](int depth) {
    return indent < 0 ? std::string() : std::string(1, '\n').append(static_cast<size_t>(indent * depth), ' ');
  };
  out += ends[0];
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    if (!first) out += indent < 0 ? ", " : ",";
    out += line(level + 1);
    first = false;
    if (value.is_object()) out += Json(key).dump() + ": ";
    append_json(out, item, indent, level + 1);
  }
  if (!first) out += line(level);
  out += ends[1];
}

bool is_real(const TemplateValue& value) { return value.json && value.json->is_number_float(); }
std::optional<double> number_of(const TemplateValue& value) {
  if (is_real(value)) return value.json->get<double>();
  if (const auto integer = value.integer()) return static_cast<double>(*integer);
  return std::nullopt;
}

std::optional<TemplateValue> integers(char op, int64_t a, int64_t b) {
  int64_t out = 0;
  bool overflow = false;
  switch (op) {
    case '+': overflow = __builtin_add_overflow(a, b, &out); break;
    case '-': overflow = __builtin_sub_overflow(a, b, &out); break;
    case '*': overflow = __builtin_mul_overflow(a, b, &out); break;
    default:  // towards minus infinity
      if (b == 0 || (b == -1 && a == INT64_MIN)) return std::nullopt;
      out = op == '%' ? ((a % b) + b) % b : a / b - (a % b != 0 && (a < 0) != (b < 0));
  }
  if (overflow) return std::nullopt;
  return TemplateValue::of(out);
}

}  // namespace

std::optional<int64_t> TemplateValue::integer() const {
  if (!json || !(json->is_number_integer() || json->is_boolean())) return std::nullopt;
  if (json->is_number_unsigned() && json->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return json->is_boolean() ? json->get<bool>() : json->get<int64_t>();
}

bool TemplateValue::truth() const {
  if (!json) return !undefined();
  if (json->is_string()) return !string().empty();
  if (json->is_structured()) return !json->empty();
  if (json->is_number_float()) return json->get<double>() != 0;
  return !json->is_null() && (json->is_boolean() ? json->get<bool>() : *json != 0);
}

std::string python_text(const TemplateValue& value) {
  if (!value.json) return "";
  return value.is_string() ? value.string() : python_repr(*value.json);
}

std::string json_text(const Json& value, int indent) {
  std::string out;
  append_json(out, value, indent, 0);
  return out;
}

bool python_equal(const Json& a, const Json& b) {
  const auto number = [](const Json& value) { return value.is_boolean() ? Json(value.get<bool>() ? 1 : 0) : value; };
  if (!a.is_structured() || a.type() != b.type()) return number(a) == number(b);
  if (a.size() != b.size()) return false;
  for (const auto& [key, item] : a.items()) {
    if (a.is_object() && !b.contains(key)) return false;
    if (!python_equal(item, a.is_object() ? b.at(key) : b.at(static_cast<size_t>(&item - &a.front())))) return false;
  }
  return true;
}

std::optional<bool> python_compare(const std::string& op, const TemplateValue& a, const TemplateValue& b) {
  if (op == "==" || op == "!=") {
    const bool equal = a.json && b.json ? python_equal(*a.json, *b.json) : a.undefined() && b.undefined();
    return equal == (op == "==");
  }
  if (op == "in" || op == "not in") {
    bool found = false;
    if (a.is_string() && b.is_string()) {
      found = b.string().find(a.string()) != std::string::npos;
    } else if (b.json && b.json->is_object()) {
      found = a.is_string() && b.json->contains(a.string());
    } else if (b.json && b.json->is_array()) {
      found = a.json && std::any_of(b.json->begin(), b.json->end(),
                                    [&](const Json& item) { return python_equal(*a.json, item); });
    } else if (!b.undefined()) {
      return std::nullopt;
    }
    return found == (op == "in");
  }
  int order = 0;
  if (a.is_string() && b.is_string()) {
    order = a.string().compare(b.string());  // UTF-8 sorts as code points do
  } else {
    const auto left = number_of(a), right = number_of(b);
    if (!left || !right) return std::nullopt;
    order = *left < *right ? -1 : *left > *right;
  }
  if (op == "<" || op == ">=") return (order < 0) == (op == "<");
  return (order > 0) == (op == ">");
}

std::optional<TemplateValue> python_binary(const std::string& op, const TemplateValue& a, const TemplateValue& b) {
  if (op == "~") return TemplateValue::of(python_text(a) + python_text(b));
  if (op == "+" && a.is_string() && b.is_string()) return TemplateValue::of(a.string() + b.string());
  if (op == "+" && a.json && b.json && a.json->is_array() && b.json->is_array()) {
    Json all = *a.json;
    all.insert(all.end(), b.json->begin(), b.json->end());
    return TemplateValue::of(std::move(all));
  }
  const auto left = a.integer(), right = b.integer();
  if (left && right && op != "/") return integers(op[0], *left, *right);
  if (op == "*" && a.is_string() && right) {
    if (*right > 0 && a.string().size() > (size_t{1} << 20) / static_cast<size_t>(*right)) return std::nullopt;
    std::string out;
    for (int64_t i = 0; i < *right; ++i) out += a.string();
    return TemplateValue::of(out);
  }
  const auto x = number_of(a), y = number_of(b);
  if (!x || !y || ((op[0] == '/' || op == "%") && *y == 0)) return std::nullopt;
  switch (op[0]) {
    case '+': return TemplateValue::of(*x + *y);
    case '-': return TemplateValue::of(*x - *y);
    case '*': return TemplateValue::of(*x * *y);
    case '/': return TemplateValue::of(op == "//" ? std::floor(*x / *y) : *x / *y);
    default: return TemplateValue::of(*x - *y * std::floor(*x / *y));
  }
}

std::vector<std::string> characters_of(std::string_view text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    next_code_point(text, at);
    out.emplace_back(text.substr(begin, at - begin));
  }
  return out;
}

std::string python_strip(std::string_view text, const std::string* set, bool left, bool right) {
  const auto goes = [&](char32_t c) {
    if (set == nullptr) return is_white_space(c) || (c >= 0x1C && c <= 0x1F);
    std::string one;
    append_utf8(one, c);
    return set->find(one) != std::string::npos;
  };
  size_t begin = 0, end = text.size();
  for (size_t at = 0; left && begin < end && goes(next_code_point(text, at));) begin = at;
  for (size_t at = end; right && end > begin && goes(previous_code_point(text, at));) end = at;
  return std::string(text.substr(begin, end - begin));
}

}  // namespace engram
