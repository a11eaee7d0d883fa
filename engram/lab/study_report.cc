#include "engram/lab/study_report.h"

#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/lab/assets.h"
#include "engram/lab/report.h"
#include "engram/lab/study_analysis.h"
#include "engram/lab/study_plot.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

std::string text_of(const Json& data, const char* key) {
  const auto found = data.find(key);
  return found != data.end() && found->is_string() ? found->get<std::string>() : std::string("unknown");
}

std::string tokens_text(const Json& budget) { return format_count(budget.get<double>()); }

std::string seeds_text(const Json& seeds) {
  std::string text;
  for (const Json& seed : seeds) text += fmt::format("{}{:.4f}", text.empty() ? "" : ", ", seed.at(1).get<double>());
  return text;
}

// One seed has no deviation.
std::string deviation_text(const Json& point, const char* key) {
  return point.contains(key) ? fmt::format("{:.4f}", point.at(key).get<double>()) : std::string("-");
}

std::string point_row(const Json& point) {
  const auto integer = [&](const char* key) { return point.value(key, int64_t{0}); };
  const std::string label = point.at("label");
  std::string gain = "-";
  if (point.contains("gain"))
    gain = fmt::format("{:+.4f} ({})", point.at("gain").get<double>(), deviation_text(point, "gain_deviation"));
  return fmt::format(
      "| {}{}{} | {} | {:.3f} | {:.4f} | {} | {} | {} | {:.4f} | {:.4f} | {} | {} | {} | {} | {:.0f} |\n",
      point.at("group").get<std::string>(), label.empty() ? "" : ": ", label, tokens_text(point.at("budget")),
      point.value("rho_counted", 0.0), point.at("val_loss").get<double>(), deviation_text(point, "deviation"),
      seeds_text(point.at("seeds")), gain, point.at("bits_per_byte").get<double>(),
      point.at("train_loss").get<double>(), integer("p_tot"), integer("p_act"), integer("experts"), integer("rows"),
      1000 * point.at("seconds_per_step").get<double>());
}

// Without a second seed nothing can be drawn anew.
std::string interval_words(const Json& interval, const char* format) {
  const double low = interval[0].get<double>(), high = interval[1].get<double>();
  if (low == high) return "no interval with one seed";
  return fmt::format(fmt::runtime(format), low, high);
}

std::string fit_lines(const Json& analysis) {
  std::string text;
  for (const Json& fit : analysis.at("minima")) {
    text += fmt::format("- {} at {} tokens: ", fit.at("group").get<std::string>(), tokens_text(fit.at("budget")));
    if (!fit.at("convex").get<bool>()) {
      text += "the fitted parabola has no minimum.\n";
      continue;
    }
    text += fmt::format("lowest fitted loss {:.4f} at rho {:.3f}, {}{}.\n", fit.at("loss").get<double>(),
                        fit.at("rho").get<double>(),
                        interval_words(fit.at("interval"), "interval {:.3f} .. {:.3f} (95 %, bootstrap over seeds)"),
                        fit.at("inside").get<bool>() ? "" : "; the end of the measured range, no minimum inside");
  }
  for (const Json& fit : analysis.at("slopes"))
    text += fmt::format(
        "- {} at {} tokens: {:+.4f} nats per decade of rows, {}, R^2 {:.3f}.\n", fit.at("group").get<std::string>(),
        tokens_text(fit.at("budget")), fit.at("coefficients")[1].get<double>(),
        interval_words(fit.at("interval"), "interval {:+.4f} .. {:+.4f}"), fit.at("r_squared").get<double>());
  return text;
}

std::string summary_page(const Json& data, const Json& analysis, bool has_plot) {
  const size_t done = data.at("runs").size(), planned = data.value("planned_runs", done);
  std::string text =
      fmt::format("# {}: {}\n\n{}\n\n", text_of(data, "study"), text_of(data, "title"), text_of(data, "question"));
  if (done < planned) text += fmt::format("**{} of {} runs are done; the rest is missing here.**\n\n", done, planned);
  text += fmt::format("Command: `{}`\nCommit: {}\nMachine: {}\n\n", text_of(data, "command"), text_of(data, "commit"),
                      text_of(data, "machine"));
  if (text_of(data, "commit").find(", ") != std::string::npos)
    text += "Runs of several commits are mixed here; data.json says which is which.\n\n";
  if (has_plot) text += "![validation loss](plot.svg)\n\n";
  const std::string fits = fit_lines(analysis);
  if (!fits.empty()) text += "## Fits\n\n" + fits + "\n";
  text +=
      "## Every point\n\nLoss in nats per token on the validation text; in brackets and under \"sd\" the sample "
      "deviation over seeds. Gain: against the baseline (unless told otherwise, the first point of the same budget), "
      "seed by seed.\n\n"
      "| model | tokens | rho | loss | sd | every seed | gain | bits/byte | train loss | P_tot | P_act | experts | "
      "rows | ms/step |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const Json& point : analysis.at("points")) text += point_row(point);
  return text;
}

}  // namespace

Status write_study_pages(Env& env, const std::string& folder, const Json& data) {
  ENGRAM_ASSIGN_OR_RETURN(const Json analysis, analyse_study(nlohmann::json(data)));
  const std::string page = render_report(assets::study_report_html, {{"data", data}, {"analysis", analysis}});
  const std::string plot = study_svg(text_of(data, "title"), analysis);
  if (!plot.empty()) ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(folder, "plot.svg"), plot));
  ENGRAM_RETURN_IF_ERROR(
      write_file_atomic(env, join_path(folder, "summary.md"), summary_page(data, analysis, !plot.empty())));
  return write_file_atomic(env, join_path(folder, "report.html"), page);
}

Status render_study(Env& env, const std::string& folder) {
  const std::string path = join_path(folder, "data.json");
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
  ENGRAM_RETURN_IF_ERROR(parse_json(text, path).status());
  return write_study_pages(env, folder, Json::parse(text))
      .with_context(folder);  // whole, so that fields keep their order
}

}  // namespace engram
