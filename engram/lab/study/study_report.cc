#include "engram/lab/study/study_report.h"

#include "engram/core/json.h"
#include "engram/core/markup.h"
#include "engram/core/progress.h"
#include "engram/lab/pages/assets.h"
#include "engram/lab/pages/report.h"
#include "engram/lab/study/equal_parameters.h"
#include "engram/lab/study/study_analysis.h"
#include "engram/lab/study/study_plot.h"
#include "engram/lab/study/study_sets.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

template <typename Object>
std::string text_of(const Object& data, const char* key) {
  const auto found = data.find(key);
  return found != data.end() && found->is_string() ? found->template get<std::string>() : std::string("unknown");
}

std::string tokens_text(const Json& budget) { return format_count(budget.get<double>()); }

std::string seeds_text(const Json& seeds) {
  std::string text;
  for (const Json& seed : seeds) text += fmt::format("{}{:.4f}", text.empty() ? "" : ", ", seed.at(1).get<double>());
  return text;
}

// " [low, high]"; nothing with one seed.
std::string interval_text(const Json& holder, const char* key) {
  if (!holder.contains(key)) return "";
  return fmt::format(" [{:+.4f}, {:+.4f}]", holder.at(key)[0].get<double>(), holder.at(key)[1].get<double>());
}

// One seed has no deviation.
std::string deviation_text(const Json& point, const char* key) {
  return point.contains(key) ? fmt::format("{:.4f}", point.at(key).get<double>()) : std::string("-");
}

std::string point_row(const Json& point) {
  const auto integer = [&](const char* key) { return point.value(key, int64_t{0}); };
  const std::string label = escape_markdown(point.at("label").get<std::string>());
  std::string gain = "-";
  if (point.contains("gain"))
    gain = fmt::format("{:+.4f}{}", point.at("gain").get<double>(), interval_text(point, "gain_interval"));
  return fmt::format(
      "| {}{}{} | {} | {:.3f} | {:.4f} | {} | {} | {} | {:.4f} | {:.4f} | {} | {} | {} | {} | {:.0f} |\n",
      escape_markdown(point.at("group").get<std::string>()), label.empty() ? "" : ": ", label,
      tokens_text(point.at("budget")), point.value("rho_counted", 0.0), point.at("val_loss").get<double>(),
      deviation_text(point, "deviation"), seeds_text(point.at("seeds")), gain, point.at("bits_per_byte").get<double>(),
      point.at("train_loss").get<double>(), integer("p_tot"), integer("p_act"), integer("experts"), integer("rows"),
      1000 * point.at("seconds_per_step").get<double>());
}

std::string chance_text(const Json& p_value) {
  const double p = p_value.get<double>();
  return p < 0.001 ? std::string("p < 0.001") : fmt::format("p = {:.3f}", p);
}

std::string difference_words(const Json& contrast) {
  return fmt::format("{:+.4f} [{:+.4f}, {:+.4f}], {}", contrast.at("value").get<double>(),
                     contrast.at("low").get<double>(), contrast.at("high").get<double>(),
                     chance_text(contrast.at("p_value")));
}

std::string line_sentence(const Json& line) {
  std::string text = fmt::format("one run's noise is {:.4f} nats ({} degrees of freedom)",
                                 line.at("noise").get<double>(), line.at("degrees").get<int>());
  if (!line.contains("first_minus_rest")) return text + ".";
  if (line.at("axis") == "rho")
    text += fmt::format("; the first point minus the mean of the others: {}; among the others {}",
                        difference_words(line.at("first_minus_rest")), chance_text(line.at("rest_p_value")));
  return text + fmt::format("; among all {}.", chance_text(line.at("all_p_value")));
}

std::string minimum_interval(const Json& fit) {
  if (!fit.contains("interval")) return "no interval with one seed";
  const double low = fit.at("interval")[0].get<double>(), high = fit.at("interval")[1].get<double>();
  if (low == high) return "95 % (Fieller): beyond the measured range";
  const bool low_ends = fit.at("bounded")[0].get<bool>(), high_ends = fit.at("bounded")[1].get<bool>();
  if (low_ends && high_ends) return fmt::format("95 % (Fieller): {:.3f} to {:.3f}", low, high);
  if (!low_ends && !high_ends) return "95 % (Fieller): all of the measured range";
  return low_ends ? fmt::format("95 % (Fieller): at least {:.3f}", low)
                  : fmt::format("95 % (Fieller): at most {:.3f}", high);
}

std::string minimum_sentence(const Json& fit) {
  if (!fit.at("convex").get<bool>()) return "the fitted parabola has no minimum.";
  return fmt::format("lowest fitted loss {:.4f} at rho {:.3f}, {}{}; misfit of the parabola {}.",
                     fit.at("loss").get<double>(), fit.at("rho").get<double>(), minimum_interval(fit),
                     fit.at("inside").get<bool>() ? "" : "; the end of the measured range, no minimum inside",
                     chance_text(fit.at("misfit_p_value")));
}

std::string slope_sentence(const Json& fit) {
  const std::string interval = interval_text(fit, "interval");
  return fmt::format("{:+.4f}{} nats per decade of rows, R^2 {:.3f}; misfit of the line {}.",
                     fit.at("coefficients")[1].get<double>(),
                     interval.empty() ? ", no interval with one seed," : interval, fit.at("r_squared").get<double>(),
                     chance_text(fit.at("misfit_p_value")));
}

// What the fits say, a sentence each: summary.md and report.html show the same.
Json fit_sentences(const Json& analysis) {
  Json sentences = Json::array();
  const auto add = [&](const char* list, std::string (*sentence)(const Json&)) {
    for (const Json& fit : analysis.at(list)) {
      const std::string label = fit.at("label");
      sentences.push_back(fmt::format("{}{}{} at {} tokens{}: {}", fit.at("group").get<std::string>(),
                                      label.empty() ? "" : ", ", label, tokens_text(fit.at("budget")),
                                      fit.at("targets") == "rest" ? ", targets that repeat nothing" : "",
                                      sentence(fit)));
    }
  };
  add("lines", line_sentence);
  add("minima", minimum_sentence);
  add("slopes", slope_sentence);
  return sentences;
}

// Nothing when no run recorded the parts.
std::string parts_table(const Json& analysis) {
  std::string rows;
  for (const Json& point : analysis.at("points")) {
    if (!point.contains("rest") || !point.contains("repeats")) continue;
    const Json& rest = point.at("rest");
    const std::string label = escape_markdown(point.at("label").get<std::string>());
    rows += fmt::format("| {}{}{} | {} | {:.3f} | {:.4f} | {:.4f} | {}{} |\n",
                        escape_markdown(point.at("group").get<std::string>()), label.empty() ? "" : ": ", label,
                        tokens_text(point.at("budget")), point.value("rho_counted", 0.0),
                        point.at("repeats").at("loss").get<double>(), rest.at("loss").get<double>(),
                        rest.contains("gain") ? fmt::format("{:+.4f}", rest.at("gain").get<double>()) : "-",
                        interval_text(rest, "gain_interval"));
  }
  if (rows.empty()) return "";
  return "\n## Repeats and the rest\n\nRepeats: targets whose bigram is earlier in their window, so that copying finds "
         "them. Mean loss over seeds on them and on all others, and the gain on the others.\n\n"
         "| model | tokens | rho | repeats | rest | gain on the rest |\n|---|---|---|---|---|---|\n" +
         rows;
}

std::string summary_page(const Json& data, const Json& analysis, const Json& fits, bool has_plot) {
  const size_t done = data.at("runs").size(), planned = data.value("planned_runs", done);
  std::string text = fmt::format("# {}: {}\n\n{}\n\n", escape_markdown(text_of(data, "study")),
                                 escape_markdown(text_of(data, "title")), escape_markdown(text_of(data, "question")));
  if (done < planned) text += fmt::format("**{} of {} runs are done; the rest is missing here.**\n\n", done, planned);
  text += fmt::format("Command: `{}`\nCommit: {}\nMachine: {}\n\n", text_of(data, "command"),
                      escape_markdown(text_of(data, "commit")), escape_markdown(text_of(data, "machine")));
  if (const std::string equality = equal_parameters_text(data); !equality.empty()) text += equality + "\n\n";
  if (text_of(data, "commit").find(", ") != std::string::npos)
    text += "Runs of several commits are mixed here; data.json says which is which.\n\n";
  if (has_plot) text += "![validation loss](plot.svg)\n\n";
  if (!fits.empty()) text += "## Fits\n\n";
  for (const Json& sentence : fits) text += fmt::format("- {}\n", escape_markdown(sentence.get<std::string>()));
  if (!fits.empty()) text += "\n";
  text +=
      "## Every point\n\nLoss in nats per token on the validation text; under \"sd\" the sample deviation over seeds. "
      "Gain: against the baseline (unless told otherwise, the first point of the same budget), seed by seed, with its "
      "95 % interval by t (docs/lab.md).\n\n"
      "| model | tokens | rho | loss | sd | every seed | gain | bits/byte | train loss | P_tot | P_act | experts | "
      "rows | ms/step |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const Json& point : analysis.at("points")) text += point_row(point);
  return text + parts_table(analysis);
}

}  // namespace

namespace {

// Of a study that measures validation sets.
Status write_sets_pages(Env& env, const std::string& folder, const nlohmann::json& data) {
  ENGRAM_ASSIGN_OR_RETURN(const Json sets, analyse_sets(data));
  Json shown{{"page", sets_page(data, sets).json()}};
  for (const char* key : {"command", "commit", "machine"}) shown[key] = text_of(data, key);
  std::string date;
  for (const auto& run : data.at("runs")) date = std::max(date, run.value("date", std::string()));
  shown["date"] = date;
  const std::string plot = doses_svg(text_of(data, "title"), sets);
  if (!plot.empty()) ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(folder, "plot.svg"), plot));
  std::string markdown = render_page_markdown(shown);
  if (!plot.empty()) markdown += "\n![answers by dose](plot.svg)\n";
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(folder, "summary.md"), markdown));
  return write_file_atomic(env, join_path(folder, "report.html"), render_page_html(shown));
}

}  // namespace

Status write_study_pages(Env& env, const std::string& folder, const Json& data) {
  if (has_validation_sets(nlohmann::json(data))) return write_sets_pages(env, folder, nlohmann::json(data));
  ENGRAM_ASSIGN_OR_RETURN(const Json analysis, analyse_study(nlohmann::json(data)));
  const Json fits = fit_sentences(analysis);
  const std::string page = render_report(
      assets::study_report_html,
      {{"data", data}, {"analysis", analysis}, {"fits", fits}, {"equality", equal_parameters_text(data)}});
  const std::string plot = study_svg(text_of(data, "title"), analysis);
  if (!plot.empty()) ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(folder, "plot.svg"), plot));
  ENGRAM_RETURN_IF_ERROR(
      write_file_atomic(env, join_path(folder, "summary.md"), summary_page(data, analysis, fits, !plot.empty())));
  return write_file_atomic(env, join_path(folder, "report.html"), page);
}

Result<Json> study_numbers(Env& env, const std::string& folder) {
  const std::string path = join_path(folder, "data.json");
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
  ENGRAM_ASSIGN_OR_RETURN(const Json data, parse_ordered_json(text, path));
  ENGRAM_ASSIGN_OR_RETURN(Json numbers, analyse_study(nlohmann::json(data)));
  numbers["fits"] = fit_sentences(numbers);
  if (has_validation_sets(nlohmann::json(data))) {
    ENGRAM_ASSIGN_OR_RETURN(numbers["validation_sets"], analyse_sets(nlohmann::json(data)));
  }
  return numbers;
}

}  // namespace engram
