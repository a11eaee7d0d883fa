#include "engram/lab/study/study_record.h"

#include <algorithm>
#include <cmath>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/lab/study/run_output.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kCurvePoints = 100;

std::string records_path(const std::string& folder) { return join_path(folder, "runs"); }

bool is_date(std::string_view text) {
  if (text.size() != 10) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 4 || i == 7;
    if (dash ? text[i] != '-' : text[i] < '0' || text[i] > '9') return false;
  }
  return true;
}

// Training loss over tokens, as means of equal stretches.
Json train_curve(const std::vector<Json>& metrics) {
  Json curve = Json::array();
  const size_t bins = std::min(kCurvePoints, metrics.size());
  for (size_t bin = 0; bin < bins; ++bin) {
    const size_t begin = metrics.size() * bin / bins, end = metrics.size() * (bin + 1) / bins;
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += metrics[i].value("loss", 0.0);
    curve.push_back({metrics[end - 1].value("tokens", int64_t{0}), sum / static_cast<double>(end - begin)});
  }
  return curve;
}

Json validation_curve(const std::vector<Json>& metrics) {
  Json curve = Json::array();
  for (const Json& line : metrics)
    if (line.contains("validation_loss"))
      curve.push_back({line.value("tokens", int64_t{0}), line.at("validation_loss")});
  return curve;
}

// The fields that data.json must have, with their types.
Status check_record(const Json& all, const std::string& study, const std::string& path) {
  nlohmann::json record = nlohmann::json::object();  // all but the curves
  for (const auto& [key, value] : all.items())
    if (!value.is_array()) record[key] = value;
  double number = 0;
  int64_t count = 0;
  std::string text, name;
  Fields fields(record, path);
  for (const char* key : {"val_loss", "bits_per_byte", "rho", "seconds_per_step"}) fields.need(key, number);
  for (const char* key : {"seed", "budget", "p_tot", "p_act", "tokens", "rows"}) fields.need(key, count, 0);
  for (const char* key : {"run", "group", "commit", "machine", "recipe"}) fields.need(key, text);
  fields.need("study", name);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (name != study) return invalid_argument("{}: study: got {}, wanted \"{}\"", path, quote_text(name), study);
  return {};
}

}  // namespace

Result<std::string> study_folder(Env& env, const std::string& results, const Study& study) {
  const std::string prefix = study.folder_name() + "-";
  std::string newest;
  if (env.file_exists(results)) {
    ENGRAM_ASSIGN_OR_RETURN(const auto names, env.list_directory(results));
    for (const std::string& name : names)
      if (name.starts_with(prefix) && is_date(std::string_view(name).substr(prefix.size()))) newest = name;
  }
  return join_path(results, newest.empty() ? prefix + today() : newest);
}

Result<StudyRecords> read_records(Env& env, const std::string& folder, const std::string& study) {
  StudyRecords records;
  const std::string directory = records_path(folder);
  if (!env.file_exists(directory)) return records;
  ENGRAM_ASSIGN_OR_RETURN(const auto names, env.list_directory(directory));
  for (const std::string& name : names) {
    if (!name.ends_with(".json")) continue;
    const std::string path = join_path(directory, name);
    ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
    ENGRAM_ASSIGN_OR_RETURN(Json record, parse_ordered_json(text, path));
    if (const Status status = check_record(record, study, path); !status.ok())
      return data_loss("{}; remove this record and its run is made again", status.message());
    const std::string run = record.at("run");
    if (run != name.substr(0, name.size() - 5))
      return data_loss("{}: run: got {}, wanted the file's name", path, quote_text(run));
    records.emplace(run, std::move(record));
  }
  return records;
}

namespace {

// Where a run is made is its record's to say (machine), not the study's: another device rounds differently, as another
// processor does.
bool names_the_device(const std::string& difference) {
  return difference.starts_with("train.device:") || difference.starts_with("train.table_placement:");
}

}  // namespace

Status check_records(const StudyRecords& records, const std::vector<StudyRun>& runs, const std::string& folder) {
  for (const StudyRun& run : runs) {
    const auto found = records.find(run.name);
    if (found == records.end()) continue;
    const std::string path = join_path(records_path(folder), run.name + ".json");
    const auto text = found->second.find("text");
    if (text != found->second.end() && *text != run.text)
      return make_status(StatusCode::kFailedPrecondition,
                         "{}: was made on another text: got {}, wanted {}; make the text again (scripts/corpus.sh), or "
                         "move {} away",
                         path, quote_text(text->dump(), 200), run.text, folder);
    ENGRAM_ASSIGN_OR_RETURN(const Recipe old, Recipe::parse(found->second.at("recipe"), path + ": recipe", {}));
    std::vector<std::string> changed = run.recipe.differences(old);
    std::erase_if(changed, names_the_device);
    if (changed.size() > 3) changed.resize(3);
    if (!changed.empty())
      return make_status(StatusCode::kFailedPrecondition,
                         "{}: was made by another recipe: {}; move {} away to start again, or change the study back",
                         path, fmt::join(changed, "; "), folder);
  }
  return {};
}

Result<Json> make_record(Env& env, const Study& study, const StudyRun& run, const std::string& output,
                         const nlohmann::json& summary) {
  const std::string where = "result of " + run.name;
  ENGRAM_ASSIGN_OR_RETURN(const auto metrics, read_metrics(env, output));
  double validation_loss = 0, bits_per_byte = 0, seconds = 0;
  int64_t tokens = 0, peak = 0, trained = 0;
  Fields fields(summary, where);
  fields.need("validation_loss", validation_loss);
  fields.need("bits_per_byte", bits_per_byte);
  fields.need("tokens", tokens, run.recipe.train.steps > 0 ? 1 : 0);
  fields.need("seconds", seconds);
  fields.need("peak_rss_bytes", peak, 0);
  fields("trained_parameters", trained, 0);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  // A run without a step has one line, for what it measured.
  const int64_t steps = run.recipe.train.steps;
  if (static_cast<int64_t>(metrics.size()) != std::max<int64_t>(steps, 1))
    return data_loss("{}: {} steps in metrics.jsonl, wanted {}", where, metrics.size(), steps);
  const size_t tail = std::max<size_t>(1, std::min<size_t>(100, metrics.size() / 10));
  double train_loss = 0;
  for (size_t i = metrics.size() - tail; i < metrics.size(); ++i) train_loss += metrics[i].value("loss", 0.0);
  const ModelConfig& model = run.recipe.model;
  const bool moe = model.ffn == FfnKind::kMoe;
  Json sweep = Json::object();
  for (const auto& [key, value] : run.sweep) sweep[key] = value;
  const auto measured = [&](const char* key) {
    const auto found = summary.find(key);
    return found != summary.end() ? Json(*found) : Json::object();
  };
  return Json{{"study", study.name},
              {"scale", study.scale},
              {"run", run.name},
              {"group", run.group},
              {"control", run.control == StudyControl::kNone ? Json() : Json(study_control_name(run.control))},
              {"sweep", sweep},
              {"seed", run.seed},
              {"rho", run.rho.value_or(run.parameters.rho)},
              {"rho_counted", run.parameters.rho},
              {"budget", run.budget},
              {"val_loss", validation_loss},
              {"bits_per_byte", bits_per_byte},
              {"val_parts", measured("validation_parts")},
              {"validation_sets", measured("validation_sets")},
              {"train_loss", train_loss / static_cast<double>(tail)},
              {"p_tot", run.parameters.p_tot},
              {"p_act", run.parameters.p_act},
              {"p_tot_wanted", run.base ? Json(run.base->p_tot) : Json()},
              {"p_act_wanted", run.base ? Json(run.base->p_act) : Json()},
              {"tokens", tokens},
              {"steps", steps},
              {"seconds", seconds},
              {"seconds_per_step", seconds / static_cast<double>(std::max<int64_t>(steps, 1))},
              {"flops", run.cost.flops_per_token * static_cast<double>(run.budget)},
              {"added_parameters", run.added},
              {"trained_parameters", trained},
              {"peak_rss_bytes", peak},
              {"experts", moe ? model.n_routed_experts : 0},
              {"ffn_width", moe ? model.shared_expert_intermediate_size : model.intermediate_size},
              {"rows", run.rows},
              {"commit", build_commit()},
              {"machine", machine_description()},
              {"date", today()},
              {"text", run.text},
              {"validation_curve", validation_curve(metrics)},
              {"train_curve", steps > 0 ? train_curve(metrics) : Json::array()},
              {"recipe", run.recipe.to_toml()}};
}

Status write_record(Env& env, const std::string& folder, const std::string& run, const Json& record) {
  const std::string directory = records_path(folder);
  ENGRAM_RETURN_IF_ERROR(env.create_directories(directory));
  return write_file_atomic(env, join_path(directory, run + ".json"), record.dump(1) + "\n");
}

Json make_study_data(const Study& study, const std::string& command, size_t planned, const StudyRecords& records) {
  std::vector<std::string> commits, machines;
  Json runs = Json::array();
  const auto note = [](std::vector<std::string>& seen, const std::string& text) {
    if (std::find(seen.begin(), seen.end(), text) == seen.end()) seen.push_back(text);
  };
  for (const auto& [name, record] : records) {
    note(commits, record.at("commit"));
    note(machines, record.at("machine"));
    Json run = record;
    run.erase("recipe");
    run.erase("study");
    run.erase("scale");
    runs.push_back(std::move(run));
  }
  Json groups = Json::array();
  for (const StudyGroup& group : study.groups) {
    const char* axis = group.rho.size() > 1    ? "rho"
                       : group.rows.size() > 1 ? "rows"
                       : group.sweep.empty()   ? "none"
                                               : "sweep";
    groups.push_back({{"name", group.name}, {"axis", axis}, {"baseline", group.baseline}});
  }
  Json hypotheses = Json::array();
  for (const StudyHypothesis& hypothesis : study.hypotheses)
    hypotheses.push_back({{"text", hypothesis.text},
                          {"arm", hypothesis.arm},
                          {"than", hypothesis.than},
                          {"sets", hypothesis.sets},
                          {"measure", hypothesis.measure},
                          {"expect", expectation_name(hypothesis.expect)},
                          {"margin", hypothesis.margin}});
  return Json{{"study", study.name},
              {"scale", study.scale},
              {"title", study.title},
              {"question", study.question},
              {"commit", fmt::format("{}", fmt::join(commits, ", "))},
              {"machine", fmt::format("{}", fmt::join(machines, "; "))},
              {"command", command},
              {"recipe", study.recipe},
              {"groups", groups},
              {"references", study.references},
              {"hypotheses", hypotheses},
              {"planned_runs", planned},
              {"runs", runs}};
}

}  // namespace engram
