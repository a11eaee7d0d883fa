// Filters, tests and methods of chat templates, and the limits of one rendering.
//
// The first error stays; behind it every value is undefined. One thread at a time.
#pragma once
#include <string>

#include "engram/core/status.h"
#include "engram/text/template_value.h"

namespace engram {

// Arguments of a call by position and by name.
struct TemplateArguments {
  std::vector<TemplateValue> values;
  std::map<std::string, TemplateValue> named;
  const TemplateValue* at(size_t index, const char* name = "") const {
    if (index < values.size()) return &values[index];
    const auto found = named.find(name);
    return found != named.end() ? &found->second : nullptr;
  }
};

class TemplateFilters {
 protected:
  using Json = nlohmann::ordered_json;
  using Node = TemplateNode;
  using Value = TemplateValue;

  Value fail(const Node& node, const std::string& what) {
    if (status_.ok()) status_ = invalid_argument("chat template: line {}: {}", node.line, what);
    return {};
  }
  bool spend(size_t work) {
    work_ += static_cast<int64_t>(work);
    if (work_ > kMostWork && status_.ok())
      status_ = Status(StatusCode::kResourceExhausted, "chat template: it takes too many steps or makes too much text");
    return status_.ok();
  }
  Value made(Value value) {
    if (value.json) weigh(*value.json, 0);
    return value;
  }
  void weigh(const Json& json, int depth) {
    if (depth > kMostDepth && status_.ok())
      status_ = Status(StatusCode::kResourceExhausted, "chat template: a list inside too many others");
    if (!spend(json.is_string() ? json.get_ref<const std::string&>().size() : 16)) return;
    for (const Json& item : json)
      if (json.is_structured()) weigh(item, depth + 1);
  }
  Value text(std::string value) { return made(Value::of(std::move(value))); }

  // What can stand inside a list.
  Json data(const Node& node, const Value& value) {
    if (!value.json) fail(node, fmt::format("'{}' is undefined", value.name));
    return value.json ? *value.json : Json();
  }
  Value attribute(const Node& node, const Value& object, const std::string& name);
  Value method(const Node& node, const Value& object, const std::string& name, const TemplateArguments& given);
  Value split(const Node& node, const std::string& name, const std::string& self, const std::string* word,
              const Value* limit);
  Value filter(const Node& node, const std::string& name, const Value& value, const TemplateArguments& given);
  Value number(const Node& node, const std::string& name, const Value& value);
  Value letters(const Node& node, const std::string& name, const std::string& self, const TemplateArguments& given);
  Value list_filter(const Node& node, const std::string& name, const Value& value, const TemplateArguments& given);
  bool list_of(const Node& node, const Value& value, Json& items);
  bool test(const Node& node, const std::string& name, const Value& value, const TemplateArguments& given);

  Status status_;

 private:
  static constexpr int64_t kMostWork = 64 << 20;  // bytes made and nodes visited
  static constexpr int kMostDepth = 150;
  int64_t work_ = 0;
};

}  // namespace engram
