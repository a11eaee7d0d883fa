// TwoHosts: two network namespaces of this machine, joined by a link of limited speed. Needs root, `ip` and `tc`.
#pragma once
#include <memory>
#include <string>

#include "engram/core/status.h"

namespace engram::bench {

class TwoHosts {
 public:
  // The link's speed is per second and direction. kUnavailable: not root, or a program or a part of the kernel is
  // missing.
  static Result<std::unique_ptr<TwoHosts>> create(int megabits);
  ~TwoHosts();
  TwoHosts(const TwoHosts&) = delete;
  TwoHosts& operator=(const TwoHosts&) = delete;

  // What to write before a command, so that it is this rank, on a host that has no other.
  std::string as_rank(int rank) const;

 private:
  TwoHosts() = default;
  std::string name(int host) const;
};

}  // namespace engram::bench
