// Env: the operating system's files behind an interface, so that tests can make them fail (tests/fault_env.h).
//
// Every path in an error message is the caller's own. Errors carry errno's text. Any thread. The drive tiers, huge
// pages, facts about the machine and child processes do not go through here.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/mapped_file.h"
#include "engram/core/status.h"

namespace engram {

// A file being written. Not thread-safe. Unbuffered: an append is seen by readers at once, so join small pieces first.
// Without close() the file is left as it is, possibly short.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual Status append(std::span<const std::byte> bytes) = 0;
  virtual Status sync() = 0;   // fsync
  virtual Status close() = 0;  // reports errors the system held back; does not sync
};

// A file read at any offset. Any thread. The file may change or shrink meanwhile: reads then see what is there.
class RandomAccessFile {
 public:
  virtual ~RandomAccessFile() = default;
  // Fills `out` from `offset` on; returns the bytes read, fewer than out.size() only at the end of the file.
  virtual Result<size_t> read_at(int64_t offset, std::span<std::byte> out) const = 0;
  virtual Result<int64_t> size() const = 0;  // now
};

// What read_file() takes into memory.
struct ReadLimits {
  int64_t max_bytes = int64_t{1} << 30;
  bool pipes = false;  // also what is no regular file: a pipe, a device; of these at most 1 GiB
};

// Writers never follow a link that has the name they write: in a shared folder somebody else may have put it
// there.
class Env {
 public:
  virtual ~Env() = default;
  // The process-wide POSIX environment; never destroyed.
  static Env& posix();

  // kInvalidArgument: no regular file. kResourceExhausted: more than the limit, known before it is read where possible.
  virtual Result<std::string> read_file(const std::string& path, const ReadLimits& limits = {}) = 0;
  virtual Result<std::unique_ptr<MappedFile>> map_file(const std::string& path) = 0;
  virtual Result<std::unique_ptr<RandomAccessFile>> new_random_access_file(const std::string& path) = 0;
  // A new file. A file or link of this name is removed first and keeps its contents under its other names.
  virtual Result<std::unique_ptr<WritableFile>> new_writable_file(const std::string& path) = 0;
  // Continues at the end of a file, or begins it. kFailedPrecondition: a link, or a file that has other names too.
  virtual Result<std::unique_ptr<WritableFile>> new_appendable_file(const std::string& path) = 0;

  virtual bool file_exists(const std::string& path) = 0;  // follows links; true for a folder too
  virtual Result<int64_t> file_size(const std::string& path) = 0;
  virtual Result<std::vector<std::string>> list_directory(const std::string& path) = 0;  // names, sorted
  virtual Status create_directories(const std::string& path) = 0;
  // One folder that was not there; kAlreadyExists, also for a link.
  virtual Status create_directory(const std::string& path) = 0;
  virtual Status rename_file(const std::string& from, const std::string& to) = 0;  // atomic; files or folders
  virtual Status remove_file(const std::string& path) = 0;
  virtual Status remove_directory_recursively(const std::string& path) = 0;  // ok when it does not exist
  virtual Status truncate_file(const std::string& path, int64_t size) = 0;   // refuses what appending refuses
  virtual Status sync_directory(const std::string& path) = 0;
  // Makes `link` point at `target` (relative or absolute), replacing an older link atomically.
  virtual Status replace_symlink(const std::string& target, const std::string& link) = 0;
  virtual Result<std::string> read_symlink(const std::string& path) = 0;
};

// Writes a temporary file beside `path`, syncs it, renames it. On error `path` is what it was.
Status write_file_atomic(Env& env, const std::string& path, std::string_view contents);

std::string join_path(std::string_view directory, std::string_view name);
std::string parent_path(std::string_view path);  // "." for a bare name

}  // namespace engram
