#include "engram/lab/report.h"

#include <fmt/format.h>

#include "engram/core/status.h"
#include "engram/lab/assets.h"

namespace engram {
namespace {

void replace_mark(std::string& page, std::string_view mark, std::string_view text) {
  const size_t at = page.find(mark);
  ENGRAM_CHECK(at != std::string::npos, "report template without {}", mark);
  page.replace(at, mark.size(), text);
}

}  // namespace

std::string render_report(std::string_view page_template, const nlohmann::ordered_json& data) {
  std::string json = data.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  for (size_t at = 0; (at = json.find("</", at)) != std::string::npos; at += 3) json.replace(at, 2, "<\\/");
  for (size_t at = 0; (at = json.find("<!--", at)) != std::string::npos; at += 9) json.replace(at, 1, "\\u003c");
  std::string page(page_template);
  replace_mark(page, "/*DATA*/", json);  // before the library: its text is trusted, the data is not
  replace_mark(page, "/*CHART_JS*/", fmt::format("{}\n</script><script>\n{}", assets::chart_js, assets::page_js));
  return page;
}

}  // namespace engram
