#include "engram/lab/report.h"

#include <gtest/gtest.h>

#include "engram/lab/assets.h"

namespace engram {
namespace {

TEST(Report, InlinesLibraryAndData) {
  const std::string page = render_report("<script>/*CHART_JS*/</script><x>/*DATA*/</x>", {{"loss", 1.5}});
  EXPECT_NE(page.find("Chart.js"), std::string::npos);
  EXPECT_NE(page.find("<x>{\"loss\":1.5}</x>"), std::string::npos);
}

TEST(Report, ModelTextCannotLeaveTheScriptElement) {
  const std::string page = render_report("/*CHART_JS*/@@@/*DATA*/", {{"text", "a</script><!--<script>"}});
  const std::string data = page.substr(page.find("@@@") + 3);
  EXPECT_EQ(data.find("</script"), std::string::npos);
  EXPECT_EQ(data.find("<!--"), std::string::npos);
  const auto parsed = nlohmann::json::parse(data);
  EXPECT_EQ(parsed.at("text"), "a</script><!--<script>");
}

TEST(Report, TextThatLooksLikeAMarkStaysText) {
  const std::string page = render_report("/*CHART_JS*/|/*DATA*/|", {{"text", "/*DATA*/ /*CHART_JS*/"}});
  EXPECT_NE(page.find("{\"text\":\"/*DATA*/ /*CHART_JS*/\"}"), std::string::npos);
}

TEST(Report, BytesThatAreNotUtf8AreReplaced) {
  EXPECT_NO_THROW(render_report("/*CHART_JS*/|/*DATA*/|", {{"text", "\xff"}}));
}

TEST(Report, DemoTemplateNeedsNoNetwork) {
  const std::string_view page = assets::demo_report_html;
  EXPECT_EQ(page.find("http://"), std::string_view::npos);
  EXPECT_EQ(page.find("https://"), std::string_view::npos);
  EXPECT_EQ(page.find("src="), std::string_view::npos);
}

}  // namespace
}  // namespace engram
