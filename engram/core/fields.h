// Fields: the one strict reader of an object's fields, whether a file, a recipe or a request holds them.
//
// A field that is absent or null keeps the value it has. The first thing wrong stays and later calls do nothing, so all
// fields are read first and finish() or status() is looked at once. A function that visits a struct's fields serves
// Fields and FieldWriter alike. Messages: "FILE:LINE: section.key: got X, wanted Y".
#pragma once
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "engram/core/status.h"

namespace engram {

template <typename Value>
using EnumNames = std::vector<std::pair<Value, const char*>>;

// Where an object comes from, for messages.
struct FieldSource {
  std::string name;                                 // a file; may be empty
  std::map<std::string, std::string> places;        // "section.key" -> "FILE:LINE"; may be empty
  std::string (*hint)(std::string_view) = nullptr;  // for an unknown key that is near none of its object
};

class Fields {
 public:
  // `object` outlives this. path: "section", before the names of fields in messages.
  Fields(const nlohmann::json& object, std::string name) : Fields(object, FieldSource{std::move(name), {}}) {}
  Fields(const nlohmann::json& object, FieldSource source)
      : Fields(object, std::make_shared<FieldSource>(std::move(source)), "") {}

  // bool, string, integers [low, high], finite double [low, high], an enum by its names; an optional or a vector of
  // these, for which a single value will do. A number without a fraction is an integer (16.0 too).
  template <typename Value, typename... Wanted>
  void operator()(std::string_view key, Value& value, const Wanted&... wanted) {
    if (const nlohmann::json* got = find(key); got && status_.ok()) read(path_of(key), *got, value, wanted...);
  }
  // The same for a field that must be there.
  template <typename Value, typename... Wanted>
  void need(std::string_view key, Value& value, const Wanted&... wanted) {
    if (!find(key)) fail(key, "missing");
    (*this)(key, value, wanted...);
  }
  const nlohmann::json* find(std::string_view key);         // nullptr: absent or null
  void skip(std::initializer_list<std::string_view> keys);  // known, and read elsewhere
  Fields section(std::string_view key);                     // an absent one has no fields
  std::vector<Fields> sections(std::string_view key);       // the elements of an array

  void fail(std::string_view key, std::string_view problem);
  void wrong(std::string_view key, const nlohmann::json& got, std::string_view wanted);
  const nlohmann::json& object() const { return *object_; }
  const Status& status() const { return status_; }
  const std::string& failed() const { return failed_; }  // the path of the field that status() is about
  // status(), or kInvalidArgument for the first field that nobody asked for.
  Status finish() const;

 private:
  Fields(const nlohmann::json& object, std::shared_ptr<const FieldSource> source, std::string path);
  std::string path_of(std::string_view key) const;
  std::string place_of(std::string path) const;  // "FILE:LINE: " or ""
  void fail_at(const std::string& path, std::string_view problem);
  void wrong_at(const std::string& path, const nlohmann::json& got, std::string_view wanted);

  void read(const std::string& path, const nlohmann::json& got, bool& value);
  void read(const std::string& path, const nlohmann::json& got, std::string& value);
  void read(const std::string& path, const nlohmann::json& got, double& value,
            double low = -std::numeric_limits<double>::infinity(),
            double high = std::numeric_limits<double>::infinity());
  int64_t read_integer(const std::string& path, const nlohmann::json& got, int64_t low, int64_t high);
  template <typename Integer>
  requires std::is_integral_v<Integer>
  void read(const std::string& path, const nlohmann::json& got, Integer& value,
            int64_t low = std::numeric_limits<Integer>::min(), int64_t high = std::numeric_limits<Integer>::max()) {
    const int64_t integer = read_integer(path, got, low, high);
    if (status_.ok()) value = static_cast<Integer>(integer);
  }
  template <typename Value>
  void read(const std::string& path, const nlohmann::json& got, Value& value, const EnumNames<Value>& names) {
    std::string wanted;
    for (const auto& [known, name] : names) {
      if (got == name) {
        value = known;
        return;
      }
      wanted += fmt::format("{}\"{}\"", wanted.empty() ? "" : " or ", name);
    }
    wrong_at(path, got, wanted);
  }
  template <typename Value, typename... Wanted>
  void read(const std::string& path, const nlohmann::json& got, std::optional<Value>& value, const Wanted&... wanted) {
    read(path, got, value.emplace(), wanted...);
  }
  template <typename Element, typename... Wanted>
  void read(const std::string& path, const nlohmann::json& got, std::vector<Element>& value, const Wanted&... wanted) {
    value.assign(got.is_array() ? got.size() : 1, Element());
    if (!got.is_array()) return read(path, got, value[0], wanted...);
    for (size_t i = 0; i < value.size() && status_.ok(); ++i)
      read(fmt::format("{}[{}]", path, i), got[i], value[i], wanted...);
  }

  const nlohmann::json* object_;
  std::shared_ptr<const FieldSource> source_;
  std::string path_, failed_;
  std::vector<std::string> known_;
  Status status_;
};

// One field that must be there.
template <typename Value, typename... Wanted>
Result<Value> read_field(const nlohmann::json& object, std::string_view key, const std::string& name,
                         const Wanted&... wanted) {
  Value value{};
  Fields fields(object, name);
  fields.need(key, value, wanted...);
  if (!fields.status().ok()) return fields.status();
  return value;
}

class FieldWriter {
 public:
  explicit FieldWriter(nlohmann::ordered_json& object) : object_(object) {}
  template <typename Value, typename... Wanted>
  void operator()(const char* key, const Value& value, const Wanted&...) {
    object_[key] = value;
  }
  template <typename Value>
  void operator()(const char* key, const Value& value, const EnumNames<Value>& names) {
    for (const auto& [known, name] : names)
      if (known == value) object_[key] = name;
  }
  template <typename Value>
  void operator()(const char* key, const std::vector<Value>& values, const EnumNames<Value>& names) {
    nlohmann::ordered_json& list = object_[key] = nlohmann::ordered_json::array();
    for (const Value& value : values)
      for (const auto& [known, name] : names)
        if (known == value) list.push_back(name);
  }

 private:
  nlohmann::ordered_json& object_;
};

// A JSON value for a message: numbers as they are, text quoted and cut, the rest by type.
std::string shown(const nlohmann::json& value);
// Without a fraction and within 64 bits; else nothing.
std::optional<int64_t> as_integer(const nlohmann::json& value);
// The nearest of `words` to a mistyped one, or that begins with it; nullptr when none is near.
const std::string* nearest_word(std::string_view word, const std::vector<std::string>& words);

}  // namespace engram
