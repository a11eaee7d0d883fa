// Files compiled into the program (cmake/EngramEmbed.cmake).
#pragma once
#include <string_view>

namespace engram::assets {
extern const std::string_view chart_js;            // Chart.js, from Debian's libjs-chart.js
extern const std::string_view report_js;           // engram/lab/pages/assets/report.js
extern const std::string_view study_report_html;   // engram/lab/pages/assets/study_report.html
extern const std::string_view demo_report_html;    // engram/lab/pages/assets/demo_report.html
extern const std::string_view probe_report_html;   // engram/lab/pages/assets/probe_report.html
extern const std::string_view watch_html;          // engram/lab/pages/assets/watch.html
extern const std::string_view entities_txt;        // engram/lab/pages/assets/entities.txt
extern const std::string_view known_entities_txt;  // engram/lab/pages/assets/known_entities.txt
extern const std::string_view facts_jsonl;         // engram/lab/pages/assets/facts.jsonl
}  // namespace engram::assets
