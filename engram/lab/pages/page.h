// Page: what a probe shows, as a list of blocks, rendered twice: report.html (one file, opens offline) and summary.md.
//
// A block is a paragraph, a table, a chart of lines with error bars, a heat-map with an optional curve, or text whose
// tokens are coloured. The page travels inside data.json, so a report renders from data.json alone.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// One line of a chart. low and high (both or neither) are the ends of the error bars.
struct Series {
  std::string label;
  std::vector<double> x, y, low, high;
};

class Page {
 public:
  Page(std::string title, std::string question);

  void paragraph(std::string text);
  // Cells are text already; the first column is left-aligned.
  void table(std::string title, std::string note, std::vector<std::string> header,
             std::vector<std::vector<std::string>> rows);
  void lines(std::string title, std::string note, std::string x_label, std::string y_label,
             const std::vector<Series>& series);
  // values[y][x], drawn over cells numbered from 0; the curve's points lie in the same coordinates.
  void heatmap(std::string title, std::string note, std::string x_label, std::string y_label,
               const std::vector<std::vector<double>>& values, const Series& curve);
  // Lines of text; every piece has a strength in [0, 1] and a number that a pointer shows.
  struct Piece {
    std::string text;
    double strength = 0, value = 0;
  };
  void coloured_text(std::string title, std::string note, const std::vector<std::vector<Piece>>& lines);

  nlohmann::ordered_json json() const;  // {"title", "question", "blocks"}

 private:
  nlohmann::ordered_json page_;
};

// data: an object with "page" (Page::json()), "command", "commit", "machine" and "date", and the numbers themselves.
std::string render_page_html(const nlohmann::ordered_json& data);
// Paragraphs and tables; charts are in report.html.
std::string render_page_markdown(const nlohmann::ordered_json& data);

// report.html, summary.md and, last, data.json in the folder, which is made.
Status write_page_files(Env& env, const std::string& folder, const nlohmann::ordered_json& data);

// Layers count from 0, as layer_ids do: layer_name(1) is "layer 1 (second block)".
std::string layer_name(int64_t layer_id);
inline constexpr const char* kLayersCountFromZero = "Layers count from 0: layer 1 is the second block.";

// "1.234" with so many digits after the point; "-" for what is not a number.
std::string fixed_text(double value, int digits = 3);
// "1.234 +- 0.005"
std::string with_error(double value, double error, int digits = 3);
// "[0.12, 0.34]"
std::string interval_text(double low, double high, int digits = 3);

}  // namespace engram
