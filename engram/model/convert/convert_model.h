// Import: another program's model becomes a checkpoint, streamed, as a whole or not at all. Export: the other way.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/model/convert/source_model.h"

namespace engram {

struct ConvertOptions {
  bool bf16 = false;                                             // round every weight, but routing biases
  std::function<bool(int64_t done, int64_t total)> on_progress;  // bytes; false stops (kCancelled)
};

// Writes the folder `destination`. kAlreadyExists: it is there. kInvalidArgument: tokenizer and model do not fit.
Status import_model(Env& env, const SourceModel& source, const std::string& destination,
                    const ConvertOptions& options = {});

// A checkpoint, its low-rank changes merged, as a folder that `transformers` loads: of a family of its own, or with
// assets/modeling_engram.py, which it runs under trust_remote_code.
Status export_hf_folder(Env& env, const std::string& checkpoint, const std::string& destination,
                        const ConvertOptions& options = {});

}  // namespace engram
