#include "engram/train/metrics_sink.h"

#include "engram/train/csv_log.h"
#include "engram/train/event_log.h"

namespace engram {
namespace {

void visit(const nlohmann::ordered_json& value, const std::string& name,
           const std::function<void(const std::string&, double)>& each) {
  if (value.is_number()) return each(name, value.get<double>());
  const std::string prefix = name.empty() ? "" : name + "/";
  if (value.is_array())
    for (size_t i = 0; i < value.size(); ++i) visit(value[i], prefix + std::to_string(i), each);
  if (!value.is_object()) return;
  for (const auto& [key, element] : value.items())
    if (!name.empty() || (key != "step" && key != "samples" && key != "histograms")) visit(element, prefix + key, each);
}

// What the first line may lack: fields that only steps with validation have.
std::vector<std::string> later_fields(const Recipe& recipe) {
  std::vector<std::string> fields = {"validation_loss", "bits_per_byte"};
  for (const ValidationSet& set : recipe.data.validation_sets)
    for (const char* field : {"loss", "bits_per_byte", "exact"})
      fields.push_back(fmt::format("validation_sets/{}/{}", set.name, field));
  return fields;
}

}  // namespace

void for_each_number(const nlohmann::ordered_json& line, const std::function<void(const std::string&, double)>& each) {
  visit(line, "", each);
}

Result<std::vector<std::unique_ptr<MetricsSink>>> open_metrics_sinks(Env& env, const Recipe& recipe, int64_t step) {
  std::vector<std::unique_ptr<MetricsSink>> sinks;
  for (const SinkKind kind : recipe.metrics.sinks) {
    if (kind == SinkKind::kCsv) {
      ENGRAM_ASSIGN_OR_RETURN(
          auto sink, CsvLog::open(env, join_path(recipe.train.output, "metrics.csv"), later_fields(recipe), step));
      sinks.push_back(std::move(sink));
    } else {
      ENGRAM_ASSIGN_OR_RETURN(auto sink, EventLog::open(env, join_path(recipe.train.output, "tensorboard"), step));
      sinks.push_back(std::move(sink));
    }
  }
  return sinks;
}

}  // namespace engram
