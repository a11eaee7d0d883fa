#include "engram/lab/study/study_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "engram/core/markup.h"
#include "engram/core/progress.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kPanelWidth = 380, kPanelHeight = 260, kLeft = 70, kTop = 60, kGap = 90, kBottom = 60;
constexpr double kLegend = 210;  // beside the panels
constexpr std::array kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
                                "#000000", "#8c564b", "#7f7f7f", "#bcbd22", "#17becf", "#9467bd"};
constexpr int kCurvePieces = 60;

struct Point {
  double x = 0, mean = 0, deviation = 0;
  std::vector<double> seeds;
};

struct Panel {
  std::string title, x_label;
  std::map<std::string, std::vector<Point>> lines;  // by group
  std::map<std::string, Point> controls;            // by name
  std::map<std::string, std::vector<double>> fits;  // by group: coefficients
};

Point read_point(const Json& point, double x) {
  Point out{x, point.at("val_loss").get<double>(), point.value("deviation", 0.0), {}};
  for (const Json& seed : point.at("seeds")) out.seeds.push_back(seed.at(1).get<double>());
  return out;
}

// "rho" or "rows": the axis on which some group has three points; else "".
std::string axis_of(const Json& points) {
  std::map<std::string, std::map<double, int>> seen;  // "axis group budget" to its x
  for (const Json& point : points) {
    const std::string axis = point.at("axis");
    if (axis != "rho" && axis != "rows") continue;
    auto& places = seen[fmt::format("{} {}", point.at("group").get<std::string>(), point.at("budget").dump())];
    ++places[point.at("x").get<double>()];
    if (places.size() >= 3) return axis;
  }
  return "";
}

std::vector<Panel> read_panels(const Json& analysis, const std::string& axis) {
  std::map<int64_t, Panel> panels;
  for (const Json& point : analysis.at("points")) {
    const int64_t budget = point.at("budget");
    if (point.at("axis") == axis) {
      panels[budget].lines[point.at("group")].push_back(read_point(point, point.at("x").get<double>()));
    } else if (axis == "rho" && point.contains("control") && point.at("control").is_string() &&
               point.at("control") != "dense") {
      panels[budget].controls.emplace(point.at("group"), read_point(point, point.at("rho").get<double>()));
    }
  }
  for (const Json& fit : analysis.at(axis == "rho" ? "minima" : "slopes"))
    if (fit.at("targets") == "all")
      panels[fit.at("budget")].fits[fit.at("group")] = fit.at("coefficients").get<std::vector<double>>();
  std::vector<Panel> out;
  for (auto& [budget, panel] : panels) {
    if (panel.lines.empty()) continue;
    panel.title = fmt::format("{} training tokens", format_count(static_cast<double>(budget)));
    panel.x_label = axis == "rows" ? "rows of all tables" : "rho: share of the sparse parameters in experts";
    out.push_back(std::move(panel));
  }
  return out;
}

// A step of 1, 2 or 5 times a power of ten that divides the range into about `pieces`.
double tick_step(double range, double pieces) {
  const double rough = range / pieces, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (rough <= factor * power) return factor * power;
  return 10 * power;
}

// Draws one panel; coordinates are the whole picture's.
class PanelPainter {
 public:
  PanelPainter(const Panel& panel, bool log_x, double left) : panel_(panel), log_x_(log_x), left_(left) {
    const auto include = [&](const Point& point) {
      x_low_ = std::min(x_low_, on_axis(point.x));
      x_high_ = std::max(x_high_, on_axis(point.x));
      y_low_ = std::min(y_low_, point.mean - point.deviation);
      y_high_ = std::max(y_high_, point.mean + point.deviation);
      for (const double loss : point.seeds) {
        y_low_ = std::min(y_low_, loss);
        y_high_ = std::max(y_high_, loss);
      }
    };
    for (const auto& [group, line] : panel.lines) std::for_each(line.begin(), line.end(), include);
    for (const auto& [name, point] : panel.controls) include(point);
    const double x_margin = 0.06 * (x_high_ - x_low_), y_margin = 0.08 * std::max(y_high_ - y_low_, 1e-6);
    x_low_ -= x_margin, x_high_ += x_margin, y_low_ -= y_margin, y_high_ += y_margin;
  }

  std::string draw(bool with_legend) {
    text(left_, kTop - 14, "start", panel_.title);
    draw_axes();
    size_t color = 0;
    for (const auto& [group, line] : panel_.lines) draw_line(group, line, kColors[color++ % kColors.size()]);
    const double legend = kTop + 16;
    for (const auto& [name, point] : panel_.controls) {
      const double px = x(on_axis(point.x)), py = y(point.mean);
      draw_spread(point, "#555555");
      svg_ += fmt::format("<path d=\"M{:.1f} {:.1f}l6 6l-6 6l-6 -6z\" fill=\"#555555\"/>", px, py - 6);
      const bool right = px < left_ + kPanelWidth / 2;
      text(right ? px + 10 : px - 10, py + 4, right ? "start" : "end", name);
    }
    if (with_legend && panel_.lines.size() > 1) draw_legend(left_ + kPanelWidth - 110, legend);
    return svg_;
  }
  // Names beside their colours, downwards from there.
  std::string draw_legend(double at_x, double at_y) {
    size_t color = 0;
    for (const auto& [group, line] : panel_.lines) {
      svg_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"/>", at_x, at_y - 4,
                          kColors[color++ % kColors.size()]);
      text(at_x + 10, at_y, "start", group);
      at_y += 18;
    }
    return svg_;
  }

 private:
  double on_axis(double value) const { return log_x_ ? std::log10(value) : value; }
  double x(double on) const { return left_ + kPanelWidth * (on - x_low_) / (x_high_ - x_low_); }
  double y(double loss) const { return kTop + kPanelHeight * (y_high_ - loss) / (y_high_ - y_low_); }

  void text(double at_x, double at_y, const char* anchor, const std::string& words) {
    svg_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", at_x, at_y, anchor,
                        escape_html(words));
  }
  void line(double x1, double y1, double x2, double y2, const char* color, double width) {
    svg_ +=
        fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" stroke-width=\"{}\"/>",
                    x1, y1, x2, y2, color, width);
  }

  void draw_axes() {
    const double y_step = tick_step(y_high_ - y_low_, 5), right = left_ + kPanelWidth, bottom = kTop + kPanelHeight;
    for (double tick = std::ceil(y_low_ / y_step) * y_step; tick < y_high_; tick += y_step) {
      line(left_, y(tick), right, y(tick), "#e4e4e4", 1);
      text(left_ - 8, y(tick) + 4, "end", fmt::format("{:.3f}", tick));
    }
    const double x_step = log_x_ ? 1 : tick_step(x_high_ - x_low_, 6);
    for (double tick = std::ceil(x_low_ / x_step) * x_step; tick < x_high_; tick += x_step) {
      line(x(tick), kTop, x(tick), bottom, "#e4e4e4", 1);
      text(x(tick), bottom + 18, "middle", log_x_ ? format_count(std::pow(10, tick)) : fmt::format("{:.1f}", tick));
    }
    line(left_, bottom, right, bottom, "#888888", 1);
    line(left_, kTop, left_, bottom, "#888888", 1);
    text(left_ + kPanelWidth / 2, bottom + 42, "middle", panel_.x_label);
  }

  void draw_spread(const Point& point, const char* color) {
    const double px = x(on_axis(point.x));
    for (const double loss : point.seeds)
      svg_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\" fill-opacity=\"0.3\"/>", px,
                          y(loss), color);
    if (point.deviation > 0) line(px, y(point.mean - point.deviation), px, y(point.mean + point.deviation), color, 1.5);
  }

  void draw_line(const std::string& group, const std::vector<Point>& points, const char* color) {
    const auto fit = panel_.fits.find(group);
    if (fit != panel_.fits.end() && !fit->second.empty()) {
      const auto [first, last] =
          std::minmax_element(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
      const double low = on_axis(first->x), high = on_axis(last->x);
      std::string curve;
      for (int i = 0; i <= kCurvePieces; ++i) {
        const double at = low + (high - low) * i / kCurvePieces;
        double loss = 0, power = 1;
        for (const double c : fit->second) {
          loss += c * power;
          power *= at;
        }
        curve += fmt::format("{:.1f},{:.1f} ", x(at), y(loss));
      }
      svg_ += fmt::format(
          "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\" points=\"{}\"/>\n",
          color, curve);
    }
    for (const Point& point : points) {
      draw_spread(point, color);
      svg_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"/>\n", x(on_axis(point.x)),
                          y(point.mean), color);
    }
  }

  static constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Panel& panel_;
  const bool log_x_;
  const double left_;
  double x_low_ = kInfinity, x_high_ = -kInfinity, y_low_ = kInfinity, y_high_ = -kInfinity;
  std::string svg_;
};

// Panels side by side below the title. Many lines have their legend once, beside the last panel.
std::string draw_panels(const std::string& title, const std::vector<Panel>& panels, bool log_x, bool legend_beside) {
  double left = kLeft;
  const double panels_width = static_cast<double>(panels.size()) * (kPanelWidth + kGap) - kGap + 30;
  const double width = kLeft + panels_width + (legend_beside ? kLegend : 0), height = kTop + kPanelHeight + kBottom;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"22\" font-size=\"15\">{3}</text>\n",
      width, height, kLeft, escape_html(title));
  for (const Panel& panel : panels) {
    svg += PanelPainter(panel, log_x, left).draw(!legend_beside);
    left += kPanelWidth + kGap;
  }
  if (legend_beside) svg += PanelPainter(panels.back(), log_x, left).draw_legend(left - kGap + 30, kTop + 16);
  return svg + "</svg>\n";
}

}  // namespace

std::string study_svg(const std::string& title, const Json& analysis) {
  const std::string axis = axis_of(analysis.at("points"));
  if (axis.empty()) return "";
  return draw_panels(title + " (validation loss, nats per token)", read_panels(analysis, axis), axis == "rows", false);
}

std::string doses_svg(const std::string& title, const Json& sets) {
  std::map<std::pair<std::string, std::string>, Panel> panels;  // by measure and family
  std::map<std::string, const Json*> known;
  for (const Json& set : sets.at("sets")) known[set.at("name")] = &set;
  for (const Json& value : sets.at("values")) {
    const Json& set = *known.at(value.at("set"));
    const double dose = set.at("dose").get<double>();
    if (dose < 1) continue;
    const std::string measure = value.at("measure"), family = set.at("family");
    Panel& panel = panels[{measure, family}];
    panel.title = fmt::format("{}: {}", family, measure == "exact" ? "exact answers" : "bits per byte of the answers");
    panel.x_label = "how often a fact was told";
    Point point{dose, value.at("mean").get<double>(), 0, {}};
    for (const Json& seed : value.at("seeds")) point.seeds.push_back(seed.at(1).get<double>());
    panel.lines[sets.at("arms").at(value.at("arm").get<size_t>()).at("label")].push_back(std::move(point));
  }
  std::vector<Panel> curves;
  for (auto& [key, panel] : panels)
    if (panel.lines.begin()->second.size() >= 3) curves.push_back(std::move(panel));
  return curves.empty() ? "" : draw_panels(title, curves, /*log_x=*/true, /*legend_beside=*/true);
}

}  // namespace engram
