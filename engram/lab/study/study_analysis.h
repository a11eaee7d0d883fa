// What a study's data.json says: means over seeds, gains over the baseline, and the fits of its question.
//
//   allocation  loss = a + b rho + c rho^2 for each budget: where the minimum is; pure experts against the mixes
//   memory      loss = a + b log10(rows) for each group and budget
// Intervals: study_fits.h. A gain's noise comes from all points of its line (one group with an axis) and budget, and of
// a model without an axis from all such models of its budget; the baseline belongs to both.
//
// Where runs recorded the parts of their validation text (data/text_parts.h), points have "repeats" and "rest", and
// every fit is made twice: on all targets and on the rest, whose loss does not hang on copying. Torch-free.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "engram/core/status.h"
#include "engram/lab/study/study_fits.h"

namespace engram {

// data: data.json. {"points": [...], "lines": [...], "minima": [...], "slopes": [...]} for pages; docs/lab.md lists the
// fields. kDataLoss names what data.json lacks.
Result<nlohmann::ordered_json> analyse_study(const nlohmann::json& data);

// What a run's group sweeps, in words: "muon_lr 0.008, adamw_lr 0.004"; empty where it sweeps nothing.
std::string sweep_label(const nlohmann::json& run);

}  // namespace engram
