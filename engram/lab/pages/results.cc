#include "engram/lab/pages/results.h"

#include "engram/core/json.h"
#include "engram/lab/pages/assets.h"
#include "engram/lab/pages/page.h"
#include "engram/lab/pages/report.h"
#include "engram/lab/study/study_report.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

Result<Json> read_ordered_json(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
  return parse_ordered_json(text, path);
}

Status render_page(Env& env, const std::string& folder, const Json& data) {
  std::string markdown;
  try {
    markdown = render_page_markdown(data);
  } catch (const Json::exception& error) {
    return data_loss("data.json: page: {}", error.what());
  }
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(folder, "report.html"), render_page_html(data)));
  return write_file_atomic(env, join_path(folder, "summary.md"), markdown);
}

}  // namespace

Status render_results(Env& env, const std::string& folder) {
  const std::string numbers = join_path(folder, "data.json"), demo = join_path(folder, "summary.json");
  if (!env.file_exists(numbers) && env.file_exists(demo)) {
    ENGRAM_ASSIGN_OR_RETURN(const Json summary, read_ordered_json(env, demo));
    if (!summary.is_object() || !summary.contains("models")) return data_loss("{}: wanted a demo's summary", demo);
    return write_file_atomic(env, join_path(folder, "report.html"), render_report(assets::demo_report_html, summary));
  }
  ENGRAM_ASSIGN_OR_RETURN(const Json data, read_ordered_json(env, numbers));
  if (data.is_object() && data.contains("page")) return render_page(env, folder, data).with_context(folder);
  return write_study_pages(env, folder, data).with_context(folder);
}

}  // namespace engram
