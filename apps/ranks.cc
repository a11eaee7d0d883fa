#include "apps/ranks.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "apps/stop_signal.h"
#include "engram/dist/local_ranks.h"

namespace engram::apps {

Status run_in_ranks(int ranks) {
  std::vector<std::string> arguments;
  std::ifstream command_line("/proc/self/cmdline", std::ios::binary);
  for (std::string word; std::getline(command_line, word, '\0');) arguments.push_back(word);
  if (arguments.empty()) return Status(StatusCode::kUnavailable, "/proc/self/cmdline: cannot be read");
  arguments[0] = "/proc/self/exe";
  ENGRAM_ASSIGN_OR_RETURN(const int code, run_local_ranks(ranks, arguments, stop_on_signals(2)));
  if (code != 0) std::exit(code);
  return {};
}

}  // namespace engram::apps
