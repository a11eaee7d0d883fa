#include "engram/lab/probes/knock_out.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "engram/core/progress.h"
#include "engram/lab/pages/assets.h"
#include "engram/lab/pages/statistics.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;
using Outcomes = std::vector<ChoiceOutcome>;

constexpr int64_t kDraws = 2000;

// Questions that are asked and counted together.
struct ItemSet {
  std::string name;
  bool reading = false;  // the prompt has the answer
  std::vector<EvalItem> items;
};

// One set for each task; path empty: the built-in facts.
Result<std::vector<ItemSet>> read_sets(const ProbeContext& context, const std::string& path, bool reading) {
  ENGRAM_ASSIGN_OR_RETURN(
      const std::vector<EvalItem> items,
      path.empty() ? parse_eval_items(assets::facts_jsonl, "built-in facts") : read_eval_items(context.env, path));
  std::vector<ItemSet> sets;
  for (const EvalItem& item : items) {
    if (!item.is_choice()) {
      return invalid_argument("{}: item {} of task {}: got a cloze, wanted choices", path, item.id, item.task);
    }
    auto found = std::ranges::find(sets, item.task, &ItemSet::name);
    if (found == sets.end()) found = sets.insert(sets.end(), {item.task, reading, {}});
    found->items.push_back(item);
  }
  return sets;
}

// The facts, and what is read: from options.reading, or made from the facts.
Result<std::vector<ItemSet>> all_sets(const ProbeContext& context) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<ItemSet> sets, read_sets(context, context.options.items, false));
  std::vector<ItemSet> reading;
  if (context.options.reading.empty()) {
    for (const ItemSet& facts : sets) {
      reading.push_back({sets.size() == 1 ? "answer in the prompt" : facts.name + ", answer in the prompt", true, {}});
      for (const EvalItem& item : facts.items) reading.back().items.push_back(grounded_item(item));
    }
  } else {
    ENGRAM_ASSIGN_OR_RETURN(reading, read_sets(context, context.options.reading, true));
  }
  std::ranges::move(reading, std::back_inserter(sets));
  return sets;
}

template <typename Field>
double mean_of(const Outcomes& outcomes, std::span<const int64_t> chosen, Field field) {
  double sum = 0;
  for (int64_t i : chosen) sum += static_cast<double>(outcomes[static_cast<size_t>(i)].*field);
  return sum / static_cast<double>(chosen.size());
}

// accuracy on, accuracy off, kept above chance, exact on, exact off, kept exact, log-likelihood off - on
std::vector<double> compare(const Outcomes& on, const Outcomes& off, std::span<const int64_t> chosen) {
  const double chance = mean_of(on, chosen, &ChoiceOutcome::chance);
  const double right_on = mean_of(on, chosen, &ChoiceOutcome::right);
  const double right_off = mean_of(off, chosen, &ChoiceOutcome::right);
  const double exact_on = mean_of(on, chosen, &ChoiceOutcome::exact);
  const double exact_off = mean_of(off, chosen, &ChoiceOutcome::exact);
  const double none = std::numeric_limits<double>::quiet_NaN();
  return {right_on,
          right_off,
          right_on > chance ? (right_off - chance) / (right_on - chance) : none,
          exact_on,
          exact_off,
          exact_on > 0 ? exact_off / exact_on : none,
          mean_of(off, chosen, &ChoiceOutcome::log_likelihood) - mean_of(on, chosen, &ChoiceOutcome::log_likelihood)};
}

struct Comparison {
  Json numbers;
  std::vector<std::string> row;
};

Comparison compare_set(const std::string& label, const ItemSet& set, const Outcomes& on, const Outcomes& off,
                       int64_t seed) {
  std::vector<int64_t> all(on.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  const auto values = compare(on, off, all);
  const auto intervals = bootstrap_intervals(static_cast<int64_t>(on.size()), kDraws, static_cast<uint64_t>(seed),
                                             [&](std::span<const int64_t> chosen) { return compare(on, off, chosen); });
  const double chance = mean_of(on, all, &ChoiceOutcome::chance);
  const bool testable = intervals[0].low > chance;
  const char* names[] = {"accuracy_on", "accuracy_off", "kept_above_chance",    "exact_on",
                         "exact_off",   "kept_exact",   "log_likelihood_change"};
  Comparison out;
  out.numbers = {{"model", label},     {"set", set.name},  {"kind", set.reading ? "reading" : "facts"},
                 {"items", on.size()}, {"chance", chance}, {"testable", testable}};
  for (size_t i = 0; i < values.size(); ++i) {
    out.numbers[names[i]] = {{"value", values[i]}, {"interval", to_json(intervals[i])}};
  }
  const auto cell = [&](size_t i) {
    return fixed_text(values[i], 2) + " " + interval_text(intervals[i].low, intervals[i].high, 2);
  };
  const bool exact = intervals[3].low > 0;
  out.row = {label + ", " + set.name,
             fmt::format("{}", on.size()),
             fixed_text(chance, 2),
             cell(0),
             cell(1),
             testable ? cell(2) : "not above chance",
             exact ? cell(5) : "no exact answers",
             cell(6)};
  return out;
}

}  // namespace

EvalItem grounded_item(const EvalItem& item) {
  EvalItem out = item;
  out.id += "-grounded";
  out.answer = (item.answer + 1) % static_cast<int64_t>(item.choices.size());
  out.prompt = item.prompt + item.choices[static_cast<size_t>(out.answer)] + ". " + item.prompt;
  return out;
}

int64_t likeliest_choice(const std::vector<std::string>& choices, std::span<const Score> scores) {
  const auto per_byte = [&](size_t i) { return scores[i].log_likelihood / static_cast<double>(choices[i].size()); };
  size_t best = 0;
  for (size_t i = 1; i < choices.size(); ++i) {
    if (per_byte(i) > per_byte(best)) best = i;
  }
  return static_cast<int64_t>(best);
}

Result<Outcomes> answer_choices(const LoadedModel& model, const std::vector<EvalItem>& items,
                                const ScoreOptions& options) {
  std::vector<Continuation> continuations;
  for (const EvalItem& item : items) {
    for (const std::string& choice : item.choices) {
      ENGRAM_ASSIGN_OR_RETURN(Continuation one, split_continuation(model, item.prompt, choice));
      continuations.push_back(std::move(one));
    }
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Score> scores, score_continuations(model, continuations, options));
  Outcomes outcomes;
  size_t next = 0;
  for (const EvalItem& item : items) {
    const auto answer = static_cast<size_t>(item.answer);
    const auto mine = std::span(scores).subspan(next, item.choices.size());
    const Score& score = mine[answer];
    outcomes.push_back({likeliest_choice(item.choices, mine) == item.answer, score.greedy,
                        score.log_likelihood / static_cast<double>(score.tokens),
                        1.0 / static_cast<double>(item.choices.size())});
    next += item.choices.size();
  }
  return outcomes;
}

Result<ProbeResult> probe_knock_out(const ProbeContext& context) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<ItemSet> sets, all_sets(context));
  Json comparisons = Json::array();
  std::vector<std::vector<std::string>> rows;
  size_t facts = 0;
  Progress progress("knock-out", std::ssize(sets) * std::ssize(context.models), "sets");
  for (size_t i = 0; i < context.models.size(); ++i) {
    for (const ItemSet& set : sets) {
      ScoreOptions options;
      ENGRAM_ASSIGN_OR_RETURN(const Outcomes on, answer_choices(context.models[i], set.items, options));
      options.memory_off = true;
      Outcomes off = on;
      if (context.models[i].config.memory != MemoryKind::kNone) {
        ENGRAM_ASSIGN_OR_RETURN(off, answer_choices(context.models[i], set.items, options));
      }
      Comparison found = compare_set(context.labels[i], set, on, off, context.options.seed);
      comparisons.push_back(std::move(found.numbers));
      rows.push_back(std::move(found.row));
      if (i == 0 && !set.reading) facts += set.items.size();
      progress.advance(1);
    }
  }
  progress.finish();
  Page page("Knock-out",
            "What does the memory hold? Facts asked from memory, and questions whose prompt has the answer, with the "
            "rows and without them.");
  page.paragraph(
      fmt::format("{} facts with choices. {} Brackets: 95 % bootstrap intervals over items. A model without "
                  "memory has nothing to withhold: it shows how well the questions are answered.",
                  facts,
                  context.options.reading.empty()
                      ? "The grounded questions are made from them: the prompt states another of the choices "
                        "first, so that knowing the fact does not help."
                      : fmt::format("What is read: {}.", context.options.reading)));
  page.table("Kept without the rows",
             "Kept: what is left of the accuracy above chance, and of the answers given exactly (greedy).",
             {"model, questions", "items", "chance", "accuracy, rows on", "accuracy, rows off", "kept above chance",
              "kept exact", "change of the answer's log-likelihood, nats per token"},
             rows);
  return ProbeResult{{{"items", facts}, {"comparisons", comparisons}}, std::move(page)};
}

}  // namespace engram
