// Reports: a page is a template with a chart library and one JSON object inlined, so that it opens offline.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace engram {

// The template with /*PAGE_CSS*/, /*CHART_JS*/, /*PAGE_JS*/ (the scripts that report pages share) and /*DATA*/ filled
// in. Text in `data` stays text, whatever it is (core/markup.h). ENGRAM_CHECKs that all four marks are there.
std::string render_report(std::string_view page_template, const nlohmann::ordered_json& data);

}  // namespace engram
