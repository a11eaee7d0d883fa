#include "engram/train/open_sinks.h"

#include "engram/train/csv_log.h"
#include "engram/train/event_log.h"

namespace engram {
namespace {

// What the first line may lack: fields that only steps with validation have.
std::vector<std::string> later_fields(const Recipe& recipe) {
  std::vector<std::string> fields = {"validation_loss", "bits_per_byte"};
  if (recipe.train.average != AverageKind::kNone)
    for (const char* field : {"average/validation_loss", "average/bits_per_byte"}) fields.emplace_back(field);
  for (const ValidationSet& set : recipe.data.validation_sets)
    for (const char* field : {"loss", "bits_per_byte", "exact"})
      fields.push_back(fmt::format("validation_sets/{}/{}", set.name, field));
  return fields;
}

}  // namespace

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
