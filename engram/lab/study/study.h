// Study: a study file (TOML) and its training runs, each with its parameters counted and solved.
//
//   study = "allocation"            what `engram lab` calls it
//   scale = "cpu-small"             together with the study: the name of its folders
//   recipe = "recipes/xs_cpu.toml"  describes the model at rho = 1
//   seeds = 3                       0 .. seeds - 1: initial weights, order of the text, controls
//   budgets = [4608000, 18432000]   training tokens; each budget is a separate run with its own decay. 0: the model of
//                                   train.start_from is measured
//   [[group]]                       one line of the plot; docs/lab.md lists the keys
//
// Equal parameters are a promise: what cannot be solved within the tolerances of model/parameters.h is an error here,
// before anything trains. Torch-free.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/lab/study/training_cost.h"
#include "engram/model/parameters.h"
#include "engram/train/recipe.h"

namespace engram {

enum class StudyControl { kNone, kCapacityOne, kShuffledHash, kDense };
const char* study_control_name(StudyControl control);  // "none", "capacity-1", ...: as a study file says it
// Whether a checkpoint says all about a run: these two controls are in the training loop.
inline bool weights_are_the_model(StudyControl control) {
  return control != StudyControl::kCapacityOne && control != StudyControl::kShuffledHash;
}

struct StudyGroup {
  std::string name;  // unique
  StudyControl control = StudyControl::kNone;
  std::vector<double> rho;       // solved at equal P_tot and P_act; empty: the recipe's own model
  std::vector<int64_t> rows;     // rows of all tables together, on the recipe's backbone; not with rho
  int64_t rows_times = 1;        // after solving: this many times the rows (P_tot grows)
  std::vector<std::string> set;  // overrides of the recipe
  std::vector<std::pair<std::string, std::vector<std::string>>> sweep;  // recipe key, values: every combination
  std::string baseline;  // the group whose first point gains are measured against; empty: the study's first group
  std::string after;     // training continues from the weights of this group's run of the same seed
  std::vector<int64_t> budgets;  // the study's when empty
  int64_t seeds = 0;             // 0: the study's
};

// What is expected of named validation sets, written down before the runs.
enum class Expectation { kMore, kLess, kNotMore, kNotLess };
const char* expectation_name(Expectation expectation);  // as a study file says it
struct StudyHypothesis {
  std::string text;
  std::string arm, than;          // groups
  std::vector<std::string> sets;  // their mean
  std::string measure;            // "exact" or "bits_per_byte"
  Expectation expect = Expectation::kMore;
  double margin = 0;  // of "not more" and "not less": so much is no difference
};

struct StudyRun {
  std::string name;  // unique, a file name
  std::string group;
  StudyControl control = StudyControl::kNone;
  std::vector<std::pair<std::string, std::string>> sweep;  // key, value
  int64_t seed = 0;
  int64_t budget = 0;                  // training tokens: whole steps
  std::optional<double> rho;           // as asked for
  std::string after;                   // the run whose weights it starts from; empty: random ones
  std::string text;                    // what is read: digest of the vocabulary, tokens of every list of files
  Recipe recipe;                       // resolved: nothing is left open
  ParameterCount parameters;           // with the one row of each head that capacity-1 uses
  std::optional<ParameterCount> base;  // of the model that P_tot and P_act are to equal; none: no such promise
  int64_t rows = 0;                    // of all tables, likewise
  TrainingCost cost;
  int64_t added = 0;  // parameters that the model of train.start_from has not: memory and low-rank changes
};

struct Study {
  std::string path;  // of the file
  std::string name, scale, title, question, recipe;
  int64_t seeds = 3;
  std::vector<int64_t> budgets;
  std::vector<std::string> set;
  std::vector<StudyGroup> groups;
  std::vector<std::string> references;  // groups that validation sets are compared with; empty: the first group
  std::vector<StudyHypothesis> hypotheses;
  bool keep_weights = true;
  int64_t decode_tokens = 0;  // every run's model writes so many, timed; 0: none

  std::string folder_name() const { return name + "-" + scale; }
  // kNotFound, kInvalidArgument: the message says where. Does not read the recipe.
  static Result<Study> load(Env& env, const std::string& path);
  static Result<Study> parse(const std::string& text, const std::string& path);
};

struct ExpandOptions {
  int64_t seeds = 0;                   // instead of the study's; 0: the study's
  std::vector<std::string> overrides;  // for every run, after the study's own
  std::string data_directory;          // where [data.synthetic] of the recipe makes its files, once for all runs
  std::string weights_directory;       // DIRECTORY/RUN: final weights, for the runs of groups with `after`
};
// The runs in the order in which they are best done: group by group, within it budget, seed, axis.
// kInvalidArgument: a recipe key that does not exist, a budget of no whole steps, parameters that cannot be solved.
Result<std::vector<StudyRun>> expand_study(Env& env, const Study& study, const ExpandOptions& options);

// The plan, one line for each model: P_tot, P_act, rho, experts, rows, and its number of runs.
std::string describe_runs(const std::vector<StudyRun>& runs);

}  // namespace engram
