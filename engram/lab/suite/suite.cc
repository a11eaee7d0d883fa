#include "engram/lab/suite/suite.h"

#include <algorithm>
#include <map>
#include <memory>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/core/lines.h"
#include "engram/core/machine.h"
#include "engram/core/output_lock.h"
#include "engram/core/progress.h"
#include "engram/core/sha256.h"
#include "engram/hash/draw.h"
#include "engram/lab/pages/page.h"
#include "engram/lab/pages/statistics.h"
#include "engram/lab/probes/knock_out.h"
#include "engram/lab/suite/contamination.h"
#include "engram/lab/text/probe_text.h"
#include "engram/lab/text/score.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;
using Key = std::pair<std::string, std::string>;  // task, id

constexpr size_t kChunk = 64;  // items answered between two writes

// A number that depends on the text alone: what an item's examples are drawn with.
uint64_t seed_of(const EvalItem& item, int64_t seed) {
  const std::string digest = sha256_hex(fmt::format("{}\n{}\n{}", seed, item.task, item.id));
  return std::stoull(digest.substr(0, 15), nullptr, 16);
}

std::string right_answer(const EvalItem& item) {
  return item.is_choice() ? item.choices[static_cast<size_t>(item.answer)] : item.targets[0];
}

double chance_of(const EvalItem& item) {
  return item.is_choice() ? 1.0 / static_cast<double>(item.choices.size()) : 0.0;
}

// At most `limit` items of each task, which ones decided by the seed, in their old order.
std::vector<EvalItem> limited(std::vector<EvalItem> items, int64_t limit, int64_t seed) {
  if (limit <= 0) return items;
  std::map<std::string, std::vector<std::pair<uint64_t, size_t>>> tasks;
  for (size_t i = 0; i < items.size(); ++i) tasks[items[i].task].emplace_back(seed_of(items[i], seed), i);
  std::vector<size_t> kept;
  for (auto& [task, members] : tasks) {
    std::sort(members.begin(), members.end());
    if (members.size() > static_cast<size_t>(limit)) members.resize(static_cast<size_t>(limit));
    for (const auto& [draw, index] : members) kept.push_back(index);
  }
  std::sort(kept.begin(), kept.end());
  std::vector<EvalItem> out;
  for (size_t index : kept) out.push_back(std::move(items[index]));
  return out;
}

// The identity of a run: what has to agree for its answers to be mixed.
Json describe_run(const SuiteOptions& options, const LoadedModel& model, const std::vector<EvalItem>& items) {
  std::string text;
  for (const EvalItem& item : items) {
    text += fmt::format("{}\n{}\n{}\n{}\n", item.task, item.id, item.prompt, item.answer);
    for (const auto& choice : item.choices) text += choice + "\n";
    for (const auto& target : item.targets) text += target + "\n";
  }
  return {{"checkpoint", model.directory},    {"commit", build_commit()}, {"suite", options.suite},
          {"items_sha256", sha256_hex(text)}, {"items", items.size()},    {"shots", options.shots},
          {"limit", options.limit},           {"seed", options.seed},     {"memory_off", options.memory_off},
          {"train_text", options.train_text}};
}

// Makes run.json, or compares with the one that is there.
Status open_run(Env& env, const std::string& folder, const Json& run) {
  const std::string path = join_path(folder, "run.json");
  if (!env.file_exists(path)) {
    ENGRAM_RETURN_IF_ERROR(env.create_directories(folder));
    return write_file_atomic(env, path, run.dump(1) + "\n");
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto old, read_json_file(env, path));
  for (const auto& [key, value] : run.items()) {
    const auto* before = json_find(old, key);
    if (before != nullptr && *before == nlohmann::json(value)) continue;
    return make_status(StatusCode::kFailedPrecondition, "{}: {}: got {} there, {} now: name another output", path, key,
                       before == nullptr ? "nothing" : quote_text(before->dump(), 100), quote_text(value.dump(), 100));
  }
  return Status();
}

// Answers that an earlier run left; a line that was cut off is removed.
Result<std::map<Key, ItemResult>> read_answers(Env& env, const std::string& path) {
  std::map<Key, ItemResult> out;
  if (!env.file_exists(path)) return out;
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
  const size_t whole = text.rfind('\n') + 1;
  if (whole != text.size()) ENGRAM_RETURN_IF_ERROR(env.truncate_file(path, static_cast<int64_t>(whole)));
  for (std::string_view rest = std::string_view(text).substr(0, whole); !rest.empty();) {
    ENGRAM_ASSIGN_OR_RETURN(const auto line, parse_json(take_line(rest), path));
    Fields fields(line, path);
    std::string task, id;
    ItemResult result;
    fields.need("task", task);
    fields.need("id", id);
    fields.need("right", result.right);
    fields.need("shortened", result.shortened);
    fields.need("contaminated", result.contaminated);
    ENGRAM_RETURN_IF_ERROR(fields.status());
    out[{std::move(task), std::move(id)}] = result;
  }
  return out;
}

Status append_answers(WritableFile& file, const std::vector<EvalItem>& items, const std::vector<ItemResult>& results) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    const Json line = {{"task", items[i].task},
                       {"id", items[i].id},
                       {"right", results[i].right},
                       {"shortened", results[i].shortened},
                       {"contaminated", results[i].contaminated}};
    text += line.dump() + "\n";
  }
  return file.append(std::as_bytes(std::span(text)));
}

struct Tally {
  int64_t items = 0, right = 0, clean = 0, clean_right = 0, shortened = 0;
  double chance = 0;                       // sum
  std::map<std::string, int64_t> answers;  // right answers and how often each is right
  void add(const EvalItem& item, const ItemResult& result) {
    ++items;
    right += result.right;
    clean += !result.contaminated;
    clean_right += !result.contaminated && result.right;
    shortened += result.shortened;
    chance += chance_of(item);
    ++answers[right_answer(item)];
  }
};

// Share of items that the best constant answer gets right: "Yes" to a task where most answers are yes.
double best_constant(const Tally& tally) {
  int64_t most = 0;
  for (const auto& [answer, count] : tally.answers) most = std::max(most, count);
  return static_cast<double>(most) / static_cast<double>(tally.items);
}

void show_tallies(const std::map<std::string, Tally>& tallies, bool checked, Page& page, Json& numbers) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, tally] : tallies) {
    const Interval interval = wilson_interval(tally.right, tally.items);
    const double accuracy = static_cast<double>(tally.right) / static_cast<double>(tally.items);
    const double chance = tally.chance / static_cast<double>(tally.items);
    const double constant = best_constant(tally), baseline = std::max(chance, constant);
    const char* verdict = tally.right == 0           ? "none right"
                          : interval.low > baseline  ? "above chance"
                          : interval.high < baseline ? "below chance"
                                                     : "near chance";
    std::string clean = "not checked";
    Json one = {{"task", name},
                {"items", tally.items},
                {"right", tally.right},
                {"accuracy", accuracy},
                {"interval", to_json(interval)},
                {"chance", chance},
                {"best_constant", constant},
                {"verdict", verdict},
                {"shortened", tally.shortened}};
    if (checked) {
      one["clean"] = tally.clean;
      one["clean_right"] = tally.clean_right;
      clean = "no clean item";
      if (tally.clean > 0) {
        const Interval range = wilson_interval(tally.clean_right, tally.clean);
        clean = fmt::format("{} {} of {}",
                            fixed_text(static_cast<double>(tally.clean_right) / static_cast<double>(tally.clean)),
                            interval_text(range.low, range.high), tally.clean);
      }
    }
    rows.push_back({name, fmt::format("{}", tally.items), fixed_text(accuracy),
                    interval_text(interval.low, interval.high), fixed_text(chance), fixed_text(constant), verdict,
                    clean, fmt::format("{}", tally.shortened)});
    numbers.push_back(std::move(one));
  }
  page.table(
      "Tasks",
      "95 % Wilson intervals. Chance in the verdict is the larger of guessing and the best constant answer; with many "
      "tasks, one in forty exceeds it by luck. Clean: items that share no eight words in a row with the training text. "
      "Cut: "
      "prompts that lost their beginning because the model reads fewer tokens.",
      {"task", "items", "right", "95 % interval", "chance", "best constant answer", "", "right among clean items",
       "cut"},
      rows);
}

Result<std::string> training_text_of(Env& env, const SuiteOptions& options, const LoadedModel& model) {
  std::string path = options.train_text;
  if (path.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(path, text_of_recipe(env, model, TextRole::kTraining));
  }
  ENGRAM_ASSIGN_OR_RETURN(const ProbeText text, read_probe_text(env, path, *model.tokenizer));
  return token_bytes_of(*model.tokenizer, text.tokens).bytes;
}

// Answers what no earlier run did, chunk by chunk, each written before the next begins.
Status answer_rest(Env& env, const SuiteOptions& options, const LoadedModel& model, const std::vector<EvalItem>& items,
                   const std::string& path, std::map<Key, ItemResult>& answers) {
  std::map<std::string, std::vector<const EvalItem*>> pools;
  for (const EvalItem& item : items) pools[item.task].push_back(&item);
  std::vector<size_t> open;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!answers.contains({items[i].task, items[i].id})) open.push_back(i);
  }
  if (open.empty()) return Status();
  std::unique_ptr<WordIndex> index;
  if (options.train_text != "none") {
    ENGRAM_ASSIGN_OR_RETURN(const std::string training, training_text_of(env, options, model));
    index = std::make_unique<WordIndex>(training);
  }
  ENGRAM_ASSIGN_OR_RETURN(auto file, env.new_appendable_file(path));
  const auto total = static_cast<int64_t>(items.size());
  Progress progress("suite", total, "items", total - static_cast<int64_t>(open.size()));
  for (size_t begin = 0; begin < open.size(); begin += kChunk) {
    std::vector<EvalItem> chunk;
    std::vector<std::string> prompts;
    for (size_t i = begin; i < std::min(begin + kChunk, open.size()); ++i) {
      chunk.push_back(items[open[i]]);
      prompts.push_back(few_shot_prompt(chunk.back(), pools[chunk.back().task], options.shots, options.seed));
    }
    ENGRAM_ASSIGN_OR_RETURN(std::vector<ItemResult> results, answer_items(model, chunk, prompts, options));
    for (size_t i = 0; i < chunk.size(); ++i) {
      if (index) results[i].contaminated = index->overlaps(chunk[i].prompt + right_answer(chunk[i]));
      answers[{chunk[i].task, chunk[i].id}] = results[i];
    }
    ENGRAM_RETURN_IF_ERROR(append_answers(*file, chunk, results));
    progress.advance(static_cast<int64_t>(chunk.size()));
    if (options.keep_going && !options.keep_going()) {
      return make_status(StatusCode::kCancelled, "interrupted: run the same command again to continue");
    }
  }
  return file->close();
}

}  // namespace

Result<std::vector<EvalItem>> read_suite(Env& env, const std::string& suite) {
  const std::string named = join_path("demo/eval", suite + ".jsonl");
  std::vector<std::string> files;
  if (const auto names = env.list_directory(suite); names.ok()) {
    for (const std::string& name : *names) {
      if (name.ends_with(".jsonl")) files.push_back(join_path(suite, name));
    }
  } else if (env.file_exists(suite)) {
    files.push_back(suite);
  } else if (env.file_exists(named)) {
    files.push_back(named);
  }
  if (files.empty()) {
    return not_found(
        "suite: got {}, wanted a file of items, a folder of such files, or the name of a file in demo/eval "
        "(scripts/evaluation_data.sh makes them)",
        quote_text(suite));
  }
  std::vector<EvalItem> items;
  std::map<Key, std::string> seen;
  for (const std::string& path : files) {
    ENGRAM_ASSIGN_OR_RETURN(std::vector<EvalItem> some, read_eval_items(env, path));
    for (EvalItem& item : some) {
      const auto [other, fresh] = seen.emplace(Key{item.task, item.id}, path);
      if (!fresh) {
        return invalid_argument("{}: id: got {} of task {}, which {} has too", path, quote_text(item.id),
                                quote_text(item.task), other->second);
      }
      items.push_back(std::move(item));
    }
  }
  return items;
}

std::string few_shot_prompt(const EvalItem& item, const std::vector<const EvalItem*>& pool, int64_t shots,
                            int64_t seed) {
  NumpyRandom random(seed_of(item, seed));
  std::vector<const EvalItem*> others;
  for (const EvalItem* other : pool) {
    if (other->id != item.id) others.push_back(other);
  }
  const auto count = std::clamp<int64_t>(shots, 0, std::ssize(others));
  draw_to_front(random, others, count);
  std::string text;
  for (const EvalItem* other : std::span(others).first(static_cast<size_t>(count)))
    text += fmt::format("{}{}\n\n", other->prompt, right_answer(*other));
  return text + item.prompt;
}

Result<std::vector<ItemResult>> answer_items(const LoadedModel& model, const std::vector<EvalItem>& items,
                                             const std::vector<std::string>& prompts, const SuiteOptions& options) {
  std::vector<Continuation> continuations;
  for (size_t i = 0; i < items.size(); ++i) {
    for (const std::string& answer : items[i].is_choice() ? items[i].choices : items[i].targets) {
      Result<Continuation> one = split_continuation(model, prompts[i], answer);
      if (!one.ok()) return one.status().with_context(fmt::format("item {} of task {}", items[i].id, items[i].task));
      continuations.push_back(std::move(one).value());
    }
  }
  ScoreOptions scoring;
  scoring.batch_size = options.batch_size;
  scoring.memory_off = options.memory_off;
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Score> scores, score_continuations(model, continuations, scoring));
  std::vector<ItemResult> results;
  size_t next = 0;
  for (const EvalItem& item : items) {
    const std::vector<std::string>& answers = item.is_choice() ? item.choices : item.targets;
    const auto mine = std::span(scores).subspan(next, answers.size());
    next += answers.size();
    ItemResult result;
    for (const Score& score : mine) result.shortened = result.shortened || score.shortened;
    if (item.is_choice()) {
      result.right = likeliest_choice(answers, mine) == item.answer;
    } else {
      result.right = std::any_of(mine.begin(), mine.end(), [](const Score& score) { return score.greedy; });
    }
    results.push_back(result);
  }
  return results;
}

Result<Json> run_suite(Env& env, const SuiteOptions& options, std::string* output) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<EvalItem> all, read_suite(env, options.suite));
  const std::vector<EvalItem> items = limited(std::move(all), options.limit, options.seed);
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, load_model(env, options.checkpoint));
  const std::string folder =
      options.output.empty() ? join_path("results", fmt::format("eval-{}", today())) : options.output;
  if (output != nullptr) *output = folder;
  const Json run = describe_run(options, model, items);
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock, OutputLock::folder(env, folder, {}));
  ENGRAM_RETURN_IF_ERROR(open_run(env, folder, run));
  const std::string path = join_path(folder, "items.jsonl");
  ENGRAM_ASSIGN_OR_RETURN(auto answers, read_answers(env, path));
  ENGRAM_RETURN_IF_ERROR(answer_rest(env, options, model, items, path, answers));

  std::map<std::string, Tally> tallies;
  for (const EvalItem& item : items) {
    const std::string name = item.split.empty() ? item.task : fmt::format("{} ({})", item.task, item.split);
    tallies[name].add(item, answers.at({item.task, item.id}));
  }
  Page page("Evaluation", fmt::format("{} items of {} under {}.", items.size(), options.suite, model.directory));
  page.paragraph(
      fmt::format("{} worked examples in front of each; memory {}. Multiple choice: the highest log-likelihood "
                  "per byte. Cloze: the greedy continuation begins with the answer.",
                  options.shots,
                  model.tables.empty() ? "none"
                  : options.memory_off ? "off"
                                       : "on"));
  Json data = {{"probe", "eval"},          {"command", options.command},
               {"commit", build_commit()}, {"machine", machine_description()},
               {"date", today()},          {"run", run},
               {"tasks", Json::array()}};
  show_tallies(tallies, options.train_text != "none", page, data["tasks"]);
  data["page"] = page.json();
  ENGRAM_RETURN_IF_ERROR(write_page_files(env, folder, data));
  return data;
}

}  // namespace engram
