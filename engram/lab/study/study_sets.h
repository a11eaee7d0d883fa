// The named validation sets of a study, compared: what each arm (group and budget) says on each set, against the groups
// that the study names as references, at equal tokens, equal training operations and equal seconds; its hypotheses with
// their verdicts, and what each arm costs.
//
// Differences are taken seed by seed, as seeds may have texts of their own. Their interval is by t (study_fits.h), with
// the noise of all arms that train or, where it is larger, that of the two alone. Torch-free.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "engram/core/status.h"
#include "engram/lab/pages/page.h"

namespace engram {

inline constexpr const char* kValidationText = "validation text";  // among the sets: what data.validation holds

// Whether a run of data.json recorded a validation set.
bool has_validation_sets(const nlohmann::json& data);

// {"sets", "arms", "frames", "doses", "hypotheses"}; docs/lab.md, "Retrofit". kDataLoss names what data.json lacks.
Result<nlohmann::ordered_json> analyse_sets(const nlohmann::json& data);

// The study's page, made of analyse_sets().
Page sets_page(const nlohmann::json& data, const nlohmann::ordered_json& sets);

}  // namespace engram
