// Markup: text that somebody else wrote, put into a page so that it stays text.
//
// Every page is a template with marks: a report, a study's page, the serving page. What a model, a user or a file says
// reaches it in one of three ways, each with one function here.
#pragma once
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace engram {

// JSON for the inside of a <script> element, on one line. "<" becomes \u003c wherever it stands, so that no text opens
// a comment, opens a script or ends the element (HTML standard, "Restrictions for contents of script elements"); U+2028
// and U+2029, which end a line in older JavaScript, are escaped likewise. Any JSON parser reads the same value back.
// Bytes that are not UTF-8 become U+FFFD.
std::string script_json(const nlohmann::ordered_json& data);

// Text between tags, or in a quoted attribute, of HTML and SVG.
std::string escape_html(std::string_view text);

// Text inside a paragraph or a table cell of Markdown, on one line: no tag, emphasis, code or column begins in it.
std::string escape_markdown(std::string_view text);

// The template with every mark replaced where it stands first. What is put in is never searched for marks.
// ENGRAM_CHECKs that every mark is there.
std::string fill_page(std::string_view page_template,
                      std::initializer_list<std::pair<std::string_view, std::string_view>> marks);

namespace assets {
extern const std::string_view page_css;  // engram/core/assets/page.css: the stylesheet of every page
extern const std::string_view page_js;   // engram/core/assets/page.js: what every page's script begins with
}  // namespace assets

}  // namespace engram
