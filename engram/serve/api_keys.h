// The keys that may use a server, and where a server may listen without any.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// One key a line; empty lines and lines that begin with # are skipped.
//   kInvalidArgument  no key in the file, or one that is shorter than 8 characters or holds other than printable ASCII
Result<std::vector<std::string>> read_api_keys(Env& env, const std::string& path);

// Immutable; any thread. Holds digests, not keys.
class ApiKeys {
 public:
  explicit ApiKeys(const std::vector<std::string>& keys);
  bool empty() const { return digests_.empty(); }
  // An Authorization header's value: "Bearer KEY". The time taken depends on neither the keys nor how much of one fits.
  bool accepts(std::string_view authorization) const;

 private:
  std::vector<std::string> digests_;
};

}  // namespace engram
