// The pages of a study: FOLDER/summary.md, FOLDER/report.html and, where there is an axis, FOLDER/plot.svg, from its
// data.json alone, in well under a second.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// kDataLoss names what data.json lacks; nothing is written then.
Status write_study_pages(Env& env, const std::string& folder, const nlohmann::ordered_json& data);
// What the pages say, as numbers: analyse_study() and "fits", its sentences. Writes nothing.
Result<nlohmann::ordered_json> study_numbers(Env& env, const std::string& folder);

}  // namespace engram
