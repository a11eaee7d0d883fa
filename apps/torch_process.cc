#include "apps/torch_process.h"

#include <torch/types.h>
#include <torch/utils.h>

namespace engram::apps {

void set_up_torch(int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  at::globalContext().setFlushDenormal(true);  // threads inherit the mode of the one that starts them
}

}  // namespace engram::apps
