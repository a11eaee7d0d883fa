// Values of a chat template, as Python's Jinja sees them.
//
// Data are JSON and shared: a part keeps the whole alive. Pure functions; what does not fit its types is nullopt.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/text/template_node.h"

namespace engram {

struct TemplateValue {
  using Json = nlohmann::ordered_json;
  std::shared_ptr<const Json> json;                              // data
  std::shared_ptr<std::map<std::string, TemplateValue>> object;  // a namespace, a loop
  const TemplateNode* macro = nullptr;
  std::string name = {};  // of an undefined value, for messages

  static TemplateValue of(Json value) { return {std::make_shared<const Json>(std::move(value)), nullptr}; }
  TemplateValue part(const Json& inside) const { return {std::shared_ptr<const Json>(json, &inside), nullptr}; }
  bool undefined() const { return !json && !object && macro == nullptr; }
  bool is_string() const { return json && json->is_string(); }
  const std::string& string() const { return json->get_ref<const std::string&>(); }  // REQUIRES: is_string()
  std::optional<int64_t> integer() const;                                            // of an integer, or of a boolean
  bool truth() const;
};

std::string python_text(const TemplateValue& value);  // str()
std::string json_text(const nlohmann::ordered_json& value,
                      int indent);  // json.dumps, without ensure_ascii; indent -1: one line
bool python_equal(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b);
std::optional<bool> python_compare(const std::string& op, const TemplateValue& a, const TemplateValue& b);
std::optional<TemplateValue> python_binary(const std::string& op, const TemplateValue& a, const TemplateValue& b);
// The code points of a text, one string each.
std::vector<std::string> characters_of(std::string_view text);
// `text` without the white space, or the characters of `set`, at its sides.
std::string python_strip(std::string_view text, const std::string* set, bool left, bool right);

}  // namespace engram
