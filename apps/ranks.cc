#include "apps/ranks.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "apps/stop_signal.h"
#include "engram/dist/local_ranks.h"
#include "engram/port/process.h"

namespace engram::apps {

Status run_in_ranks(int ranks) {
  std::vector<std::string> arguments = port::program_arguments();
  if (arguments.empty()) return Status(StatusCode::kUnavailable, "cannot read what this program was called with");
  arguments[0] = port::program_path();
  ENGRAM_ASSIGN_OR_RETURN(const int code, run_local_ranks(ranks, arguments, stop_on_signals(2)));
  if (code != 0) std::exit(code);
  return {};
}

}  // namespace engram::apps
