#include "engram/lab/probes/ruler_probe.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engram/core/progress.h"
#include "engram/lab/pages/statistics.h"
#include "engram/lab/text/score.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kSolved = 0.9;  // of the single needle, for a comparison to mean something

Result<std::string> read_optional(Env& env, const std::string& path) {
  if (path.empty()) return std::string();
  return env.read_file(path);
}

struct Cell {
  std::string model;
  int64_t length = 0;
  RulerTask task = RulerTask::kSingle;
  std::vector<double> scores;
};

std::string paired_difference(const std::vector<double>& first, const std::vector<double>& second) {
  std::vector<double> difference;
  for (size_t i = 0; i < first.size(); ++i) difference.push_back(second[i] - first[i]);
  const Estimate change = estimate(difference);
  return with_error(change.mean, change.error, 2);
}

// A chart for each task that somebody answers; a row for each task and length, a column for each model and, with two
// models, their difference, paired by sample.
void show(const std::vector<Cell>& cells, const std::vector<std::string>& labels, const std::vector<int64_t>& lengths,
          Page& page, Json& numbers) {
  std::vector<std::string> header = {"task, tokens"};
  header.insert(header.end(), labels.begin(), labels.end());
  if (labels.size() == 2) header.push_back("difference");
  std::vector<std::vector<std::string>> rows;
  for (RulerTask task : kRulerTasks) {
    std::vector<Series> series;
    for (const std::string& label : labels) series.push_back({.label = label});
    for (int64_t length : lengths) {
      std::vector<std::string> row = {fmt::format("{}, {}", ruler_task_name(task), length)};
      std::vector<const std::vector<double>*> scores;
      for (size_t i = 0; i < labels.size(); ++i) {
        const auto found = std::find_if(cells.begin(), cells.end(), [&](const Cell& cell) {
          return cell.task == task && cell.length == length && cell.model == labels[i];
        });
        if (found == cells.end()) {
          row.push_back("-");
          continue;
        }
        const Estimate score = estimate(found->scores);
        row.push_back(with_error(score.mean, score.error, 2));
        scores.push_back(&found->scores);
        series[i].x.push_back(static_cast<double>(length));
        series[i].y.push_back(score.mean);
        series[i].low.push_back(score.mean - score.error);
        series[i].high.push_back(score.mean + score.error);
        numbers["scores"].push_back(
            {{"task", ruler_task_name(task)}, {"model", labels[i]}, {"length", length}, {"score", to_json(score)}});
      }
      if (labels.size() == 2) row.push_back(scores.size() == 2 ? paired_difference(*scores[0], *scores[1]) : "-");
      rows.push_back(std::move(row));
    }
    const auto answers = [](const Series& one) { return std::ranges::any_of(one.y, [](double y) { return y > 0; }); };
    if (std::ranges::any_of(series, answers)) {
      page.lines(ruler_task_name(task), "Bars: one standard error over samples.", "tokens", "share answered", series);
    }
  }
  page.table("Scores", "Mean share of the expected answers that were given; +- is one standard error over samples.",
             header, rows);
}

}  // namespace

Result<std::vector<double>> answer_ruler(Env& env, const LoadedModel& model, const RulerGenerator& generator,
                                         RulerTask task, int64_t samples) {
  std::vector<RulerSample> drawn;
  std::vector<GreedyPrompt> prompts;
  for (int64_t i = 0; i < samples; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(RulerSample sample, generator.sample(task, i));
    ENGRAM_ASSIGN_OR_RETURN(Continuation parts, split_continuation(model, sample.prompt, sample.answer));
    prompts.push_back({std::move(parts.context), static_cast<int64_t>(parts.tokens.size())});
    drawn.push_back(std::move(sample));
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> texts, greedy_texts(env, model, prompts));
  std::vector<double> scores;
  for (size_t i = 0; i < texts.size(); ++i) scores.push_back(score_ruler(drawn[i], texts[i]));
  return scores;
}

Result<ProbeResult> probe_ruler(const ProbeContext& context) {
  const ProbeOptions& options = context.options;
  ENGRAM_ASSIGN_OR_RETURN(const std::string haystack, read_optional(context.env, options.haystack));
  ENGRAM_ASSIGN_OR_RETURN(const std::string facts, read_optional(context.env, options.facts));
  std::vector<int64_t> lengths = options.lengths;
  if (lengths.empty()) lengths = {context.context_length() / 2, context.context_length()};
  std::vector<Cell> cells;
  std::vector<std::string> left_out;
  Progress progress("ruler", static_cast<int64_t>(lengths.size() * context.models.size() * kRulerTasks.size()),
                    "tasks");
  for (int64_t length : lengths) {
    if (length > context.context_length()) {
      return invalid_argument("lengths: got {}, wanted at most the models' {} tokens", length,
                              context.context_length());
    }
    const RulerOptions ruler{
        .length = length, .digits = options.digits, .needles = options.needles, .seed = options.seed};
    ENGRAM_ASSIGN_OR_RETURN(const RulerGenerator generator,
                            RulerGenerator::create(*context.models[0].tokenizer, ruler, haystack, facts));
    for (RulerTask task : kRulerTasks) {
      for (size_t i = 0; i < context.models.size(); ++i) {
        progress.advance(1);
        if (!generator.has(task)) continue;
        const auto scores = answer_ruler(context.env, context.models[i], generator, task, options.samples);
        if (!scores.ok()) {
          left_out.push_back(
              fmt::format("{} at {} tokens ({})", ruler_task_name(task), length, scores.status().message()));
          break;
        }
        cells.push_back({context.labels[i], length, task, *scores});
      }
    }
  }
  progress.finish();
  if (cells.empty()) return invalid_argument("lengths: no task fits: {}", left_out[0]);

  Page page("RULER", "Does the model find what stands far back in its context?");
  page.paragraph(fmt::format("{} samples of each task and length; {} needles, values of {} digits; haystack: {}.",
                             options.samples, options.needles, options.digits,
                             options.haystack.empty() ? "RULER's noise sentences" : options.haystack));
  std::vector<int64_t> solved, unsolved;
  for (const Cell& cell : cells) {
    if (cell.task != RulerTask::kSingle || cell.model != context.labels[0]) continue;
    (estimate(cell.scores).mean > kSolved ? solved : unsolved).push_back(cell.length);
  }
  if (!unsolved.empty()) {
    page.paragraph(
        fmt::format("{} does not solve the single needle (over {} %) at {} tokens: the comparison says nothing {}.",
                    context.labels[0], 100 * kSolved, fmt::join(unsolved, ", "),
                    solved.empty() ? "at this size" : "about needles there"));
  }
  Json numbers = {{"samples", options.samples}, {"digits", options.digits},     {"needles", options.needles},
                  {"lengths", lengths},         {"haystack", options.haystack}, {"facts", options.facts},
                  {"single_solved_at", solved}, {"left_out", left_out},         {"scores", Json::array()}};
  for (const std::string& task : left_out) page.paragraph(fmt::format("Left out: {}.", task));
  show(cells, context.labels, lengths, page, numbers);
  return ProbeResult{std::move(numbers), std::move(page)};
}

}  // namespace engram
