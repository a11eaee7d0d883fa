#include "engram/data/ruler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace engram {
namespace {

const Tokenizer& bytes() {
  static const Tokenizer tokenizer =
      value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "test"));
  return tokenizer;
}

std::string facts(int countries = 12) {
  std::string text;
  for (int i = 0; i < countries; ++i) {
    text += fmt::format(
        "Country{}\n\nGeography\nLocation: Region{}, by the sea\n\nGovernment\nCapital, name: Town{}; old"
        "\n<|endoftext|>\n",
        i, i, i);
  }
  return text;
}

RulerGenerator generator(RulerOptions options, const std::string& haystack = "") {
  return value_or_throw(RulerGenerator::create(bytes(), options, haystack, facts()));
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

TEST(Ruler, SamplesFillTheLengthAndHoldTheirAnswers) {
  for (int64_t length : {900, 3000}) {
    const RulerGenerator ruler = generator({.length = length});
    for (RulerTask task : kRulerTasks) {
      const RulerSample sample = value_or_throw(ruler.sample(task, 3));
      const auto tokens = static_cast<int64_t>((sample.prompt + sample.answer).size());  // a byte is a token
      EXPECT_LE(tokens, length) << ruler_task_name(task);
      if (task != RulerTask::kQuestions) {  // twelve countries end before 3,000 bytes do
        EXPECT_GT(tokens, length - 60) << ruler_task_name(task);
      }
      EXPECT_EQ(score_ruler(sample, sample.answer), 1.0) << ruler_task_name(task);
      EXPECT_EQ(score_ruler(sample, " none of them."), 0.0);
      for (const std::string& target : sample.targets) {
        EXPECT_NE(sample.prompt.find(target), std::string::npos) << ruler_task_name(task) << ": " << target;
      }
    }
  }
}

TEST(Ruler, APureFunctionOfItsSeed) {
  const RulerGenerator one = generator({.length = 900}), same = generator({.length = 900});
  const RulerGenerator other = generator({.length = 900, .seed = 1});
  std::set<std::string> prompts;
  for (RulerTask task : kRulerTasks) {
    for (int64_t i = 0; i < 20; ++i) {
      const std::string prompt = value_or_throw(one.sample(task, i)).prompt;
      EXPECT_EQ(prompt, value_or_throw(same.sample(task, i)).prompt);
      EXPECT_NE(prompt, value_or_throw(other.sample(task, i)).prompt);
      prompts.insert(prompt);
    }
  }
  EXPECT_EQ(prompts.size(), 160u);
}

TEST(Ruler, NeedlesAreWhatIsAskedFor) {
  const RulerGenerator ruler = generator({.length = 1500, .digits = 5, .needles = 3});
  const auto sample = [&](RulerTask task) { return value_or_throw(ruler.sample(task, 0)); };
  EXPECT_EQ(count(sample(RulerTask::kSingle).prompt, "One of the special magic numbers"), 1u);
  const RulerSample key = sample(RulerTask::kMultiKey);
  EXPECT_EQ(count(key.prompt, "One of the special magic numbers"), 3u);
  ASSERT_EQ(key.targets.size(), 1u);
  const size_t asked = key.prompt.rfind(" for ") + 5;
  const std::string word = key.prompt.substr(asked, key.prompt.find(' ', asked) - asked);
  EXPECT_NE(key.prompt.find(fmt::format("for {} is: {}.", word, key.targets[0])), std::string::npos);
  const RulerSample values = sample(RulerTask::kMultiValue);
  EXPECT_EQ(values.targets.size(), 3u);
  EXPECT_EQ(score_ruler(values, values.targets[0] + " and " + values.targets[2]), 2.0 / 3);
  EXPECT_EQ(sample(RulerTask::kMultiQuery).targets.size(), 3u);
  const RulerSample chain = sample(RulerTask::kVariables);
  EXPECT_EQ(count(chain.prompt, "VAR "), 3u + 2u);  // three assignments, two of them from a variable
  EXPECT_EQ(chain.targets.size(), 3u);
}

TEST(Ruler, RepeatsStateEveryNeedleSoOften) {
  const RulerGenerator ruler = generator({.length = 1500, .needles = 3, .repeats = 4});
  const RulerSample key = value_or_throw(ruler.sample(RulerTask::kMultiKey, 0));
  EXPECT_EQ(count(key.prompt, "One of the special magic numbers"), 12u);
  std::map<std::string, int> statements;
  for (size_t at = 0; (at = key.prompt.find("numbers for ", at)) != std::string::npos; ++at)
    ++statements[key.prompt.substr(at, key.prompt.find('.', at) - at)];
  EXPECT_EQ(statements.size(), 3u);
  for (const auto& [statement, times] : statements) EXPECT_EQ(times, 4) << statement;
  // Without repeats nothing is drawn for them: samples are those of RULER.
  EXPECT_EQ(value_or_throw(generator({.length = 1500, .repeats = 1}).sample(RulerTask::kMultiKey, 0)).prompt,
            value_or_throw(generator({.length = 1500}).sample(RulerTask::kMultiKey, 0)).prompt);
  const auto refused = RulerGenerator::create(bytes(), {.repeats = 0}, "", "");
  EXPECT_EQ(refused.status().message(), "ruler: repeats is 0, wanted 1 to 64");
}

TEST(Ruler, WordListsHaveTheirFrequencies) {
  const RulerGenerator ruler = generator({.length = 4000});
  for (int64_t i = 0; i < 5; ++i) {
    const RulerSample common = value_or_throw(ruler.sample(RulerTask::kCommonWords, i));
    std::map<std::string, size_t> times;
    const std::string list = common.prompt.substr(common.prompt.find('\n'));
    for (size_t at = 0; (at = list.find(". ", at)) != std::string::npos; at += 2) {
      ++times[list.substr(at + 2, list.find(' ', at + 2) - at - 2)];
    }
    size_t least = 1000, most_other = 0;
    for (const auto& [word, n] : times) {
      const bool wanted = std::find(common.targets.begin(), common.targets.end(), word) != common.targets.end();
      if (wanted) {
        least = std::min(least, n);
      } else {
        most_other = std::max(most_other, n);
      }
    }
    EXPECT_GE(least, 3 * most_other);
    const RulerSample coded = value_or_throw(ruler.sample(RulerTask::kFrequentWords, i));
    ASSERT_EQ(coded.targets.size(), 3u);
    EXPECT_GT(count(coded.prompt, coded.targets[0]), count(coded.prompt, coded.targets[1]));
    EXPECT_GT(count(coded.prompt, coded.targets[1]), count(coded.prompt, coded.targets[2]));
    EXPECT_GE(count(coded.prompt, coded.targets[2]), 2u);
  }
}

TEST(Ruler, TheHaystackIsTheTextGiven) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += fmt::format("Sentence number {} stands here. ", i);
  const RulerSample sample = value_or_throw(generator({.length = 900}, text).sample(RulerTask::kSingle, 0));
  EXPECT_GT(count(sample.prompt, " stands here."), 15u);
  EXPECT_EQ(sample.prompt.find("grass"), std::string::npos);
}

TEST(Ruler, WhatDoesNotFitIsSaid) {
  const auto why = [](RulerOptions options, const std::string& haystack = "", const std::string& text = "") {
    const auto made = RulerGenerator::create(bytes(), options, haystack, text);
    return made.ok() ? std::string("no error") : made.status().message();
  };
  EXPECT_NE(why({.length = 5}).find("length is 5"), std::string::npos);
  EXPECT_NE(why({.digits = 1, .needles = 9}).find("one digit"), std::string::npos);
  EXPECT_NE(why({}, "One. Two.").find("0 sentences"), std::string::npos);
  EXPECT_NE(why({}, "", facts(3)).find("3 countries"), std::string::npos);
  EXPECT_NE(why({}, "\xff").find("UTF-8"), std::string::npos);
  const RulerGenerator small = value_or_throw(RulerGenerator::create(bytes(), {.length = 64}, "", ""));
  EXPECT_FALSE(small.has(RulerTask::kQuestions));
  EXPECT_NE(small.sample(RulerTask::kSingle, 0).status().message().find("needs at least"), std::string::npos);
}

}  // namespace
}  // namespace engram
