// The plot of a study as one SVG file, for README and summary.md: loss over rho or over rows, a panel for each budget.
//
// Means with one sample deviation over seeds, every seed as a pale dot, the fitted curve, controls as diamonds at their
// own share. Groups without an axis (dense, ablations) are in the table only.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace engram {

// analysis: analyse_study(). Empty where no group has three points on one of the two axes.
std::string study_svg(const std::string& title, const nlohmann::ordered_json& analysis);

// The same for sets that are named by a dose ("trained-16"), of analyse_sets(): what every arm says over the dose.
// Empty where no family has three doses.
std::string doses_svg(const std::string& title, const nlohmann::ordered_json& sets);

}  // namespace engram
