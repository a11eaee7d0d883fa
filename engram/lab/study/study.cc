#include "engram/lab/study/study.h"

#include <algorithm>
#include <span>

#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/train/toml_fields.h"

namespace engram {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 50, kMostRows = 1'000'000'000'000;
const EnumNames<StudyControl> kControls = {{StudyControl::kNone, "none"},
                                           {StudyControl::kCapacityOne, "capacity-1"},
                                           {StudyControl::kShuffledHash, "shuffled-hash"},
                                           {StudyControl::kDense, "dense"}};
const EnumNames<Expectation> kExpectations = {{Expectation::kMore, "more"},
                                              {Expectation::kLess, "less"},
                                              {Expectation::kNotMore, "not more"},
                                              {Expectation::kNotLess, "not less"}};
const EnumNames<std::string> kMeasures = {{"exact", "exact"}, {"bits_per_byte", "bits_per_byte"}};

template <typename Value>
const char* name_of(const EnumNames<Value>& names, Value value) {
  for (const auto& [known, name] : names)
    if (known == value) return name;
  ENGRAM_CHECK(false, "value {} has no name", static_cast<int>(value));
}

// One number, or an array of different numbers.
template <typename Number>
void read_numbers(Fields& fields, const char* key, Number low, Number high, std::vector<Number>& out) {
  fields(key, out, low, high);
  if (fields.find(key) && out.empty()) fields.fail(key, "got an empty array, wanted numbers");
  for (auto number = out.begin(); number != out.end(); ++number)
    if (std::find(out.begin(), number, *number) != number) fields.fail(key, fmt::format("{} appears twice", *number));
}

void read_sweep(Fields& fields, StudyGroup& group) {
  const nlohmann::json* sweep = fields.find("sweep");
  if (!sweep) return;
  if (!sweep->is_object()) return fields.wrong("sweep", *sweep, "recipe keys, each with an array of values");
  for (const auto& [key, values] : sweep->items()) {
    if (!values.is_array() || values.empty()) return fields.wrong("sweep." + key, values, "an array of values");
    std::vector<std::string> texts;  // JSON's scalars and arrays are TOML's
    for (const auto& value : values) texts.push_back(value.is_string() ? value.get<std::string>() : value.dump());
    group.sweep.emplace_back(key, std::move(texts));
  }
}

Result<StudyGroup> read_group(Fields& fields) {
  StudyGroup group;
  fields.need("name", group.name);
  fields("control", group.control, kControls);
  fields("baseline", group.baseline);
  fields("after", group.after);
  fields("rows_times", group.rows_times, 1, 1 << 20);
  fields("seeds", group.seeds, 1, 1000);
  fields("set", group.set);
  read_numbers(fields, "rho", 0.0, 1.0, group.rho);
  read_numbers(fields, "rows", int64_t{1}, kMostRows, group.rows);
  read_numbers(fields, "budgets", int64_t{0}, kMostTokens, group.budgets);
  read_sweep(fields, group);
  if (group.name.empty()) fields.fail("name", "got '', wanted a name");
  if (!group.rho.empty() && !group.rows.empty()) fields.fail("rho", "got it and rows, wanted one of them");
  const bool own_model = group.control == StudyControl::kDense || group.control == StudyControl::kCapacityOne;
  if (own_model && (!group.rho.empty() || !group.rows.empty()))
    fields.fail("control",
                fmt::format("{} has its own model, wanted neither rho nor rows", study_control_name(group.control)));
  ENGRAM_RETURN_IF_ERROR(fields.finish());
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

StudyHypothesis read_hypothesis(Fields& fields) {
  StudyHypothesis hypothesis;
  fields.need("text", hypothesis.text);
  fields.need("arm", hypothesis.arm);
  fields.need("than", hypothesis.than);
  fields.need("sets", hypothesis.sets);
  fields.need("measure", hypothesis.measure, kMeasures);
  fields.need("expect", hypothesis.expect, kExpectations);
  fields("margin", hypothesis.margin, 0, 1e3);
  if (hypothesis.sets.empty()) fields.fail("sets", "got none, wanted names of validation sets");
  return hypothesis;
}

Status check_known(const std::string& group, const std::vector<std::string>& names, const std::string& where) {
  if (std::find(names.begin(), names.end(), group) != names.end()) return {};
  return invalid_argument("{}: no group is named {}, only {}", where, quote_text(group), fmt::join(names, ", "));
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

const char* study_control_name(StudyControl control) { return name_of(kControls, control); }
const char* expectation_name(Expectation expectation) { return name_of(kExpectations, expectation); }

Result<Study> Study::load(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path, {.max_bytes = int64_t{16} << 20}));
  ENGRAM_RETURN_IF_ERROR(check_not_foreign(text, path));
  return parse(text, path);
}

Result<Study> Study::parse(const std::string& text, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const TomlDocument document, TomlDocument::parse(text, path));
  if (document.root.contains("model") || document.root.contains("train"))
    return invalid_argument("{}: got a recipe, wanted a study; `engram train` runs recipes", path);
  Study study;
  study.path = path;
  Fields fields(document.root, document.source);
  fields("study", study.name);
  fields("scale", study.scale);
  fields("title", study.title);
  fields("question", study.question);
  fields.need("recipe", study.recipe);
  fields("seeds", study.seeds, 1, 1000);
  fields("set", study.set);
  fields("keep_weights", study.keep_weights);
  fields("decode_tokens", study.decode_tokens, 0, 1 << 20);
  fields("references", study.references);
  read_numbers(fields, "budgets", int64_t{0}, kMostTokens, study.budgets);
  std::vector<Fields> groups = fields.sections("group"), hypotheses = fields.sections("hypothesis");
  if (groups.empty()) fields.fail("group", "missing, wanted at least one [[group]]");
  ENGRAM_RETURN_IF_ERROR(fields.finish());
  ENGRAM_RETURN_IF_ERROR(check_name(study.name, "study", path));
  ENGRAM_RETURN_IF_ERROR(check_name(study.scale, "scale", path));
  std::vector<std::string> names;
  for (Fields& group_fields : groups) {
    ENGRAM_ASSIGN_OR_RETURN(StudyGroup group, read_group(group_fields));
    if (std::find(names.begin(), names.end(), group.name) != names.end())
      group_fields.fail("name", fmt::format("two groups are named {}", quote_text(group.name)));
    names.push_back(group.name);
    if (group.budgets.empty()) group.budgets = study.budgets;
    if (group.seeds == 0) group.seeds = study.seeds;
    if (group.budgets.empty()) group_fields.fail("budgets", "missing, here and for the study");
    ENGRAM_RETURN_IF_ERROR(group_fields.status());
    study.groups.push_back(std::move(group));
  }
  for (auto group = study.groups.begin(); group != study.groups.end(); ++group)
    ENGRAM_RETURN_IF_ERROR(check_after(*group, {study.groups.begin(), group}, path));
  if (!study.keep_weights && std::ranges::any_of(study.groups, [](const auto& group) { return !group.after.empty(); }))
    return invalid_argument("{}: keep_weights: got false, wanted true for groups that start from another's", path);
  for (StudyGroup& group : study.groups) {
    if (group.baseline.empty()) group.baseline = study.groups.front().name;
    ENGRAM_RETURN_IF_ERROR(
        check_known(group.baseline, names, fmt::format("{}: group {}: baseline", path, quote_text(group.name))));
  }
  if (study.references.empty()) study.references = {study.groups.front().name};
  for (const std::string& group : study.references)
    ENGRAM_RETURN_IF_ERROR(check_known(group, names, path + ": references"));
  for (Fields& hypothesis_fields : hypotheses) {
    const StudyHypothesis& hypothesis = study.hypotheses.emplace_back(read_hypothesis(hypothesis_fields));
    ENGRAM_RETURN_IF_ERROR(hypothesis_fields.finish());
    for (const std::string& group : {hypothesis.arm, hypothesis.than})
      ENGRAM_RETURN_IF_ERROR(check_known(group, names, path + ": hypothesis"));
  }
  return study;
}

}  // namespace engram
