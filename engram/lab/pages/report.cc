#include "engram/lab/pages/report.h"

#include <nlohmann/json.hpp>

#include "engram/core/markup.h"
#include "engram/lab/pages/assets.h"

namespace engram {

std::string render_report(std::string_view page_template, const nlohmann::ordered_json& data) {
  return fill_page(page_template, {{"/*PAGE_CSS*/", assets::page_css},
                                   {"/*CHART_JS*/", assets::chart_js},
                                   {"/*PAGE_JS*/", std::string(assets::page_js) + std::string(assets::report_js)},
                                   {"/*DATA*/", script_json(data)}});
}

}  // namespace engram
