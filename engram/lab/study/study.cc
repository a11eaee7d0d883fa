#include "engram/lab/study/study.h"

#include <algorithm>
#include <set>
#include <span>
#include <type_traits>

#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/train/toml_fields.h"

namespace engram {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 50;
const EnumNames<StudyControl> kControls = {{StudyControl::kNone, "none"},
                                           {StudyControl::kCapacityOne, "capacity-1"},
                                           {StudyControl::kShuffledHash, "shuffled-hash"},
                                           {StudyControl::kDense, "dense"}};

// One number, or an array of numbers.
template <typename Number>
Status read_numbers(const toml::table& table, const char* key, double low, double high, const std::string& name,
                    std::vector<Number>& out) {
  const toml::node* node = table.get(key);
  if (!node) return {};
  const auto take = [&](const toml::node& item) -> Status {
    const auto number = item.value<double>();
    const bool whole = std::is_floating_point_v<Number> || item.is_integer();
    if (!number || !whole || !(*number >= low && *number <= high))
      return invalid_argument("{}: {}: wanted {} from {} to {}, or an array of them", location_of(item, name), key,
                              std::is_floating_point_v<Number> ? "a number" : "a whole number", low, high);
    if (std::find(out.begin(), out.end(), static_cast<Number>(*number)) != out.end())
      return invalid_argument("{}: {}: {} appears twice", location_of(item, name), key, *number);
    out.push_back(static_cast<Number>(*number));
    return {};
  };
  if (const toml::array* array = node->as_array()) {
    if (array->empty()) return invalid_argument("{}: {}: got an empty array", location_of(*node, name), key);
    for (const toml::node& item : *array) ENGRAM_RETURN_IF_ERROR(take(item));
    return {};
  }
  return take(*node);
}

Status read_sweep(const toml::table& table, const std::string& name, StudyGroup& group) {
  const toml::node* node = table.get("sweep");
  if (!node) return {};
  if (!node->is_table()) return invalid_argument("{}: sweep: wanted a table", location_of(*node, name));
  for (auto&& [key, values] : *node->as_table()) {
    const toml::array* array = values.as_array();
    if (!array || array->empty())
      return invalid_argument("{}: sweep.{}: wanted an array of values", location_of(values, name),
                              quote_text(key.str()));
    std::vector<std::string> texts;
    for (const toml::node& value : *array) {
      ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, toml_to_json(value, name));
      texts.push_back(json.is_string() ? json.get<std::string>()
                                       : json.dump());  // JSON's scalars and arrays are TOML's
    }
    group.sweep.emplace_back(std::string(key.str()), std::move(texts));
  }
  return {};
}

Result<StudyGroup> read_group(const toml::table& table, const std::string& name) {
  StudyGroup group;
  TomlReader reader(&table, "group", name);
  reader.text("name", group.name);
  reader.choice("control", group.control, kControls);
  reader.text("baseline", group.baseline);
  reader.text("after", group.after);
  reader.integer("rows_times", group.rows_times, 1, 1 << 20);
  reader.integer("seeds", group.seeds, 1, 1000);
  reader.texts("set", group.set);
  for (const char* key : {"rho", "rows", "sweep", "budgets"}) reader.section(key);
  ENGRAM_RETURN_IF_ERROR(reader.finish());
  ENGRAM_RETURN_IF_ERROR(read_numbers(table, "rho", 0, 1, name, group.rho));
  ENGRAM_RETURN_IF_ERROR(read_numbers(table, "rows", 1, 1e12, name, group.rows));
  ENGRAM_RETURN_IF_ERROR(read_numbers(table, "budgets", 1, kMostTokens, name, group.budgets));
  ENGRAM_RETURN_IF_ERROR(read_sweep(table, name, group));
  const std::string where = location_of(table, name);
  if (group.name.empty()) return invalid_argument("{}: a group without name", where);
  if (!group.rho.empty() && !group.rows.empty())
    return invalid_argument("{}: group {}: rho and rows: wanted one of them", where, quote_text(group.name));
  const bool own_model = group.control == StudyControl::kDense || group.control == StudyControl::kCapacityOne;
  if (own_model && (!group.rho.empty() || !group.rows.empty()))
    return invalid_argument("{}: group {}: {} has its own model, wanted neither rho nor rows", where,
                            quote_text(group.name), study_control_name(group.control));
  return group;
}

// What comes before must leave one model a seed, with weights.
Status check_after(const StudyGroup& group, std::span<const StudyGroup> earlier, const std::string& path) {
  if (group.after.empty()) return {};
  const std::string where = fmt::format("{}: group {}: after", path, quote_text(group.name));
  const auto base =
      std::find_if(earlier.begin(), earlier.end(), [&](const StudyGroup& other) { return other.name == group.after; });
  if (base == earlier.end())
    return invalid_argument("{}: got {}, wanted the name of an earlier group", where, quote_text(group.after));
  size_t models = std::max<size_t>(1, base->rho.size() + base->rows.size()) * base->budgets.size();
  for (const auto& [key, values] : base->sweep) models *= values.size();
  if (models != 1)
    return invalid_argument("{}: group {} has {} models and budgets, wanted one", where, quote_text(group.after),
                            models);
  if (!weights_are_the_model(base->control))
    return invalid_argument("{}: group {} is the control {}, whose weights are not kept", where,
                            quote_text(group.after), study_control_name(base->control));
  if (group.seeds > base->seeds)
    return invalid_argument("{}: got {} seeds, wanted at most the {} of group {}", where, group.seeds, base->seeds,
                            quote_text(group.after));
  return {};
}

Status check_name(const std::string& text, const char* key, const std::string& path) {
  const bool good = !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
  if (good) return {};
  return invalid_argument("{}: {}: got {}, wanted a name of small letters, digits and \"-\"", path, key,
                          quote_text(text));
}

}  // namespace

const char* study_control_name(StudyControl control) {
  for (const auto& [known, name] : kControls)
    if (known == control) return name;
  ENGRAM_CHECK(false, "study control {} has no name", static_cast<int>(control));
}

Result<Study> Study::load(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path, {.max_bytes = int64_t{16} << 20}));
  ENGRAM_RETURN_IF_ERROR(check_not_foreign(text, path));
  return parse(text, path);
}

Result<Study> Study::parse(const std::string& text, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const toml::table root, parse_toml(text, path));
  if (root.contains("model") || root.contains("train"))
    return invalid_argument("{}: got a recipe, wanted a study; `engram train` runs recipes", path);
  Study study;
  study.path = path;
  TomlReader reader(&root, "", path);
  reader.text("study", study.name);
  reader.text("scale", study.scale);
  reader.text("title", study.title);
  reader.text("question", study.question);
  reader.text("recipe", study.recipe);
  reader.integer("seeds", study.seeds, 1, 1000);
  reader.texts("set", study.set);
  reader.section("budgets");
  reader.section("group");
  ENGRAM_RETURN_IF_ERROR(reader.finish());
  ENGRAM_RETURN_IF_ERROR(check_name(study.name, "study", path));
  ENGRAM_RETURN_IF_ERROR(check_name(study.scale, "scale", path));
  if (study.recipe.empty()) return invalid_argument("{}: recipe: missing, wanted a training recipe", path);
  ENGRAM_RETURN_IF_ERROR(read_numbers(root, "budgets", 1, kMostTokens, path, study.budgets));
  const toml::node* groups = root.get("group");
  if (!groups || !groups->is_array_of_tables()) return invalid_argument("{}: wanted at least one [[group]]", path);
  std::set<std::string> names;
  for (const toml::node& node : *groups->as_array()) {
    ENGRAM_ASSIGN_OR_RETURN(StudyGroup group, read_group(*node.as_table(), path));
    if (!names.insert(group.name).second)
      return invalid_argument("{}: two groups are named {}", location_of(node, path), quote_text(group.name));
    if (group.budgets.empty()) group.budgets = study.budgets;
    if (group.seeds == 0) group.seeds = study.seeds;
    if (group.budgets.empty())
      return invalid_argument("{}: group {}: no budgets, here or for the study", location_of(node, path),
                              quote_text(group.name));
    study.groups.push_back(std::move(group));
  }
  for (auto group = study.groups.begin(); group != study.groups.end(); ++group)
    ENGRAM_RETURN_IF_ERROR(check_after(*group, {study.groups.begin(), group}, path));
  for (StudyGroup& group : study.groups) {
    if (group.baseline.empty()) group.baseline = study.groups.front().name;
    if (!names.contains(group.baseline))
      return invalid_argument("{}: group {}: baseline: no group is named {}{}", path, quote_text(group.name),
                              quote_text(group.baseline), suggestion(group.baseline, names));
  }
  return study;
}

}  // namespace engram
