// Files that Env::posix() maps: a page that cannot be read does not end the process.
//
// A file that shrinks while it is mapped, or a drive that fails, makes the kernel send SIGBUS to the thread that reads
// it. The first mapping installs a handler: where the address lies in a mapping of ours it puts a page of zeros in
// its place and notes the loss, so that the access continues and the reader can ask later (MappedFile::readable());
// any other SIGBUS goes to the handler that was there before. Reading costs nothing extra.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "engram/core/status.h"

namespace engram {

// A read-only private mapping; unmapped on destruction. What is written to the file meanwhile may be seen or not.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  virtual std::span<const std::byte> bytes() const = 0;
  // Pages that the file lost while mapped, or that its drive cannot give, read as zeros and end nothing: ask this after
  // using the bytes. kDataLoss names file and page. Costs a load.
  virtual Status readable() const = 0;
  // Whether the file was written to or changed its size since it was mapped. Costs a system call. Asked after the bytes
  // were copied, false means that they are what the file held when it was mapped.
  virtual bool has_changed() const = 0;
};

namespace internal {
// All of a regular file; the descriptor stays the caller's. `path` is the one it was opened by.
Result<std::unique_ptr<MappedFile>> map_descriptor(int fd, const std::string& path);
}  // namespace internal

}  // namespace engram
