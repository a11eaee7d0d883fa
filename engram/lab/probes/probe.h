// Probe: one question about one or two trained checkpoints, answered with numbers and a page.
//
// A probe reads the checkpoints it is given and returns; files are run_probe()'s business (lab/probes/probes.h). With
// two checkpoints (a baseline first, then the model with a memory) it compares them. Probes are deterministic: what is
// sampled is drawn with options.seed. c10::Error for what a model cannot do, Status for bad input.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/lab/pages/page.h"
#include "engram/lab/text/probe_text.h"
#include "engram/model/io/checkpoint.h"

namespace engram {

struct ProbeOptions {
  std::vector<std::string> checkpoints;  // one or two
  std::string text;                      // held-out text; empty: the validation text of the first checkpoint's recipe
  std::string train_text;                // collisions: what rows were learned from; empty: the recipe's training text
  std::string null;                      // logit-lens, cka: a checkpoint that differs from the first by its seed only
  std::string entities;                  // cka, gates: names; patchscope: with key words; empty: built-in lists
  std::string items;                     // knock-out: docs/formats/evaluation.md; empty: the built-in facts
  std::string reading;                   // knock-out: items whose prompt has the answer; empty: made from the facts
  std::string output;                    // folder; empty: results/PROBE-DATE
  std::string command;                   // as typed, for the record
  int64_t max_tokens = 65536;            // of held-out text; 0: all
  int64_t window = 0;                    // logit-lens, cka, gates: tokens; 0: the models' context, at most 1,024
  int64_t seed = 0;
  // patchscope
  std::string entity = "Diana, Princess of Wales";
  std::string describe;  // prompt that ends in a placeholder token; empty: the built-in one
  // edit
  std::string ngram = " United States";  // the text whose n-gram rows change
  std::string toward;                    // another text whose rows they become; empty: gradient steps on `target`
  std::string target = " of America";    // what should follow
  int64_t steps = 20;
  std::string table, save_overlay;  // a row file of the checkpoint, and the overlay of it to write; both or neither
  // ruler
  std::vector<int64_t> lengths;  // tokens; empty: the shorter model's context and its half
  int64_t samples = 50;          // of each task and length
  int64_t digits = 4;            // of a needle's value
  int64_t needles = 4;
  std::string haystack;  // text file; empty: RULER's noise sentences
  std::string facts;     // factbook text; empty: no questions
  // long-ppl
  int64_t short_context = 0;  // tokens; 0: an eighth of the shorter model's context
};

inline constexpr const char* kNullLabel = "null";  // of options.null, on pages and in data.json

struct ProbeContext {
  Env& env;
  const ProbeOptions& options;
  std::vector<LoadedModel> models;
  std::vector<std::string> labels;  // one per model, distinct
  std::optional<LoadedModel> null;  // options.null, of the same vocabulary

  // The held-out text: the whole of it; its first max_tokens; windows of it, spread over the whole.
  Result<ProbeText> read_whole_text() const;
  Result<ProbeText> read_text() const;
  Result<ProbeText> read_windows() const;
  // The last model whose memory is one of these. kInvalidArgument: "the checkpoint has " and `without`.
  Result<const LoadedModel*> model_with(bool (*memory)(const ModelConfig&), const char* without) const;
  // What the model with the shorter context reads, so that all read the same.
  int64_t context_length() const;
  // Tokens of one window of read_windows().
  int64_t window() const;
};

struct ProbeResult {
  nlohmann::ordered_json numbers;  // an object; joins data.json
  Page page;
};

}  // namespace engram
