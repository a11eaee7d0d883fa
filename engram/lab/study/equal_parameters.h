// What became of a study's promise of equal parameters (kTotalTolerance and kActiveTolerance of model/parameters.h).
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace engram {

// One sentence for the page, from data.json: how near P_tot and P_act of the models that promise equality came. Empty
// where no model does. Records of before p_tot_wanted are held against the study's own run at rho = 1.
std::string equal_parameters_text(const nlohmann::ordered_json& data);

}  // namespace engram
