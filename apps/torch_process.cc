#include "apps/torch_process.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

namespace engram::apps {

void set_up_torch(int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  at::globalContext().setFlushDenormal(true);  // threads inherit the mode of the one that starts them
}

void add_dtype_option(CLI::App& command, std::string& dtype) {
  command
      .add_option("--dtype", dtype,
                  "weights on the CPU: bf16 halves what a generated token reads; auto: as the checkpoint has them")
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}))
      ->capture_default_str();
}

std::optional<c10::ScalarType> parse_weights(const std::string& dtype) {
  if (dtype == "auto") return std::nullopt;
  return dtype == "bf16" ? c10::kBFloat16 : c10::kFloat;
}

}  // namespace engram::apps
