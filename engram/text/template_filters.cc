#include "engram/text/template_filters.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "engram/core/json.h"
#include "engram/text/unicode.h"

namespace engram {

using Json = nlohmann::ordered_json;
using Value = TemplateValue;
using Arguments = TemplateArguments;
using Node = TemplateNode;

namespace {

constexpr std::string_view kDictMethods[] = {"items",  "keys",  "values",     "get",     "copy",    "pop",
                                             "update", "clear", "setdefault", "popitem", "fromkeys"};

}  // namespace

Value TemplateFilters::attribute(const Node& node, const Value& object, const std::string& name) {
  if (object.undefined()) return fail(node, fmt::format("'{}' is undefined", object.name));
  if (object.object) {
    const auto found = object.object->find(name);
    return found != object.object->end() ? found->second : Value{nullptr, nullptr, nullptr, name};
  }
  if (object.json && object.json->is_object()) {
    if (std::find(std::begin(kDictMethods), std::end(kDictMethods), name) != std::end(kDictMethods))
      return fail(node, fmt::format("'.{}' without a call is not supported", name));
    if (const auto found = object.json->find(name); found != object.json->end()) return object.part(*found);
  }
  return {nullptr, nullptr, nullptr, name};
}

Value TemplateFilters::method(const Node& node, const Value& object, const std::string& name, const Arguments& given) {
  if (!status_.ok()) return {};
  if (object.undefined()) return fail(node, fmt::format("'{}' is undefined", object.name));
  const Value* first = given.at(0);
  const Value* second = given.at(1);
  if (object.json && object.json->is_object()) {
    if (name == "items") return filter(node, "items", object, {});
    if (name == "keys") return filter(node, "list", object, {});
    if (name == "get" && first && first->is_string()) {
      const auto found = object.json->find(first->string());
      return found != object.json->end() ? object.part(*found) : second ? *second : Value::of(nullptr);
    }
    if (name == "values") {
      Json out = Json::array();
      for (const auto& [key, value] : object.json->items()) out.push_back(value);
      return made(Value::of(std::move(out)));
    }
  }
  if (!object.is_string()) return fail(node, fmt::format("the method {} is not supported", quote_text(name)));
  const std::string& self = object.string();
  spend(self.size());
  const std::string* word = first && first->is_string() ? &first->string() : nullptr;
  if (name == "strip" || name == "lstrip" || name == "rstrip")
    return text(python_strip(self, word, name != "rstrip", name != "lstrip"));
  if (name == "startswith" || name == "endswith") {
    const auto holds = [&](const std::string& part) {
      return name == "startswith" ? self.starts_with(part) : self.ends_with(part);
    };
    if (word) return Value::of(holds(*word));
    if (!first || !first->json || !first->json->is_array()) return fail(node, fmt::format("{} of this value", name));
    return Value::of(std::any_of(first->json->begin(), first->json->end(),
                                 [&](const Json& part) { return part.is_string() && holds(part.get<std::string>()); }));
  }
  if (name == "split" || name == "rsplit") return split(node, name, self, word, given.at(1, "maxsplit"));
  if (name == "find" && word) {
    const size_t at = self.find(*word);
    return Value::of(at == std::string::npos
                         ? int64_t{-1}
                         : static_cast<int64_t>(characters_of(std::string_view(self).substr(0, at)).size()));
  }
  if (name == "count" && word && !word->empty()) {
    int64_t count = 0;
    for (size_t at = 0; (at = self.find(*word, at)) != std::string::npos; at += word->size()) ++count;
    return Value::of(count);
  }
  if (name == "join" && first) return filter(node, "join", *first, {{object}, {}});
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize" || name == "replace")
    return filter(node, name, object, given);
  return fail(node, fmt::format("the method {} is not supported", quote_text(name)));
}

Value TemplateFilters::split(const Node& node, const std::string& name, const std::string& self,
                             const std::string* word, const Value* limit) {
  int64_t left = limit ? limit->integer().value_or(-1) : -1;
  Json out = Json::array();
  if (word == nullptr) {
    if (left >= 0) return fail(node, "split at white space with a limit is not supported");
    std::string piece;
    for (const std::string& letter : characters_of(self + " ")) {
      const bool blank = python_strip(letter, nullptr, true, true).empty();
      if (!blank) piece += letter;
      if (blank && !piece.empty()) out.push_back(std::exchange(piece, ""));
    }
    return made(Value::of(std::move(out)));
  }
  if (word->empty()) return fail(node, "split at an empty text");
  std::string_view rest = self;
  const bool from_end = name == "rsplit" && left >= 0;
  for (size_t at; left-- != 0 && (at = from_end ? rest.rfind(*word) : rest.find(*word)) != std::string_view::npos;) {
    spend(64);
    if (from_end) {
      out.insert(out.begin(), std::string(rest.substr(at + word->size())));
      rest = rest.substr(0, at);
    } else {
      out.push_back(std::string(rest.substr(0, at)));
      rest = rest.substr(at + word->size());
    }
  }
  out.insert(from_end ? out.begin() : out.end(), std::string(rest));
  return made(Value::of(std::move(out)));
}

Value TemplateFilters::filter(const Node& node, const std::string& name, const Value& value, const Arguments& given) {
  if (!status_.ok()) return {};
  const Value* first = given.at(0);
  if (name == "default" || name == "d") {
    const Value* otherwise = given.at(0, "default_value");
    const Value* boolean = given.at(1, "boolean");
    const bool use = value.undefined() || (boolean && boolean->truth() && !value.truth());
    return !use ? value : otherwise ? *otherwise : Value::of("");
  }
  if (name == "safe" || name == "string") return text(python_text(value));
  if (name == "trim")
    return text(python_strip(python_text(value), first && first->is_string() ? &first->string() : nullptr, true, true));
  if (name == "tojson") {
    const Value* indent = given.at(0, "indent");
    for (const auto& [key, option] : given.named)
      if (key != "indent" && !(key == "ensure_ascii" && !option.truth()))
        return fail(node, fmt::format("tojson with {} is not supported", key));
    if (!value.json) return fail(node, fmt::format("'{}' is undefined", value.name));
    return text(json_text(*value.json,
                          indent ? static_cast<int>(std::clamp<int64_t>(indent->integer().value_or(-1), -1, 16)) : -1));
  }
  if (name == "int" || name == "float" || name == "abs") return number(node, name, value);
  if (name == "length" || name == "count") {
    if (value.is_string()) return Value::of(static_cast<int64_t>(characters_of(value.string()).size()));
    if (value.undefined()) return Value::of(0);
    if (!value.json || !value.json->is_structured()) return fail(node, "the length of this value");
    return Value::of(static_cast<int64_t>(value.json->size()));
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize" || name == "replace")
    return letters(node, name, python_text(value), given);
  if (name == "items") {
    Json out = Json::array();
    if (value.json && value.json->is_object())
      for (const auto& [key, item] : value.json->items()) out.push_back(Json::array({key, item}));
    else if (!value.undefined())
      return fail(node, "the items of this value");
    return made(Value::of(std::move(out)));
  }
  return list_filter(node, name, value, given);
}

Value TemplateFilters::number(const Node& node, const std::string& name, const Value& value) {
  if (name == "abs") {
    const auto result = python_compare("<", value, Value::of(0));
    const auto negative = python_binary("-", Value::of(0), value);
    return !result || !negative ? fail(node, "abs of this value") : *result ? *negative : value;
  }
  double parsed = 0;
  const std::string source = python_strip(python_text(value), nullptr, true, true);
  const char* const end = source.data() + source.size();
  const bool is_number =
      value.json && !value.json->is_null() && std::from_chars(source.data(), end, parsed).ptr == end && !source.empty();
  if (value.integer()) parsed = static_cast<double>(*value.integer());
  if (name == "float") return Value::of(is_number || value.integer() ? parsed : 0.0);
  if (value.integer()) return Value::of(*value.integer());
  return Value::of(is_number && std::abs(parsed) < 9e18 ? static_cast<int64_t>(parsed) : int64_t{0});
}

Value TemplateFilters::letters(const Node& node, const std::string& name, const std::string& self,
                               const Arguments& given) {
  if (name == "replace") {
    const Value* old = given.at(0);
    const Value* now = given.at(1);
    if (!old || !now || given.values.size() > 2 || python_text(*old).empty())
      return fail(node, "this form of replace is not supported");
    const std::string from = python_text(*old), to = python_text(*now);
    std::string out;
    size_t at = 0;
    for (size_t found; (found = self.find(from, at)) != std::string::npos && spend(to.size()); at = found + from.size())
      out.append(self, at, found - at).append(to);
    return text(out.append(self, at));
  }
  std::string out = lowercase(self);
  if (name == "lower") return text(std::move(out));
  bool upper = true;
  for (char& c : out) {
    if (static_cast<unsigned char>(c) >= 0x80)
      return fail(node, fmt::format("{} of a text outside ASCII is not supported", name));
    const bool letter = c >= 'a' && c <= 'z';
    if (letter && upper) c = static_cast<char>(c - 'a' + 'A');
    upper = name == "upper" || (name == "title" && !letter && !(c >= 'A' && c <= 'Z'));
  }
  return text(std::move(out));
}

Value TemplateFilters::list_filter(const Node& node, const std::string& name, const Value& value,
                                   const Arguments& given) {
  Json items;
  if (!list_of(node, value, items)) return {};
  if (name == "list") return made(Value::of(std::move(items)));
  if (name == "first" || name == "last")
    return items.empty() ? Value{} : Value::of(name == "first" ? items.front() : items.back());
  if (name == "reverse") {
    std::reverse(items.begin(), items.end());
    if (!value.is_string()) return made(Value::of(std::move(items)));
  }
  if (name == "join" || name == "reverse") {
    const Value* separator = name == "join" ? given.at(0, "d") : nullptr;
    const Value* key = given.at(1, "attribute");
    std::string out;
    for (const Json& item : items) {
      if (separator && &item != &items.front()) out += python_text(*separator);
      out += python_text(key ? attribute(node, Value::of(item), python_text(*key)) : Value::of(item));
      if (!spend(out.size() / 1024)) return {};
    }
    return text(std::move(out));
  }
  const bool by_attribute = name == "selectattr" || name == "rejectattr";
  Arguments rest{{given.values.begin() + std::min<std::ptrdiff_t>(by_attribute ? 2 : 1, std::ssize(given.values)),
                  given.values.end()},
                 {}};
  const Value* key = by_attribute ? given.at(0) : name == "map" ? given.at(99, "attribute") : nullptr;
  const Value* rule = given.at(by_attribute ? 1 : 0);
  if ((by_attribute && !key) || (name == "map" && !key && !rule))
    return fail(node, fmt::format("this form of {} is not supported", name));
  Json out = Json::array();
  for (const Json& item : items) {
    const Value one = key ? attribute(node, Value::of(item), python_text(*key)) : Value::of(item);
    if (!spend(16)) return {};
    if (name == "map") {
      out.push_back(data(node, key ? one : filter(node, python_text(*rule), one, rest)));
    } else if ((rule ? test(node, python_text(*rule), one, rest) : one.truth()) == name.starts_with("select")) {
      out.push_back(item);
    }
  }
  return made(Value::of(std::move(out)));
}

// What a loop goes over.
bool TemplateFilters::list_of(const Node& node, const Value& value, Json& items) {
  items = Json::array();
  if (value.undefined()) return status_.ok();
  if (value.json && value.json->is_array()) {
    items = *value.json;
  } else if (value.json && value.json->is_object()) {
    for (const auto& [key, item] : value.json->items()) items.push_back(key);
  } else if (value.is_string()) {
    for (std::string& letter : characters_of(value.string())) items.push_back(std::move(letter));
  } else {
    fail(node, "this value is not a list");
  }
  return spend(16 * items.size());
}

bool TemplateFilters::test(const Node& node, const std::string& name, const Value& value, const Arguments& given) {
  const Json none;
  const Json& json = value.json ? *value.json : none;
  if (name == "defined" || name == "undefined") return value.undefined() == (name == "undefined");
  if (name == "none") return value.json && json.is_null();
  if (name == "string") return json.is_string();
  if (name == "number") return json.is_number() || json.is_boolean();
  if (name == "integer") return json.is_number_integer();
  if (name == "float") return json.is_number_float();
  if (name == "boolean") return json.is_boolean();
  if (name == "true" || name == "false") return json.is_boolean() && json.get<bool>() == (name == "true");
  if (name == "mapping") return json.is_object();
  if (name == "iterable" || name == "sequence") return json.is_structured() || json.is_string() || value.undefined();
  if (name == "odd" || name == "even") return value.integer() && (*value.integer() % 2 == 0) == (name == "even");
  const Value* first = given.at(0);
  const std::string op = name == "in"                                        ? "in"
                         : name == "ne"                                      ? "!="
                         : name == "equalto" || name == "eq" || name == "==" ? "=="
                                                                             : "";
  if (op.empty() || first == nullptr) fail(node, fmt::format("the test {} is not supported", quote_text(name)));
  return first != nullptr && !op.empty() && python_compare(op, value, *first).value_or(false);
}

}  // namespace engram
