// LoraConfig: which projections of a model get low-rank changes (io/lora.h). Torch-free, a plain value.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/model/model_config.h"

namespace engram {

struct LoraConfig {
  int64_t rank = 0;                                         // 0: none
  double alpha = 16;                                        // changes count alpha / rank times
  std::vector<std::string> targets = {"q_proj", "v_proj"};  // projections by their names on disk

  // kInvalidArgument: a name that matches no projection of the model. Routed experts are none.
  Status validate(const ModelConfig& model) const;
};

}  // namespace engram
