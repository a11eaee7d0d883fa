#include "engram/lab/pages/report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "engram/lab/pages/assets.h"
#include "engram/lab/pages/page.h"
#include "engram/lab/pages/results.h"

namespace engram {
namespace {

TEST(Report, InlinesStyleLibraryAndData) {
  const std::string page = render_report(
      "<style>/*PAGE_CSS*/</style><script>/*CHART_JS*/</script>/*PAGE_JS*/<x>/*DATA*/</x>", {{"loss", 1.5}});
  EXPECT_NE(page.find("Chart.js"), std::string::npos);
  EXPECT_NE(page.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_NE(page.find("<x>{\"loss\":1.5}</x>"), std::string::npos);
}

TEST(Report, TextThatLooksLikeAMarkStaysText) {
  const std::string page = render_report("/*PAGE_CSS*//*CHART_JS*//*PAGE_JS*/|/*DATA*/|",
                                         {{"text", "/*DATA*/ /*CHART_JS*/ /*PAGE_CSS*/ /*PAGE_JS*/"}});
  EXPECT_NE(page.find("{\"text\":\"/*DATA*/ /*CHART_JS*/ /*PAGE_CSS*/ /*PAGE_JS*/\"}"), std::string::npos);
}

TEST(Report, TemplatesNeedNoNetworkAndBringNoColours) {
  for (const std::string_view page : {assets::demo_report_html, assets::probe_report_html, assets::study_report_html}) {
    for (const char* mark : {"http://", "https://", "src=", "@import", "<link"}) EXPECT_EQ(page.find(mark), page.npos);
    // Colours are the stylesheet's, so that the dark theme is one block of it.
    for (size_t at = page.find('#'); at != page.npos; at = page.find('#', at + 1))
      EXPECT_FALSE(at + 3 < page.size() && std::isxdigit(page[at + 1]) && std::isxdigit(page[at + 2]) &&
                   std::isxdigit(page[at + 3]))
          << page.substr(at, 20);
  }
}

TEST(Results, PagesAreMadeAgainFromNumbersAlone) {
  Env& env = Env::posix();
  const std::string folder =
      (std::filesystem::temp_directory_path() / ("engram_results_" + std::to_string(getpid()))).string();
  Page page("T", "why?");
  page.table("Numbers", "", {"a"}, {{"1"}});
  const nlohmann::ordered_json data = {
      {"page", page.json()}, {"command", "c"}, {"commit", "0"}, {"machine", "m"}, {"date", "2026-01-01"}};
  ASSERT_TRUE(write_page_files(env, folder, data).ok());
  const std::string html = value_or_throw(env.read_file(folder + "/report.html"));
  for (const char* name : {"/report.html", "/summary.md"}) ASSERT_TRUE(env.remove_file(folder + name).ok());
  ASSERT_TRUE(render_results(env, folder).ok());
  EXPECT_EQ(value_or_throw(env.read_file(folder + "/report.html")), html);
  EXPECT_TRUE(env.file_exists(folder + "/summary.md"));
  ASSERT_TRUE(write_file_atomic(env, folder + "/data.json", "{\"page\": {\"title\": 1}}").ok());
  EXPECT_EQ(render_results(env, folder).code(), StatusCode::kDataLoss);
  ASSERT_TRUE(env.remove_file(folder + "/data.json").ok());
  EXPECT_EQ(render_results(env, folder).code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_file_atomic(env, folder + "/summary.json", "{\"models\": {}}").ok());
  EXPECT_TRUE(render_results(env, folder).ok());
  std::filesystem::remove_all(folder);
}

TEST(Page, LayersCountFromZero) {
  EXPECT_EQ(layer_name(0), "layer 0 (first block)");
  EXPECT_EQ(layer_name(1), "layer 1 (second block)");
  EXPECT_EQ(layer_name(10), "layer 10 (11th block)");
  EXPECT_EQ(layer_name(20), "layer 20 (21st block)");
  EXPECT_EQ(layer_name(110), "layer 110 (111th block)");
}

}  // namespace
}  // namespace engram
