// When is an entity resolved? What a model wrote about entities from the state after each block, counted by key words.
//
// An entity is named at a layer when the text written from its state there holds one of its key words, and resolved at
// the first such layer. Only entities count that the model describes when it is told their name. Two nulls stand
// beside it: the same texts searched for the key words of the other entities, and texts written from the state of the
// name's last word alone, which knows nothing of the words before it.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/lab/pages/statistics.h"
#include "engram/lab/text/entities.h"

namespace engram {

using LayerTexts = std::vector<std::vector<std::string>>;  // [entities][layers]

struct Descriptions {
  std::vector<std::string> told;  // [entities] written behind the name itself
  LayerTexts patched, last_word;  // from the state of the name's last token, and of the last word without the others
};

// Whether a model can be asked: how many of its descriptions hold a key word of the thing whose name it was told.
struct Ability {
  std::vector<bool> known;              // [entities]
  int64_t right = 0;                    // of them
  int64_t wrong = 0, wrong_trials = 0;  // the same descriptions with the key words of each other entity
  bool testable = false;                // Wilson's 95 % interval of the first is above the second
};
Ability measure_ability(const std::vector<KnownEntity>& entities, const std::vector<std::string>& told);

struct Resolution {
  int64_t layers = 0;
  std::vector<int64_t> first;            // [entities] the layer at which it is resolved; `layers`: at none
  std::vector<int64_t> first_last_word;  // the same of the last word alone
  // [layers], shares of the known entities: named there, resolved so far; and so far by the two nulls.
  std::vector<double> named, resolved, others, last_word;
};
// REQUIRES: at least one known entity, one layer.
Resolution resolve(const std::vector<KnownEntity>& entities, const Descriptions& texts, const std::vector<bool>& known);

// Quartiles of the layers of the chosen entities; one that is resolved nowhere counts as the layer behind the last.
struct Quartiles {
  double low = 0, median = 0, high = 0;
  Interval median_interval;  // 95 %, bootstrap over entities
};
Quartiles quartiles(const std::vector<int64_t>& first, const std::vector<bool>& chosen, int64_t seed);

// Second minus first, over the same entities, paired.
struct ResolutionChange {
  int64_t entities = 0, both = 0;  // compared; resolved in both
  double median = 0, mean = 0;     // difference of the medians of all; mean difference of those resolved in both
  Interval median_interval, mean_interval;
};
ResolutionChange compare_resolutions(const Resolution& first, const Resolution& second, const std::vector<bool>& chosen,
                                     int64_t seed);

}  // namespace engram
