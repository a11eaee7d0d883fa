// A command that runs in several processes: which of them this one is, and how it starts the others.
#pragma once
#include "engram/core/status.h"
#include "engram/dist/world.h"

namespace engram::apps {

// Runs this process's command line again in `ranks` ranks on this machine, which see from their environment who they
// are. Ends the process with the exit code of the first rank that fails: its error line has been printed.
Status run_in_ranks(int ranks);

}  // namespace engram::apps
