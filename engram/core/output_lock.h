// OutputLock: one process at a time writes an output, a folder or a file.
//
// The lock is flock(2) on DIRECTORY/.lock or FILE.lock, so the kernel frees it however its holder ends. The lock file
// says who holds it; it is removed when the lock is released, and one that a killed process left behind does no
// harm. A file system without locks (ENOLCK, EOPNOTSUPP) is written to without one.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// Move-only. Any thread may release it.
class OutputLock {
 public:
  struct Options {
    // How long to wait for the children of a holder that was killed: they write their checkpoints and end.
    std::chrono::milliseconds patience{0};
    bool children_share = false;  // child processes hold it too: it is free when the last of them has ended
  };
  // The folder is made when it is not there, and removed on release when it is still empty then. kFailedPrecondition:
  // another process (or another OutputLock of this one) holds the lock; the message names it and nothing has changed.
  // Errors of create_directories(); kPermissionDenied: the lock file cannot be opened.
  static Result<OutputLock> folder(Env& env, const std::string& directory, const Options& options);
  static Result<OutputLock> file(Env& env, const std::string& path);

  OutputLock(OutputLock&& other) noexcept;
  OutputLock& operator=(OutputLock&& other) noexcept;
  ~OutputLock();

 private:
  explicit OutputLock(std::string path) : path_(std::move(path)) {}
  static Result<OutputLock> take(Env& env, const std::string& output, const std::string& path, const Options& options);
  Status make_folder(Env& env);
  void release();

  std::string path_;               // of the lock file
  int file_ = -1;                  // holds the flock
  std::vector<std::string> made_;  // folders that were not there, outermost first
};

}  // namespace engram
