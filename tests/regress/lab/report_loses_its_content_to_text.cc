// Seen: "<!--<script>" in a text that a report shows opened a comment in summary.md, and the rest of it was gone; the
// HTML pages escaped two of the sequences that matter, each room in its own way. Right: whatever a model, a file or a
// user writes is shown as text, and a page's data parses back equal.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "engram/core/markup.h"
#include "engram/lab/pages/assets.h"
#include "engram/lab/pages/page.h"
#include "engram/lab/pages/report.h"
#include "engram/lab/study/study_report.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

bool is_one_of(char c, std::string_view set) { return set.find(c) != std::string_view::npos; }

// A tag's name at `at` in the text, in any case, ended as the HTML standard's script states end it.
bool tag_at(std::string_view text, size_t at, std::string_view tag) {
  if (at + tag.size() >= text.size()) return false;
  for (size_t i = 0; i < tag.size(); ++i)
    if (std::tolower(static_cast<unsigned char>(text[at + i])) != tag[i]) return false;
  return is_one_of(text[at + tag.size()], " \t\n\f/>");
}

// Where the script element ends that begins at `begin`: the tokenizer of the HTML standard (13.2.5.4 and 13.2.5.18 to
// .31), with its escaped and double escaped states. npos: never.
size_t script_end(std::string_view page, size_t begin) {
  enum { kScript, kEscaped, kDoubleEscaped } state = kScript;
  for (size_t at = begin; at < page.size(); ++at) {
    const std::string_view rest = page.substr(at);
    if (state == kScript && rest.starts_with("<!--")) {
      state = kEscaped;
      at += 1;  // its two dashes may be those of "-->"
    } else if (state != kScript && rest.starts_with("-->")) {
      state = kScript;
    } else if (state == kEscaped && tag_at(page, at, "<script")) {
      state = kDoubleEscaped;
    } else if (state == kDoubleEscaped && tag_at(page, at, "</script")) {
      state = kEscaped;
    } else if (state != kDoubleEscaped && tag_at(page, at, "</script")) {
      return at;
    }
  }
  return std::string_view::npos;
}

// What a browser reads as the page's data: the text of the first script element with id="data".
std::string data_of(std::string_view page) {
  static constexpr std::string_view kOpen = "<script type=\"application/json\" id=\"data\">";
  size_t at = 0;
  while ((at = page.find("<script", at)) != std::string_view::npos) {
    const size_t begin = page.find('>', at) + 1;
    const size_t end = script_end(page, begin);
    if (end == std::string_view::npos) return "a script that never ends";
    if (page.substr(at).starts_with(kOpen)) return std::string(page.substr(begin, end - begin));
    at = end;
  }
  return "no data";
}

// Pieces that mean something to HTML, JSON, JavaScript or a template, strung together at random.
std::string hostile_text(std::mt19937& random) {
  static const std::vector<std::string> kPieces = {"<!--",
                                                   "<!--<script>",
                                                   "<script",
                                                   "<script>",
                                                   "</script",
                                                   "</script>",
                                                   "</SCRIPT\t",
                                                   "-->",
                                                   "--!>",
                                                   "<![CDATA[",
                                                   "]]>",
                                                   "<",
                                                   ">",
                                                   "&",
                                                   "&lt;",
                                                   "\"",
                                                   "'",
                                                   "`",
                                                   "\\",
                                                   "\\u003c",
                                                   "\xE2\x80\xA8",
                                                   "\xE2\x80\xA9",
                                                   "\xFF",
                                                   "\xC3",
                                                   "\xE6\x97\xA5",
                                                   std::string(1, '\0'),
                                                   "\r\n",
                                                   "|",
                                                   "*",
                                                   "/*DATA*/",
                                                   "/*PAGE_CSS*/",
                                                   "/*PAGE_JS*/",
                                                   "${x}",
                                                   "{",
                                                   "<img src=x onerror=alert(1)>",
                                                   "<textarea>",
                                                   "<title>",
                                                   "a",
                                                   " "};
  std::string text;
  for (size_t n = random() % 8; n > 0; --n) text += kPieces[random() % kPieces.size()];
  return text;
}

// As JSON keeps it: bytes that are no UTF-8 are replaced.
Json kept(const Json& data) { return Json::parse(data.dump(-1, ' ', false, Json::error_handler_t::replace)); }

TEST(ReportLosesItsContent, OracleSeesWhatABrowserSees) {
  const auto shown = [](const std::string& json) {
    return data_of("<script type=\"application/json\" id=\"data\">" + json + "</script><p>rest</p>");
  };
  EXPECT_EQ(shown("{}"), "{}");
  EXPECT_EQ(shown("\"</script>\""), "\"");
  EXPECT_EQ(shown("\"<!--<script>\""), "a script that never ends");
  EXPECT_EQ(shown("\"<!--<script>-->\""), "\"<!--<script>-->\"");
}

TEST(ReportLosesItsContent, DataOfEveryPageParsesBackEqual) {
  std::mt19937 random(17);
  for (int round = 0; round < 1500; ++round) {
    Json data = {{"title", hostile_text(random)}, {"rows", Json::array({hostile_text(random), 1.5, nullptr})}};
    data[kept(hostile_text(random)).get<std::string>()] = hostile_text(random);
    for (const std::string_view page :
         {assets::demo_report_html, assets::probe_report_html, assets::study_report_html}) {
      // The chart library is 200 KB of every page, and trusted: a short stand-in is searched instead.
      const std::string html = round < 20 ? render_report(page, data)
                                          : fill_page(page, {{"/*CHART_JS*/", "0"}, {"/*DATA*/", script_json(data)}});
      ASSERT_EQ(Json::parse(data_of(html), nullptr, false), kept(data)) << data_of(html).substr(0, 400);
    }
  }
}

TEST(ReportLosesItsContent, NoCharacterOfScriptJsonMeansAnything) {
  std::mt19937 random(18);
  for (int round = 0; round < 5000; ++round) {
    const std::string json = script_json(Json(hostile_text(random)));
    for (const char* mark : {"<", "\xE2\x80\xA8", "\xE2\x80\xA9", "\n"}) EXPECT_EQ(json.find(mark), std::string::npos);
  }
}

TEST(ReportLosesItsContent, HtmlAndMarkdownTextOpenNothing) {
  EXPECT_EQ(escape_html("<!--<script>\"&'"), "&lt;!--&lt;script&gt;&quot;&amp;&#39;");
  EXPECT_EQ(escape_markdown("<!--<script> a|b `c` *d* \\\ne & f"),
            "&lt;!--&lt;script> a\\|b \\`c\\` \\*d\\* \\\\ e &amp; f");
}

TEST(ReportLosesItsContent, SummaryOfAProbe) {
  Page page("<!--<script>", "why <!--?");
  page.paragraph("<!-- gone?");
  page.table("T <!--", "N <!--", {"<!-- head"}, {{"<!--<script>|`"}});
  const std::string text = render_page_markdown({{"page", page.json()},
                                                 {"command", "engram lab"},
                                                 {"commit", "0"},
                                                 {"machine", "<!-- m"},
                                                 {"date", "2026-01-01"}});
  EXPECT_EQ(text.find('<'), std::string::npos) << text;
  EXPECT_NE(text.find("| &lt;!--&lt;script>\\|\\` |"), std::string::npos) << text;
}

}  // namespace
}  // namespace engram
