// How Env::posix() maps files: a page that cannot be read does not end the process.
//
// A file that shrinks while it is mapped, or a drive that fails, makes the kernel send SIGBUS to the thread that reads
// it. The first mapping installs a handler: where the address lies in a mapping of ours it puts a page of zeros in
// its place and notes the loss, so that the access continues and the reader can ask later (MappedFile::readable());
// any other SIGBUS goes to the handler that was there before. Reading costs nothing extra.
#pragma once
#include <memory>
#include <string>

#include "engram/core/env.h"

namespace engram::internal {

// All of a regular file; the descriptor stays the caller's. `path` is the one it was opened by.
Result<std::unique_ptr<MappedFile>> map_descriptor(int fd, const std::string& path);

}  // namespace engram::internal
