// A folder of results shows what it holds: its pages are made again from its numbers, in a later form of the pages.
#pragma once
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// From FOLDER/data.json the pages of a study, a probe or an evaluation; from FOLDER/summary.json the page of a demo.
// The numbers stay as they are. kNotFound: neither file is there. kDataLoss: the file is none of these.
Status render_results(Env& env, const std::string& folder);

}  // namespace engram
