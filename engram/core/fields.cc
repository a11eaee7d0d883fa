#include "engram/core/fields.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engram/core/json.h"

namespace engram {
namespace {

using nlohmann::json;

// Levenshtein's distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t change = diagonal + (a[i] != b[j]);
      diagonal = std::exchange(row[j + 1], std::min({change, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row.back();
}

}  // namespace

std::string shown(const json& value) {
  if (value.is_string()) return quote_text(value.get_ref<const std::string&>());
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  return value.dump();
}

std::optional<int64_t> as_integer(const json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const auto number = value.get<double>();
  if (std::trunc(number) != number || std::abs(number) > 9007199254740992.0) return std::nullopt;
  return static_cast<int64_t>(number);
}

const std::string* nearest_word(std::string_view word, const std::vector<std::string>& words) {
  constexpr size_t kLongestWord = 64;
  if (word.size() > kLongestWord) return nullptr;
  const std::string* nearest = nullptr;
  size_t least = std::max<size_t>(1, (word.size() + 1) / 3) + 1;
  for (const std::string& candidate : words) {
    const bool begins = word.size() > 2 && candidate.starts_with(word);
    const size_t distance = begins && candidate != word ? 1 : edit_distance(word, candidate);
    if (distance >= least) continue;
    least = distance;
    nearest = &candidate;
  }
  return nearest;
}

Fields::Fields(const json& object, std::shared_ptr<const FieldSource> source, std::string path)
    : object_(&object), source_(std::move(source)), path_(std::move(path)) {
  if (object.is_object()) return;
  const bool is_toml = !source_->places.empty();
  wrong_at(path_, object, is_toml ? fmt::format("a section [{}]", path_) : std::string("an object"));
}

const json* Fields::find(std::string_view key) {
  known_.emplace_back(key);
  return json_find(*object_, known_.back());
}

void Fields::skip(std::initializer_list<std::string_view> keys) {
  known_.insert(known_.end(), keys.begin(), keys.end());
}

Fields Fields::section(std::string_view key) {
  static const json empty = json::object();
  const json* found = find(key);
  return Fields(found ? *found : empty, source_, path_of(key));
}

std::vector<Fields> Fields::sections(std::string_view key) {
  std::vector<Fields> all;
  const json* found = find(key);
  if (!found) return all;
  if (!found->is_array()) wrong(key, *found, "an array");
  for (size_t i = 0; i < found->size() && status_.ok(); ++i)
    all.push_back(Fields((*found)[i], source_, fmt::format("{}[{}]", path_of(key), i)));
  return all;
}

std::string Fields::path_of(std::string_view key) const {
  return fmt::format("{}{}{}", path_, path_.empty() ? "" : ".", key);
}

std::string Fields::place_of(std::string path) const {
  auto place = source_->places.find(path);
  while (place == source_->places.end() && !path.empty()) {
    const size_t cut = path.find_last_of(".[");
    path.resize(cut == std::string::npos ? 0 : cut);
    place = source_->places.find(path);
  }
  const std::string& text = place == source_->places.end() ? source_->name : place->second;
  return text.empty() ? "" : text + ": ";
}

void Fields::fail(std::string_view key, std::string_view problem) { fail_at(path_of(key), problem); }

void Fields::wrong(std::string_view key, const json& got, std::string_view wanted) {
  wrong_at(path_of(key), got, wanted);
}

void Fields::fail_at(const std::string& path, std::string_view problem) {
  if (!status_.ok()) return;
  failed_ = path;
  status_ = invalid_argument("{}{}{}{}", place_of(path), path, path.empty() ? "" : ": ", problem);
}

void Fields::wrong_at(const std::string& path, const json& got, std::string_view wanted) {
  fail_at(path, fmt::format("got {}, wanted {}", shown(got), wanted));
}

void Fields::read(const std::string& path, const json& got, bool& value) {
  if (!got.is_boolean()) return wrong_at(path, got, "true or false");
  value = got.get<bool>();
}

void Fields::read(const std::string& path, const json& got, std::string& value) {
  if (!got.is_string()) return wrong_at(path, got, "a string");
  value = got.get<std::string>();
}

void Fields::read(const std::string& path, const json& got, double& value, double low, double high) {
  const double number = got.is_number() ? got.get<double>() : NAN;
  if (std::isfinite(number) && number >= low && number <= high) {
    value = number;
  } else if (std::isinf(low)) {
    wrong_at(path, got, "a finite number");
  } else {
    wrong_at(
        path, got,
        std::isinf(high) ? fmt::format("a number at least {}", low) : fmt::format("a number in [{}, {}]", low, high));
  }
}

int64_t Fields::read_integer(const std::string& path, const json& got, int64_t low, int64_t high) {
  const std::optional<int64_t> integer = as_integer(got);
  if (integer && *integer >= low && *integer <= high) return *integer;
  const bool any = low == INT64_MIN && high == INT64_MAX;
  wrong_at(path, got, any ? std::string("an integer of 64 bits") : fmt::format("an integer in [{}, {}]", low, high));
  return 0;
}

Status Fields::finish() const {
  ENGRAM_RETURN_IF_ERROR(status_);
  for (const auto& [key, value] : object_->items()) {
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    std::string hint;
    if (const std::string* nearest = nearest_word(key, known_)) {
      hint = fmt::format("; did you mean {}?", path_of(*nearest));
    } else if (source_->hint) {
      hint = source_->hint(key);
    }
    return invalid_argument("{}unknown key {}{}", place_of(path_of(key)), quote_text(path_of(key)), hint);
  }
  return Status();
}

}  // namespace engram
