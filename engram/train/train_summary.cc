#include "engram/train/train_summary.h"

namespace engram {

nlohmann::ordered_json to_json(const std::vector<ValidationSetResult>& sets) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const ValidationSetResult& set : sets)
    out[set.name] = {{"tokens", set.tokens},
                     {"documents", set.documents},
                     {"loss", set.loss},
                     {"bits_per_byte", set.bits_per_byte},
                     {"exact", set.exact}};
  return out;
}

}  // namespace engram
