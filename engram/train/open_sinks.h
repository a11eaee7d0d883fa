// The sinks that a recipe names.
#pragma once
#include <memory>
#include <vector>

#include "engram/train/metrics_sink.h"
#include "engram/train/recipe.h"

namespace engram {

// In OUTPUT; they continue after `step` completed steps: what they hold of later ones, and a torn end, is cut off.
Result<std::vector<std::unique_ptr<MetricsSink>>> open_metrics_sinks(Env& env, const Recipe& recipe, int64_t step);

}  // namespace engram
