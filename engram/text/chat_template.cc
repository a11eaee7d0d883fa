#include "engram/text/chat_template.h"

#include <algorithm>
#include <utility>

#include "engram/core/json.h"
#include "engram/text/template_filters.h"
#include "engram/text/template_parser.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;
using Kind = TemplateNode::Kind;
using Node = TemplateNode;
using Value = TemplateValue;
using Arguments = TemplateArguments;

constexpr int kMaxCalls = 50;
constexpr int kMostLevels = 500;  // of expressions, through macros
// Walks the tree and writes.
class Renderer : TemplateFilters {
 public:
  Renderer(const Json& variables, std::time_t now) : now_(now), scopes_(1) {
    for (const char* key : {"tools", "documents"}) scopes_[0][key] = Value::of(nullptr);  // as transformers calls it
    for (const auto& [key, value] : variables.items()) scopes_[0][key] = Value::of(value);
  }
  Result<std::string> run(const Node& body) {
    execute(body);
    if (!status_.ok()) return status_;
    return std::move(out_);
  }

 private:
  enum class Flow { kOn, kBreak, kContinue };

  Value lookup(const std::string& name) const {
    for (size_t i = scopes_.size(); i-- > 0;) {
      if (i + 1 < base_ && i > 0) continue;  // a macro sees its own scopes and the outermost
      const auto found = scopes_[i].find(name);
      if (found != scopes_[i].end()) return found->second;
    }
    return {nullptr, nullptr, nullptr, name};
  }

  // Expressions.
  Value evaluate(const Node& node) {
    if (!spend(1)) return {};
    if (levels_ >= kMostLevels) return fail(node, fmt::format("work nested deeper than {}", kMostLevels));
    ++levels_;
    Value value = evaluate_node(node);
    --levels_;
    return value;
  }
  Value evaluate_node(const Node& node) {
    switch (node.kind) {
      case Kind::kLiteral: return Value::of(node.literal);
      case Kind::kName: return lookup(node.text);
      case Kind::kList:
      case Kind::kDict: return collection(node);
      case Kind::kAttribute: return attribute(node, evaluate(node.parts[0]), node.text);
      case Kind::kIndex: return index(node, evaluate(node.parts[0]), evaluate(node.parts[1]));
      case Kind::kSlice: return slice(node);
      case Kind::kCall: return call(node);
      case Kind::kFilter: {
        Value value = evaluate(node.parts[0]);
        return filter(node, node.text, value, arguments(node));
      }
      case Kind::kTest: {
        Value value = evaluate(node.parts[0]);
        return Value::of(test(node, node.text, value, arguments(node)));
      }
      case Kind::kNot: return Value::of(!evaluate(node.parts[0]).truth());
      case Kind::kNegative: {
        const Value value = evaluate(node.parts[0]);
        const auto zero = Value::of(0);
        const auto result = python_binary("-", zero, value);
        return result ? *result : fail(node, "'-' of this value");
      }
      case Kind::kAnd:
      case Kind::kOr: {
        Value left = evaluate(node.parts[0]);
        return left.truth() == (node.kind == Kind::kOr) ? left : evaluate(node.parts[1]);
      }
      case Kind::kCompare:
      case Kind::kBinary: return operation(node);
      case Kind::kChoice:
        if (evaluate(node.parts[1]).truth()) return evaluate(node.parts[0]);
        return node.parts[2].kind == Kind::kAbsent ? Value{} : evaluate(node.parts[2]);
      default: return {};
    }
  }
  Value operation(const Node& node) {
    const Value left = evaluate(node.parts[0]), right = evaluate(node.parts[1]);
    if (node.kind == Kind::kCompare) {
      const auto result = python_compare(node.text, left, right);
      return result ? Value::of(*result) : fail(node, fmt::format("'{}' of these values", node.text));
    }
    if (node.text != "~" && (left.undefined() || right.undefined())) {
      return fail(node, fmt::format("'{}' is undefined", left.undefined() ? left.name : right.name));
    }
    const auto result = python_binary(node.text, left, right);
    return result ? made(*result) : fail(node, fmt::format("'{}' of these values", node.text));
  }
  Value collection(const Node& node) {
    Json out = node.kind == Kind::kList ? Json::array() : Json::object();
    for (size_t i = 0; i < node.parts.size(); ++i) {
      const Value value = evaluate(node.parts[i]);
      if (!status_.ok()) return {};
      if (node.kind == Kind::kList) {
        out.push_back(data(node, value));
      } else {
        out[python_text(value)] = data(node, evaluate(node.parts[++i]));
      }
    }
    return made(Value::of(std::move(out)));
  }
  Value index(const Node& node, const Value& object, const Value& key) {
    if (object.undefined()) return fail(node, fmt::format("'{}' is undefined", object.name));
    if (key.is_string() && (object.object || object.json->is_object())) {
      if (object.object) return attribute(node, object, key.string());
      const auto found = object.json->find(key.string());
      return found != object.json->end() ? object.part(*found) : Value{nullptr, nullptr, nullptr, key.string()};
    }
    const auto at = key.integer();
    if (!at || !object.json || !(object.is_string() || object.json->is_array())) return {};
    const std::vector<std::string> letters =
        object.is_string() ? characters_of(object.string()) : std::vector<std::string>();
    spend(letters.size());
    const auto size = static_cast<int64_t>(object.is_string() ? letters.size() : object.json->size());
    const int64_t place = *at < 0 ? *at + size : *at;
    if (place < 0 || place >= size) return {};
    const auto i = static_cast<size_t>(place);
    return object.is_string() ? text(letters[i]) : object.part((*object.json)[i]);
  }
  Value slice(const Node& node) {
    const Value object = evaluate(node.parts[0]);
    if (!object.json || !(object.is_string() || object.json->is_array())) return fail(node, "a slice of this value");
    Json letters = Json::array();
    if (object.is_string()) {
      spend(32 * object.string().size());
      for (std::string& letter : characters_of(object.string())) letters.push_back(std::move(letter));
    }
    const Json& all = object.is_string() ? letters : *object.json;
    const auto size = static_cast<int64_t>(all.size());
    const auto bound = [&](size_t i, int64_t otherwise) {
      const Value value = node.parts[i].kind == Kind::kAbsent ? Value::of(nullptr) : evaluate(node.parts[i]);
      return value.integer().value_or(otherwise);
    };
    const int64_t step = bound(3, 1), none = INT64_MIN + 1;
    if (step == 0 || step < -size - 1 || step > size + 1) return fail(node, "this step of a slice");
    const auto clamp = [&](int64_t at, int64_t otherwise) {
      if (at == none) return otherwise;
      return std::clamp(at < 0 ? std::max(at, -size - 1) + size : at, step > 0 ? int64_t{0} : int64_t{-1},
                        step > 0 ? size : size - 1);
    };
    const int64_t begin = clamp(bound(1, none), step > 0 ? 0 : size - 1),
                  end = clamp(bound(2, none), step > 0 ? size : -1);
    Json out = Json::array();
    std::string joined;
    for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
      const Json& item = all[static_cast<size_t>(i)];
      if (object.is_string()) {
        joined += item.get_ref<const std::string&>();
      } else {
        out.push_back(item);
        spend(item.is_string() ? item.get_ref<const std::string&>().size() : 64 * item.size());
      }
    }
    return object.is_string() ? text(std::move(joined)) : made(Value::of(std::move(out)));
  }
  Arguments arguments(const Node& node) {
    Arguments out;
    for (size_t i = 1; i < node.parts.size(); ++i) {
      const Node& part = node.parts[i];
      if (part.kind == Kind::kKeyword) {
        out.named[part.text] = evaluate(part.parts[0]);
      } else {
        out.values.push_back(evaluate(part));
      }
    }
    return out;
  }
  Value call(const Node& node) {
    const Node& callee = node.parts[0];
    if (callee.kind == Kind::kAttribute) {
      const Value object = evaluate(callee.parts[0]);
      return method(node, object, callee.text, arguments(node));
    }
    if (callee.kind != Kind::kName) return fail(node, "a call of this expression is not supported");
    const Value known = lookup(callee.text);
    const Arguments given = arguments(node);
    if (!status_.ok()) return {};
    if (known.macro != nullptr) return expand(node, *known.macro, given);
    const Value* first = given.at(0);
    if (callee.text == "namespace" || callee.text == "dict") {
      Value made_object{nullptr, std::make_shared<std::map<std::string, Value>>(given.named)};
      if (callee.text == "namespace" && given.values.empty()) return made_object;
      Json out = Json::object();
      for (const auto& [key, value] : given.named) out[key] = data(node, value);
      return given.values.empty() ? Value::of(std::move(out)) : fail(node, "a namespace of a value is not supported");
    }
    if (callee.text == "raise_exception") return fail(node, first ? python_text(*first) : "raise_exception");
    if (callee.text == "range") return range(node, given);
    if (callee.text == "strftime_now" && first && first->is_string()) {
      std::tm local{};
      char buffer[256] = {};
      localtime_r(&now_, &local);
      std::strftime(buffer, sizeof buffer, first->string().c_str(), &local);
      return text(buffer);
    }
    return fail(node, fmt::format("the function {} is not supported", quote_text(callee.text)));
  }
  Value range(const Node& node, const Arguments& given) {
    int64_t bounds[3] = {0, 0, 1};
    for (size_t i = 0; i < given.values.size() && i < 3; ++i) {
      const auto value = given.values[i].integer();
      if (!value) return fail(node, "a range of this value");
      bounds[given.values.size() == 1 ? 1 : i] = *value;
    }
    Json out = Json::array();
    if (bounds[2] == 0) return fail(node, "a range with the step 0");
    for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1];) {
      out.push_back(i);
      if (!spend(16) || __builtin_add_overflow(i, bounds[2], &i)) break;
    }
    return Value::of(std::move(out));
  }
  Value expand(const Node& node, const Node& macro, const Arguments& given) {
    if (++calls_ > kMaxCalls) return fail(node, fmt::format("calls nested deeper than {}", kMaxCalls));
    std::map<std::string, Value> scope;
    for (size_t i = 0; i + 1 < macro.parts.size(); ++i) {
      const Node& parameter = macro.parts[i];
      const Value* value = given.at(i, parameter.text.c_str());
      const bool absent = value == nullptr && parameter.parts[0].kind == Kind::kAbsent;
      scope[parameter.text] = value    ? *value
                              : absent ? Value{nullptr, nullptr, nullptr, parameter.text}
                                       : evaluate(parameter.parts[0]);
    }
    const size_t base = std::exchange(base_, scopes_.size() + 1);
    scopes_.push_back(std::move(scope));
    std::string outer = std::exchange(out_, "");
    execute(macro.parts.back());
    outer.swap(out_);
    scopes_.pop_back();
    base_ = base;
    --calls_;
    return text(std::move(outer));
  }
  // Statements.
  Flow execute(const Node& node) {
    if (!spend(1)) return Flow::kBreak;
    switch (node.kind) {
      case Kind::kText: return write(node.text);
      case Kind::kOutput: return write(python_text(evaluate(node.parts[0])));
      case Kind::kBody:
        for (const Node& part : node.parts)
          if (const Flow flow = execute(part); flow != Flow::kOn) return flow;
        return Flow::kOn;
      case Kind::kIf:
        if (evaluate(node.parts[0]).truth()) return execute(node.parts[1]);
        return node.parts.size() > 2 ? execute(node.parts[2]) : Flow::kOn;
      case Kind::kFor: loop(node); return status_.ok() ? Flow::kOn : Flow::kBreak;
      case Kind::kSet: assign(node.parts[0], evaluate(node.parts[1])); return Flow::kOn;
      case Kind::kSetBlock: {
        std::string outer = std::exchange(out_, "");
        execute(node.parts[1]);
        outer.swap(out_);
        assign(node.parts[0], text(std::move(outer)));
        return Flow::kOn;
      }
      case Kind::kMacro: scopes_.back()[node.text] = {nullptr, nullptr, &node}; return Flow::kOn;
      case Kind::kBreak: return Flow::kBreak;
      case Kind::kContinue: return Flow::kContinue;
      default: return Flow::kOn;
    }
  }
  Flow write(std::string_view piece) {
    if (spend(piece.size())) out_ += piece;
    return Flow::kOn;
  }
  void assign(const Node& names, const Value& value) {
    if (!status_.ok()) return;
    if (names.parts.size() > 1 &&
        (!value.json || !value.json->is_array() || value.json->size() != names.parts.size())) {
      fail(names, fmt::format("a value that is not {} others", names.parts.size()));
      return;
    }
    for (size_t i = 0; i < names.parts.size(); ++i) {
      const Node& name = names.parts[i];
      const Value one = names.parts.size() > 1 ? value.part((*value.json)[i]) : value;
      if (name.kind == Kind::kName) {
        scopes_.back()[name.text] = one;
        continue;
      }
      const Value object = lookup(name.parts[0].text);
      if (!object.object) {
        fail(name, fmt::format("{} is not a namespace", quote_text(name.parts[0].text)));
      } else if (one.object || one.macro) {
        fail(name, "a namespace inside another is not supported");  // it might hold itself
      } else {
        (*object.object)[name.text] = one;
      }
    }
  }
  void loop(const Node& node) {
    const Value list = evaluate(node.parts[1]);
    Json copied;
    const bool in_place = list.json && list.json->is_array();
    if (!in_place && !list_of(node, list, copied)) return;
    const Value whole = in_place ? list : Value::of(std::move(copied));
    std::vector<Value> items;
    for (const Json& item : *whole.json) {
      scopes_.emplace_back();
      assign(node.parts[0], whole.part(item));
      if (node.parts[2].kind == Kind::kAbsent || evaluate(node.parts[2]).truth()) items.push_back(whole.part(item));
      scopes_.pop_back();
      if (!spend(16)) return;
    }
    for (size_t i = 0; i < items.size(); ++i) {
      const auto number = [](size_t n) { return Value::of(static_cast<int64_t>(n)); };
      scopes_.emplace_back();
      assign(node.parts[0], items[i]);
      scopes_.back()["loop"].object = std::make_shared<std::map<std::string, Value>>(
          std::map<std::string, Value>{{"index", number(i + 1)},
                                       {"index0", number(i)},
                                       {"first", Value::of(i == 0)},
                                       {"last", Value::of(i + 1 == items.size())},
                                       {"length", number(items.size())},
                                       {"revindex", number(items.size() - i)},
                                       {"revindex0", number(items.size() - i - 1)},
                                       {"previtem", i > 0 ? items[i - 1] : Value{}},
                                       {"nextitem", i + 1 < items.size() ? items[i + 1] : Value{}}});
      const Flow flow = execute(node.parts[3]);
      scopes_.pop_back();
      if (flow == Flow::kBreak || !spend(256)) return;
    }
    if (items.empty()) execute(node.parts[4]);
  }

  std::time_t now_;
  std::vector<std::map<std::string, Value>> scopes_;
  size_t base_ = 0;  // the scopes of a macro begin before it, counted from one
  int calls_ = 0, levels_ = 0;
  std::string out_;
};

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  ENGRAM_ASSIGN_OR_RETURN(TemplateNode body, parse_template(source));
  return ChatTemplate(std::move(body));
}

Result<std::string> ChatTemplate::render(const nlohmann::ordered_json& variables, std::time_t now) const {
  if (!variables.is_object())
    return invalid_argument("chat template: variables: got {}, wanted an object", variables.type_name());
  return Renderer(variables, now).run(body_);
}

}  // namespace engram
