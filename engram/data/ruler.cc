#include "engram/data/ruler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "engram/data/documents.h"
#include "engram/hash/draw.h"

namespace engram {
namespace {

constexpr std::string_view kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";
constexpr std::array kWords = {
    "anchor", "apple",  "arrow",   "autumn",  "bacon",   "basket", "beacon", "bottle",  "branch",   "bridge",
    "bronze", "butter", "cabin",   "candle",  "canyon",  "carpet", "castle", "cherry",  "circle",   "clover",
    "copper", "corner", "cotton",  "cradle",  "crystal", "dagger", "desert", "dragon",  "eagle",    "ember",
    "engine", "falcon", "feather", "flower",  "forest",  "garden", "garlic", "glacier", "guitar",   "hammer",
    "harbor", "helmet", "honey",   "hunter",  "island",  "jacket", "jungle", "kettle",  "ladder",   "lantern",
    "lemon",  "letter", "magnet",  "maple",   "marble",  "meadow", "mirror", "monkey",  "mountain", "needle",
    "ocean",  "olive",  "orange",  "orchard", "palace",  "paper",  "pepper", "pillow",  "planet",   "pocket",
    "prison", "puzzle", "rabbit",  "ribbon",  "river",   "rocket", "saddle", "salmon",  "shadow",   "silver",
    "spider", "spring", "stable",  "summer",  "sunset",  "table",  "temple", "thunder", "ticket",   "timber",
    "tunnel", "valley", "velvet",  "violin",  "wagon",   "walnut", "water",  "whistle", "window",   "winter"};

using Strings = std::vector<std::string>;

// `count` different numbers of [0, limit), in drawn order.
std::vector<int64_t> draw_distinct(NumpyRandom& random, int64_t limit, int64_t count) {
  std::vector<int64_t> all(static_cast<size_t>(limit));
  std::iota(all.begin(), all.end(), 0);
  draw_to_front(random, all, count);
  all.resize(static_cast<size_t>(count));
  return all;
}

Strings draw_words(NumpyRandom& random, int64_t count) {
  Strings out;
  for (int64_t i : draw_distinct(random, int64_t{kWords.size()}, count))
    out.emplace_back(kWords[static_cast<size_t>(i)]);
  return out;
}

// Numbers of the same length, all different.
Strings draw_numbers(NumpyRandom& random, int64_t digits, int64_t count) {
  int64_t low = 1;
  for (int64_t i = 1; i < digits; ++i) low *= 10;
  Strings out;
  while (static_cast<int64_t>(out.size()) < count) {
    std::string number = fmt::format("{}", random.integers(low, 10 * low));
    if (std::find(out.begin(), out.end(), number) == out.end()) out.push_back(std::move(number));
  }
  return out;
}

std::string joined(const Strings& parts) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) out += (i == 0 ? " " : ", ") + parts[i];
  return out + ".";
}

std::string needle(const std::string& key, const std::string& value) {
  return fmt::format("One of the special magic numbers for {} is: {}.", key, value);
}

Strings split_sentences(std::string_view text) {
  Strings out;
  std::string sentence;
  for (size_t i = 0; i < text.size(); ++i) {
    sentence += text[i] == '\n' ? ' ' : text[i];
    const bool ends = text[i] == '.' && (i + 1 == text.size() || text[i + 1] == ' ' || text[i + 1] == '\n');
    if (!ends) continue;
    sentence.erase(0, sentence.find_first_not_of(' '));
    if (sentence.size() >= 8 && sentence.size() <= 300) out.push_back(sentence);
    sentence.clear();
  }
  return out;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

// A word of `letters` letters that no language has; coded words are its.
std::string coded_word(NumpyRandom& random, int letters) {
  std::string out;
  for (int i = 0; i < letters; ++i) out += static_cast<char>('a' + random.integers(0, 26));
  return out;
}

// `fixed` in their order, spread at random over `units` sentences of the haystack.
std::string spread(const Strings& fixed, const Strings& haystack, int64_t units, uint64_t seed) {
  NumpyRandom random(seed);
  const int64_t first = random.integers(0, static_cast<int64_t>(haystack.size()));
  std::vector<int64_t> places;
  for (size_t i = 0; i < fixed.size(); ++i) places.push_back(random.integers(0, units + 1));
  std::sort(places.begin(), places.end());
  std::string out;
  size_t next = 0;
  for (int64_t unit = 0; unit <= units; ++unit) {
    for (; next < fixed.size() && places[next] == unit; ++next) out += fixed[next] + " ";
    if (unit < units) out += haystack[static_cast<size_t>(first + unit) % haystack.size()] + " ";
  }
  return out;
}

void shuffle(Strings& items, NumpyRandom& random) { draw_to_front(random, items, std::ssize(items) - 1); }

// A numbered list in which some words stand often and the others seldom; `common` receives the frequent ones.
std::string word_list(int64_t units, uint64_t seed, Strings& common) {
  NumpyRandom random(seed);
  const int64_t kinds = std::clamp<int64_t>(units / 24, 2, 10);
  const int64_t often = std::clamp<int64_t>(units / (2 * kinds), 4, 30), seldom = std::max<int64_t>(1, often / 10);
  common = draw_words(random, kinds);
  Strings list;
  for (const std::string& word : common) list.insert(list.end(), static_cast<size_t>(often), word);
  while (static_cast<int64_t>(list.size()) < units) {
    std::string word = kWords[static_cast<size_t>(random.integers(0, int64_t{kWords.size()}))];
    const bool used = std::find(list.begin(), list.end(), word) != list.end();
    if (used) word = coded_word(random, 5);  // chance makes it differ from all before
    for (int64_t i = 0; i < seldom && static_cast<int64_t>(list.size()) < units; ++i) list.push_back(word);
  }
  shuffle(list, random);
  std::string out;
  for (size_t i = 0; i < list.size(); ++i) out += fmt::format("{}. {} ", i + 1, list[i]);
  return out;
}

// Coded words with counts of a zeta law (alpha 2); the first rank is the noise "...", the next three are the answer.
std::string coded_text(int64_t units, uint64_t seed, Strings& frequent) {
  NumpyRandom random(seed);
  const auto expected = [&](int64_t rank) {
    return static_cast<int64_t>(static_cast<double>(units) * 6 / (9.8696 * static_cast<double>(rank * rank)));
  };
  std::array<int64_t, 5> counts = {0, 0, 0, 0, std::max<int64_t>(2, expected(4))};
  for (size_t rank = 3; rank >= 1; --rank) {
    counts[rank] = std::max(counts[rank + 1] + 1, expected(static_cast<int64_t>(rank)));
  }
  Strings words(static_cast<size_t>(counts[1]), "...");
  frequent.clear();
  for (size_t rank = 2; rank <= 4; ++rank) {
    frequent.push_back(coded_word(random, 6));
    words.insert(words.end(), static_cast<size_t>(counts[rank]), frequent.back());
  }
  for (int64_t rank = 5; static_cast<int64_t>(words.size()) < units; ++rank) {
    const std::string word = coded_word(random, 6);
    const int64_t count = std::clamp<int64_t>(expected(rank), 1, counts[4] - 1);
    for (int64_t i = 0; i < count && static_cast<int64_t>(words.size()) < units; ++i) words.push_back(word);
  }
  shuffle(words, random);
  std::string out;
  for (const std::string& word : words) out += word + " ";
  return out;
}

}  // namespace

// A task before it has its length: a body of so many units between two fixed texts. The body is a pure function of the
// number of units, and may set the sample's answer and targets.
struct RulerGenerator::Draft {
  std::string before, after;
  int64_t fewest = 1, most = 0;  // units
  std::function<std::string(int64_t units, RulerSample& sample)> body;
  RulerSample sample;

  // Words whose most frequent ones, the targets, are the answer.
  static auto answered_by_targets(std::string (*words)(int64_t units, uint64_t seed, Strings& targets), uint64_t seed) {
    return [words, seed](int64_t units, RulerSample& out) {
      std::string body = words(units, seed, out.targets);
      out.answer = joined(out.targets);
      return body;
    };
  }
};

const char* ruler_task_name(RulerTask task) {
  constexpr std::array kNames = {"single",    "multi-key",    "multi-value",    "multi-query",
                                 "variables", "common-words", "frequent-words", "questions"};
  return kNames[static_cast<size_t>(task)];
}

double score_ruler(const RulerSample& sample, std::string_view text) {
  const std::string said = lower(text);
  double found = 0;
  for (const std::string& target : sample.targets) found += said.find(lower(target)) != std::string::npos;
  if (sample.any) return found > 0 ? 1 : 0;
  return found / static_cast<double>(sample.targets.size());
}

Result<RulerGenerator> RulerGenerator::create(const Tokenizer& tokenizer, const RulerOptions& options,
                                              std::string_view haystack, std::string_view facts) {
  if (options.length < 32) return invalid_argument("ruler: length is {}, wanted at least 32", options.length);
  if (options.digits < 1 || options.digits > 15)
    return invalid_argument("ruler: digits is {}, wanted 1 to 15", options.digits);
  if (options.needles < 1 || options.needles > 16)
    return invalid_argument("ruler: needles is {}, wanted 1 to 16", options.needles);
  if (options.repeats < 1 || options.repeats > 64)
    return invalid_argument("ruler: repeats is {}, wanted 1 to 64", options.repeats);
  if (options.digits == 1 && options.needles > 8)
    return invalid_argument("ruler: got {} needles of one digit, wanted at most 8", options.needles);
  for (std::string_view text : {haystack, facts}) {
    if (const auto ids = tokenizer.encode(text); !ids.ok()) return ids.status().with_context("ruler");
  }
  RulerGenerator out(tokenizer, options);
  out.sentences_ = split_sentences(haystack.empty() ? kNoise : haystack);
  if (!haystack.empty() && out.sentences_.size() < 16)
    return invalid_argument("ruler: got {} sentences of haystack, wanted at least 16", out.sentences_.size());
  if (facts.empty()) return out;
  for (std::string_view document : split_documents(facts, "auto")) {
    constexpr std::string_view kField = "\nCapital, name: ", kPlace = "\nLocation: ";
    const size_t at = document.find(kField), place = document.find(kPlace);
    if (at == std::string_view::npos || place == std::string_view::npos) continue;
    const auto line = [&](size_t begin) {
      return document.substr(begin, document.find_first_of("\n;(,", begin) - begin);
    };
    std::string capital(line(at + kField.size()));
    while (!capital.empty() && capital.back() == ' ') capital.pop_back();
    const std::string country(document.substr(0, document.find('\n')));
    if (capital.empty() || capital.size() > 24 || country.size() > 40) continue;
    out.capitals_.push_back({country, capital,
                             fmt::format("{} lies in {}. The capital of {} is {}.", country,
                                         line(place + kPlace.size()), country, capital)});
  }
  if (out.capitals_.size() < 8)
    return invalid_argument("ruler: got {} countries with a capital in the facts, wanted at least 8",
                            out.capitals_.size());
  return out;
}

int64_t RulerGenerator::tokens_of(std::string_view text) const {
  return static_cast<int64_t>(value_or_throw(tokenizer_->encode(text)).size());
}

Result<RulerSample> RulerGenerator::fill(const Draft& draft) const {
  const auto build = [&](int64_t units) {
    RulerSample sample = draft.sample;
    const std::string body = draft.body(units, sample);
    sample.prompt = fmt::format("{}{}{}", draft.before, body, draft.after);
    return sample;
  };
  const auto size = [&](const RulerSample& sample) { return tokens_of(sample.prompt + sample.answer); };
  RulerSample best = build(draft.fewest);
  if (const int64_t least = size(best); least > options_.length) {
    return invalid_argument("ruler: length is {}, this task needs at least {}", options_.length, least);
  }
  int64_t fits = draft.fewest, exceeds = draft.most + 1;
  while (fits + 1 < exceeds) {
    const int64_t middle = fits + (exceeds - fits) / 2;
    RulerSample sample = build(middle);
    if (size(sample) <= options_.length) {
      fits = middle;
      best = std::move(sample);
    } else {
      exceeds = middle;
    }
  }
  return best;
}

Result<RulerSample> RulerGenerator::sample(RulerTask task, int64_t index) const {
  const auto seed = static_cast<uint64_t>(options_.seed) * 1000000007 +
                    static_cast<uint64_t>(index) * kRulerTasks.size() + static_cast<uint64_t>(task);
  NumpyRandom random(seed);
  Draft draft;
  draft.most = options_.length;  // a unit has at least one token
  switch (task) {
    case RulerTask::kSingle:
    case RulerTask::kMultiKey:
    case RulerTask::kMultiValue:
    case RulerTask::kMultiQuery: draft_needles(task, random, draft); break;
    case RulerTask::kVariables: draft_variables(random, draft); break;
    case RulerTask::kCommonWords:
      draft.before = "Below is a numbered list of words. Some of them appear more often than others.\n";
      draft.after = "\nThe words that appear most often in the list are:";
      draft.fewest = 12;
      draft.body = Draft::answered_by_targets(word_list, seed);
      break;
    case RulerTask::kFrequentWords:
      draft.before = "Read the following coded text and track the frequency of each coded word. Ignore the dots.\n";
      draft.after = "\nThe three most frequent coded words are:";
      draft.fewest = 20;
      draft.body = Draft::answered_by_targets(coded_text, seed);
      break;
    case RulerTask::kQuestions:
      if (capitals_.empty()) return invalid_argument("ruler: questions need the factbook's text, and none was given");
      draft_questions(random, draft);
      break;
  }
  draft.sample.any = task == RulerTask::kQuestions;
  return fill(draft);
}

void RulerGenerator::draft_needles(RulerTask task, NumpyRandom& random, Draft& draft) const {
  const int64_t keys = task == RulerTask::kMultiKey || task == RulerTask::kMultiQuery ? options_.needles : 1;
  const int64_t needles = task == RulerTask::kSingle ? 1 : options_.needles;
  const Strings words = draw_words(random, keys), numbers = draw_numbers(random, options_.digits, needles);
  Strings fixed;
  for (int64_t i = 0; i < needles; ++i) {
    const auto at = static_cast<size_t>(i);
    fixed.push_back(needle(words[keys > 1 ? at : 0], numbers[at]));
  }
  for (int64_t pass = 1; pass < options_.repeats; ++pass) {
    Strings again(fixed.begin(), fixed.begin() + needles);
    shuffle(again, random);
    fixed.insert(fixed.end(), again.begin(), again.end());
  }
  const uint64_t seed = random.next_uint64();
  draft.before = "Some special magic numbers are hidden within the following text. Make sure to memorize them.\n";
  draft.fewest = 0;
  draft.body = [this, fixed, seed](int64_t units, RulerSample&) { return spread(fixed, sentences_, units, seed); };
  // Several needles are asked for in another order than they stand in.
  Strings asked = words, wanted = numbers;
  if (task == RulerTask::kMultiKey) {
    const auto chosen = static_cast<size_t>(random.integers(0, needles));
    asked = {words[chosen]};
    wanted = {numbers[chosen]};
  }
  if (task == RulerTask::kMultiQuery) {
    for (size_t i = 0; i < asked.size(); ++i) {
      const auto other = static_cast<size_t>(random.integers(static_cast<int64_t>(i), needles));
      std::swap(asked[i], asked[other]);
      std::swap(wanted[i], wanted[other]);
    }
  }
  const std::string keys_text = joined(asked).substr(1);
  const std::string names = keys_text.substr(0, keys_text.size() - 1);
  const bool several = wanted.size() > 1;
  draft.after = several ? fmt::format("\nThe special magic numbers for {} mentioned in the text are", names)
                        : fmt::format("\nThe special magic number for {} mentioned in the text is", names);
  draft.sample.targets = wanted;
  draft.sample.answer = joined(wanted);
}

void RulerGenerator::draft_variables(NumpyRandom& random, Draft& draft) const {
  const std::string value = draw_numbers(random, options_.digits, 1)[0];
  Strings names, fixed;
  for (int64_t i = 0; i < options_.needles; ++i) {
    std::string name = coded_word(random, 5);
    for (char& c : name) c = static_cast<char>(c - 'a' + 'A');
    fixed.push_back(i == 0 ? fmt::format("VAR {} = {}.", name, value)
                           : fmt::format("VAR {} = VAR {}.", name, names.back()));
    names.push_back(std::move(name));
  }
  const uint64_t seed = random.next_uint64();
  draft.before = "Memorize and track the chain of variable assignment hidden in the following text.\n";
  draft.after = fmt::format("\nThe variables that are assigned the value {} are:", value);
  draft.fewest = 0;
  draft.body = [this, fixed, seed](int64_t units, RulerSample&) { return spread(fixed, sentences_, units, seed); };
  draft.sample.targets = names;
  draft.sample.answer = joined(names);
}

void RulerGenerator::draft_questions(NumpyRandom& random, Draft& draft) const {
  const auto count = static_cast<int64_t>(capitals_.size());
  const std::vector<int64_t> order = draw_distinct(random, count, count);  // the first is asked for
  const uint64_t seed = random.next_uint64();
  const Capital& asked = capitals_[static_cast<size_t>(order[0])];
  draft.before = "Answer the question from the given paragraphs.\n";
  draft.after = fmt::format("Question: What is the capital of {}?\nAnswer:", asked.country);
  draft.most = std::min(draft.most, count);
  draft.body = [this, order, seed](int64_t units, RulerSample&) {
    NumpyRandom places(seed);
    const int64_t golden = places.integers(0, units);
    std::string body;
    for (int64_t i = 0; i < units; ++i) {
      const int64_t which = i == golden ? 0 : i < golden ? i + 1 : i;
      body += capitals_[static_cast<size_t>(order[static_cast<size_t>(which)])].paragraph + "\n";
    }
    return body;
  };
  draft.sample.targets = {asked.capital};
  draft.sample.answer = fmt::format(" {}.", asked.capital);
}

}  // namespace engram
