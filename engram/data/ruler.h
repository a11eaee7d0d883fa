// RULER: synthetic long-context tasks with exact scoring (Hsieh et al. 2024), of any length in tokens.
//
// clang-format off
//   single        one needle "One of the special magic numbers for KEY is: VALUE." in a haystack of sentences
//   multi-key     as many needles as `needles`, one of them asked for
//   multi-value   one key with `needles` values, all asked for
//   multi-query   `needles` keys, all asked for
//   variables     a chain of assignments VAR A = 123, VAR B = VAR A, ...; which variables hold the value?
//   common-words  a numbered list; which words appear in it most often? (10 of them 30 times, the others 3 times; fewer
//                 words and times where the length is short)
//   frequent-words  coded words with the counts of a zeta law, alpha 2; which three are the most
//                   frequent, "..." left out?
//   questions     paragraphs about countries from the factbook; the capital of one is asked for
// clang-format on
// A sample is a pure function of (options, haystack, facts, tokenizer, task, index). Torch-free. Immutable after
// create(); threads may share one.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"
#include "engram/hash/numpy_random.h"
#include "engram/text/tokenizer.h"

namespace engram {

enum class RulerTask {
  kSingle,
  kMultiKey,
  kMultiValue,
  kMultiQuery,
  kVariables,
  kCommonWords,
  kFrequentWords,
  kQuestions
};
inline constexpr std::array kRulerTasks = {RulerTask::kSingle,        RulerTask::kMultiKey,  RulerTask::kMultiValue,
                                           RulerTask::kMultiQuery,    RulerTask::kVariables, RulerTask::kCommonWords,
                                           RulerTask::kFrequentWords, RulerTask::kQuestions};
const char* ruler_task_name(RulerTask task);

struct RulerOptions {
  int64_t length = 256;  // tokens of prompt and answer together, at most
  int64_t digits = 7;    // of a needle's value and of a variable's
  int64_t needles = 4;   // of multi-key, multi-value and multi-query; links of a variables chain
  int64_t repeats = 1;   // how often each needle appears in the text: RULER has 1; more teach a small model to copy
  int64_t seed = 0;
};

struct RulerSample {
  std::string prompt;                // ends where the answer begins, without the space before it
  std::string answer;                // " 1234567, 7654321.": what a training document continues with
  std::vector<std::string> targets;  // texts that the answer has to hold
  bool any = false;                  // true: one of the targets is enough
};

// Share of the targets that the text holds, ASCII case ignored; with `any` 1 or 0. RULER's string match.
double score_ruler(const RulerSample& sample, std::string_view text);

class RulerGenerator {
 public:
  // haystack: text whose sentences fill the space between needles; empty: RULER's noise sentences. facts: the
  // factbook's text (scripts/corpus.sh); empty: no `questions`. The tokenizer must outlive the generator.
  // kInvalidArgument: options out of range, a haystack with fewer than 16 sentences, facts with fewer than 8 capitals.
  static Result<RulerGenerator> create(const Tokenizer& tokenizer, const RulerOptions& options,
                                       std::string_view haystack, std::string_view facts);

  bool has(RulerTask task) const { return task != RulerTask::kQuestions || !capitals_.empty(); }
  // kInvalidArgument: the task does not fit options.length; the message has the tokens it needs.
  Result<RulerSample> sample(RulerTask task, int64_t index) const;

 private:
  struct Capital {
    std::string country, capital, paragraph;
  };
  struct Draft;
  RulerGenerator(const Tokenizer& tokenizer, const RulerOptions& options) : tokenizer_(&tokenizer), options_(options) {}
  void draft_needles(RulerTask task, NumpyRandom& random, Draft& draft) const;
  void draft_variables(NumpyRandom& random, Draft& draft) const;
  void draft_questions(NumpyRandom& random, Draft& draft) const;
  // The longest sample of the draft that fits options.length.
  Result<RulerSample> fill(const Draft& draft) const;
  int64_t tokens_of(std::string_view text) const;

  const Tokenizer* tokenizer_;
  RulerOptions options_;
  std::vector<std::string> sentences_;
  std::vector<Capital> capitals_;
};

}  // namespace engram
