// The page of training runs, running or finished: every number of their metrics.jsonl over the steps, several runs over
// each other, their latest histograms and samples. One file that opens offline.
#pragma once
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// outputs: folders of runs. refresh: seconds after which an open page reads its file again; 0: never. kNotFound: a
// folder without metrics.jsonl.
Result<std::string> watch_page(Env& env, const std::vector<std::string>& outputs, int refresh);

}  // namespace engram
