#include "engram/lab/pages/page.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engram/core/markup.h"
#include "engram/lab/pages/assets.h"
#include "engram/lab/pages/report.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

Json series_json(const Series& series) {
  return {{"label", series.label}, {"x", series.x}, {"y", series.y}, {"low", series.low}, {"high", series.high}};
}

std::string markdown_of(const Json& text) { return escape_markdown(text.get<std::string>()); }

std::string markdown_row(const Json& cells) {
  std::string row = "|";
  for (const Json& cell : cells) row += fmt::format(" {} |", markdown_of(cell));
  return row + "\n";
}

}  // namespace

Page::Page(std::string title, std::string question)
    : page_{{"title", std::move(title)}, {"question", std::move(question)}, {"blocks", Json::array()}} {}

void Page::paragraph(std::string text) {
  page_["blocks"].push_back({{"kind", "paragraph"}, {"text", std::move(text)}});
}

void Page::table(std::string title, std::string note, std::vector<std::string> header,
                 std::vector<std::vector<std::string>> rows) {
  page_["blocks"].push_back({{"kind", "table"},
                             {"title", std::move(title)},
                             {"note", std::move(note)},
                             {"header", std::move(header)},
                             {"rows", std::move(rows)}});
}

void Page::lines(std::string title, std::string note, std::string x_label, std::string y_label,
                 const std::vector<Series>& series) {
  Json all = Json::array();
  for (const Series& one : series) all.push_back(series_json(one));
  page_["blocks"].push_back({{"kind", "lines"},
                             {"title", std::move(title)},
                             {"note", std::move(note)},
                             {"x_label", std::move(x_label)},
                             {"y_label", std::move(y_label)},
                             {"series", std::move(all)}});
}

void Page::heatmap(std::string title, std::string note, std::string x_label, std::string y_label,
                   const std::vector<std::vector<double>>& values, const Series& curve) {
  page_["blocks"].push_back({{"kind", "heatmap"},
                             {"title", std::move(title)},
                             {"note", std::move(note)},
                             {"x_label", std::move(x_label)},
                             {"y_label", std::move(y_label)},
                             {"first", 0},
                             {"values", values},
                             {"curve", series_json(curve)}});
}

void Page::coloured_text(std::string title, std::string note, const std::vector<std::vector<Piece>>& lines) {
  Json all = Json::array();
  for (const auto& line : lines) {
    Json pieces = Json::array();
    for (const Piece& piece : line) pieces.push_back(Json::array({piece.text, piece.strength, piece.value}));
    all.push_back(std::move(pieces));
  }
  page_["blocks"].push_back(
      {{"kind", "coloured"}, {"title", std::move(title)}, {"note", std::move(note)}, {"lines", std::move(all)}});
}

Json Page::json() const { return page_; }

std::string render_page_html(const Json& data) { return render_report(assets::probe_report_html, data); }

std::string render_page_markdown(const Json& data) {
  const Json& page = data.at("page");
  std::string out = fmt::format("# {}\n\n{}\n", markdown_of(page.at("title")), markdown_of(page.at("question")));
  for (const Json& block : page.at("blocks")) {
    const auto kind = block.at("kind").get<std::string>();
    if (kind == "paragraph") {
      out += fmt::format("\n{}\n", markdown_of(block.at("text")));
    } else if (kind == "table") {
      out += fmt::format("\n## {}\n", markdown_of(block.at("title")));
      if (const std::string note = markdown_of(block.at("note")); !note.empty()) out += note + "\n";
      out += fmt::format("\n{}", markdown_row(block.at("header")));
      for (size_t i = 0; i < block.at("header").size(); ++i) out += i == 0 ? "|---|" : "---|";
      out += "\n";
      for (const Json& row : block.at("rows")) out += markdown_row(row);
    }
  }
  return out + fmt::format("\nCommand: `{}`\nCommit {} on {}, {}. Charts: report.html; every number: data.json.\n",
                           data.at("command").get<std::string>(), markdown_of(data.at("commit")),
                           markdown_of(data.at("machine")), markdown_of(data.at("date")));
}

Status write_page_files(Env& env, const std::string& folder, const Json& data) {
  ENGRAM_RETURN_IF_ERROR(env.create_directories(folder));
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(folder, "report.html"), render_page_html(data)));
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(folder, "summary.md"), render_page_markdown(data)));
  return write_file_atomic(env, join_path(folder, "data.json"),
                           data.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

std::string layer_name(int64_t layer_id) {
  constexpr std::array kOrdinals = {"first", "second",  "third",  "fourth", "fifth",
                                    "sixth", "seventh", "eighth", "ninth",  "tenth"};
  const int64_t n = layer_id + 1;
  if (n >= 1 && n <= static_cast<int64_t>(kOrdinals.size()))
    return fmt::format("layer {} ({} block)", layer_id, kOrdinals[static_cast<size_t>(n - 1)]);
  const bool teen = n % 100 > 10 && n % 100 < 14;
  const char* ending = teen ? "th" : n % 10 == 1 ? "st" : n % 10 == 2 ? "nd" : n % 10 == 3 ? "rd" : "th";
  return fmt::format("layer {} ({}{} block)", layer_id, n, ending);
}

std::string fixed_text(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  std::string text = fmt::format("{:.{}f}", value, digits);
  if (text.find_first_not_of("-0.") == std::string::npos) text.erase(0, text.find('0'));  // no "-0.000"
  return text;
}

std::string with_error(double value, double error, int digits) {
  return fixed_text(value, digits) + " +- " + fixed_text(error, digits);
}

std::string interval_text(double low, double high, int digits) {
  return fmt::format("[{}, {}]", fixed_text(low, digits), fixed_text(high, digits));
}

}  // namespace engram
