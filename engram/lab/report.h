// Reports: a page is a template with a chart library and one JSON object inlined, so that it opens offline.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace engram {

// Replaces /*CHART_JS*/ (by the library and by what the pages share, assets/page.js) and /*DATA*/ in the template. "</"
// inside the JSON is escaped, so a text cannot end the script element. ENGRAM_CHECKs that both marks
// are there.
std::string render_report(std::string_view page_template, const nlohmann::ordered_json& data);

}  // namespace engram
