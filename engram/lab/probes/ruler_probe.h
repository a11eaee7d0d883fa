// RULER (experiment E4): does a model find what is far back in its context?
//
// The tasks of data/ruler.h at several lengths, answered greedily, scored by RULER's string match. Where the first
// model does not solve the single needle, a comparison says nothing, and the report says so.
#pragma once
#include "engram/data/ruler.h"
#include "engram/lab/probes/probe.h"

namespace engram {

// Scores in [0, 1], one per sample of the task: indices 0 .. samples - 1. kInvalidArgument: the model's context is
// shorter than the generator's length.
Result<std::vector<double>> answer_ruler(Env& env, const LoadedModel& model, const RulerGenerator& generator,
                                         RulerTask task, int64_t samples);

Result<ProbeResult> probe_ruler(const ProbeContext& context);

}  // namespace engram
