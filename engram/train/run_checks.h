// What a run is refused for before anything is opened, and what it says first.
#pragma once
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/data/data_loader.h"
#include "engram/train/run_inputs.h"

namespace engram {

// kFailedPrecondition: no such device. kInvalidArgument, kUnimplemented: what so many ranks cannot do.
Status check_run(const Recipe& recipe, int ranks);

// What the schedule reads, against what there is: "40 steps of 256 tokens: 10.2k tokens, 0.12 epochs of the 85.3k in
// data.train", and a line for what is read too often.
std::vector<std::string> describe_schedule(const RunInputs& inputs, const DataLoader& loader);

}  // namespace engram
