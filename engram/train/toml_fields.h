// Strict reading and stable writing of TOML sections: the mechanics below train/recipe.cc.
//
// A section's keys are listed once, in a function that visits them; the reader and the writer are two visitors, so
// nothing is read that is not written, and the reader knows every key that a section may have.
#pragma once
#include <toml++/toml.h>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engram/core/status.h"

namespace engram {

template <typename Enum>
using EnumNames = std::vector<std::pair<Enum, const char*>>;

// Parses `text`; errors say "name:line:column: why".
Result<toml::table> parse_toml(std::string_view text, const std::string& name);
// Sets "dotted.key=value" in `root`. A value that is no TOML value is taken as a string.
Status apply_override(toml::table& root, const std::string& assignment);

// "recipe.toml:12", or "override".
std::string location_of(const toml::node& node, const std::string& name);
// The nearest of `known` to `word`; null when none is near.
const std::string* nearest_word(std::string_view word, const std::set<std::string>& known);
// The same as "; did you mean PREFIX.X?" or, without a prefix, "; did you mean X?"; or nothing.
std::string suggestion(std::string_view word, const std::set<std::string>& known, const std::string& prefix = "");
// TOML -> JSON for values and nested tables. kInvalidArgument: dates and times, numbers that are not finite.
Result<nlohmann::json> toml_to_json(const toml::node& node, const std::string& name);

std::string toml_text(bool value);
std::string toml_text(int64_t value);
std::string toml_text(double value);
std::string toml_text(const std::string& value);
std::string toml_text(const std::vector<std::string>& value);

// Visits the keys of one table. The first error stays and later calls do nothing.
class TomlReader {
 public:
  // table: null when the section is absent (every key keeps its default). prefix: "train".
  TomlReader(const toml::table* table, std::string prefix, std::string name);

  void integer(const char* key, int64_t& value, int64_t low, int64_t high);
  void number(const char* key, double& value, double low, double high);  // finite; an integer is a number
  void text(const char* key, std::string& value);
  void texts(const char* key, std::vector<std::string>& value);  // one string counts as an array of one
  template <typename Enum>
  void choice(const char* key, Enum& value, const EnumNames<Enum>& names) {
    std::string got;
    const toml::node* node = find(key);
    if (!node) return;
    std::string wanted;
    const auto string = node->value<std::string>();
    for (const auto& [known, name] : names) {
      if (string && *string == name) {
        value = known;
        return;
      }
      wanted += fmt::format("{}\"{}\"", wanted.empty() ? "" : " or ", name);
    }
    fail(*node, key, wanted);
  }
  void section(const char* key) { known_.insert(key); }  // read elsewhere
  // The first error, or the first key that was not visited. elsewhere: what to suggest for a key that is near none of
  // this section's.
  Status finish(std::string (*elsewhere)(std::string_view key) = nullptr);

 private:
  const toml::node* find(const char* key);
  void fail(const toml::node& node, const std::string& key, const std::string& wanted);

  const toml::table* table_;
  std::string prefix_, name_;
  std::set<std::string> known_;
  Status status_;
};

// Collects (dotted key, TOML text) of one section.
class TomlWriter {
 public:
  TomlWriter(std::vector<std::pair<std::string, std::string>>& entries, std::string prefix)
      : entries_(entries), prefix_(std::move(prefix)) {}

  void integer(const char* key, const int64_t& value, int64_t, int64_t) { add(key, toml_text(value)); }
  void number(const char* key, const double& value, double, double) { add(key, toml_text(value)); }
  void text(const char* key, const std::string& value) { add(key, toml_text(value)); }
  void texts(const char* key, const std::vector<std::string>& value) { add(key, toml_text(value)); }
  template <typename Enum>
  void choice(const char* key, const Enum& value, const EnumNames<Enum>& names) {
    for (const auto& [known, name] : names)
      if (known == value) add(key, toml_text(std::string(name)));
  }
  void section(const char*) {}
  // Every value of a JSON object, nested objects as nested sections.
  void json(const nlohmann::ordered_json& object);

 private:
  void add(const std::string& key, std::string text) { entries_.emplace_back(prefix_ + "." + key, std::move(text)); }

  std::vector<std::pair<std::string, std::string>>& entries_;
  std::string prefix_;
};

}  // namespace engram
