#include "engram/core/env.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "engram/core/mapped_file.h"

namespace engram {
namespace {

StatusCode code_of_errno(int error) {
  switch (error) {
    case ENOENT: return StatusCode::kNotFound;
    case EEXIST: return StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS: return StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM: return StatusCode::kResourceExhausted;
    case EIO: return StatusCode::kDataLoss;
    case EINVAL:
    case ENAMETOOLONG:
    case ELOOP: return StatusCode::kInvalidArgument;
    case EISDIR:
    case ENOTDIR:
    case ENOTEMPTY:
    case EXDEV:
    case ETXTBSY:
    case EBUSY: return StatusCode::kFailedPrecondition;
    default: return StatusCode::kInternal;
  }
}

// "cannot WHAT 'PATH': No space left on device".
Status errno_status(const char* what, const std::string& path, int error) {
  return make_status(code_of_errno(error), "cannot {} '{}': {}", what, path, std::generic_category().message(error));
}

// Owns a descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

int open_retrying(const std::string& path, int flags) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

Status not_regular(const char* what, const std::string& path) {
  return invalid_argument("cannot {} '{}': it is a pipe or a device, wanted a regular file", what, path);
}

Status too_large(const std::string& path, std::string_view got, int64_t most) {
  return make_status(StatusCode::kResourceExhausted, "cannot read '{}': got {} bytes, wanted at most {}", path, got,
                     most);
}

constexpr int64_t kMostOfAPipe = int64_t{1} << 30;  // one without end is refused before it has all memory

struct ReadableFile {
  Descriptor fd;
  int64_t size;  // 0 for what is no regular file
  bool is_regular;
};

// O_NONBLOCK: a pipe that took the file's place in between, and that nobody writes to, would keep us for ever.
Result<ReadableFile> open_for_reading(const std::string& path, bool pipes) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return errno_status("open", path, errno);
  const bool is_regular = S_ISREG(info.st_mode);
  if (!is_regular && !pipes && !S_ISDIR(info.st_mode)) return not_regular("read", path);
  Descriptor fd(open_retrying(path, O_RDONLY | (is_regular ? O_NONBLOCK : 0)));
  if (fd.get() < 0) return errno_status("open", path, errno);
  if (::fstat(fd.get(), &info) != 0) return errno_status("stat", path, errno);
  if (S_ISDIR(info.st_mode)) return errno_status("read", path, EISDIR);
  if (S_ISREG(info.st_mode)) return ReadableFile{std::move(fd), static_cast<int64_t>(info.st_size), true};
  if (!pipes) return not_regular("read", path);
  return ReadableFile{std::move(fd), 0, false};
}

// For changing a file where it is: no link, and no file that is somebody's under another name.
Result<Descriptor> open_own_file(const std::string& path, int flags) {
  Descriptor fd(open_retrying(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | flags));
  if (fd.get() < 0 && errno == ELOOP)
    return make_status(StatusCode::kFailedPrecondition,
                       "cannot write '{}': it is a symbolic link, which is not followed here; remove it", path);
  if (fd.get() < 0 && errno == ENXIO) return not_regular("write", path);
  if (fd.get() < 0) return errno_status("write", path, errno);
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return errno_status("stat", path, errno);
  if (!S_ISREG(info.st_mode)) return not_regular("write", path);
  if (info.st_nlink > 1)
    return make_status(StatusCode::kFailedPrecondition,
                       "cannot write '{}': the file has {} names (hard links); replace it with a separate copy", path,
                       info.st_nlink);
  return fd;
}

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  Status append(std::span<const std::byte> bytes) override {
    constexpr size_t kLargestWrite = size_t{1} << 30;  // Linux writes at most 2 GiB - 4 KiB per call
    while (!bytes.empty()) {
      ssize_t written = ::write(fd_.get(), bytes.data(), std::min(bytes.size(), kLargestWrite));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return errno_status("write", path_, errno);
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return {};
  }

  Status sync() override {
    if (::fsync(fd_.get()) != 0) return errno_status("sync", path_, errno);
    return {};
  }

  Status close() override {
    // After EINTR Linux has closed the descriptor all the same.
    if (int fd = fd_.release(); fd >= 0 && ::close(fd) != 0 && errno != EINTR) {
      return errno_status("close", path_, errno);
    }
    return {};
  }

 private:
  Descriptor fd_;
  std::string path_;
};

class PosixRandomAccessFile final : public RandomAccessFile {
 public:
  PosixRandomAccessFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  Result<size_t> read_at(int64_t offset, std::span<std::byte> out) const override {
    size_t length = 0;
    while (length < out.size()) {
      const ssize_t got =
          ::pread(fd_.get(), out.data() + length, out.size() - length, offset + static_cast<int64_t>(length));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno_status("read", path_, errno);
      if (got == 0) break;
      length += static_cast<size_t>(got);
    }
    return length;
  }

  Result<int64_t> size() const override {
    struct stat info;
    if (::fstat(fd_.get(), &info) != 0) return errno_status("stat", path_, errno);
    return static_cast<int64_t>(info.st_size);
  }

 private:
  Descriptor fd_;
  std::string path_;
};

class PosixEnv final : public Env {
 public:
  Result<std::string> read_file(const std::string& path, const ReadLimits& limits) override {
    ENGRAM_ASSIGN_OR_RETURN(const ReadableFile file, open_for_reading(path, limits.pipes));
    if (file.size > limits.max_bytes) return too_large(path, fmt::format("{}", file.size), limits.max_bytes);
    std::string contents(static_cast<size_t>(file.size), '\0');
    // The size is a hint only: pipes have none, and a file may grow while it is read.
    const int64_t most = file.is_regular ? limits.max_bytes : std::min(limits.max_bytes, kMostOfAPipe);
    size_t length = 0;
    char beyond[1 << 16];
    while (true) {
      const bool full = length == contents.size();
      char* to = full ? beyond : contents.data() + length;
      const ssize_t got = ::read(file.fd.get(), to, full ? sizeof beyond : contents.size() - length);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno_status("read", path, errno);
      if (got == 0) break;
      length += static_cast<size_t>(got);
      if (length > static_cast<size_t>(most)) return too_large(path, "more", most);
      if (full) contents.append(beyond, static_cast<size_t>(got));
    }
    contents.resize(length);
    return contents;
  }

  Result<std::unique_ptr<MappedFile>> map_file(const std::string& path) override {
    ENGRAM_ASSIGN_OR_RETURN(const ReadableFile file, open_for_reading(path, false));
    return internal::map_descriptor(file.fd.get(), path);
  }

  Result<std::unique_ptr<RandomAccessFile>> new_random_access_file(const std::string& path) override {
    ENGRAM_ASSIGN_OR_RETURN(ReadableFile file, open_for_reading(path, false));
    return std::unique_ptr<RandomAccessFile>(new PosixRandomAccessFile(file.fd.release(), path));
  }

  Result<std::unique_ptr<WritableFile>> new_writable_file(const std::string& path) override {
    constexpr int kAttempts = 3;  // somebody may put a file there again
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const int fd = open_retrying(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW);
      if (fd >= 0) return std::unique_ptr<WritableFile>(new PosixWritableFile(fd, path));
      if (errno != EEXIST) return errno_status("write", path, errno);
      struct stat info;
      if (::lstat(path.c_str(), &info) != 0) continue;
      if (S_ISDIR(info.st_mode)) return errno_status("write", path, EISDIR);
      if (!S_ISREG(info.st_mode) && !S_ISLNK(info.st_mode)) return not_regular("write", path);
      if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_status("replace", path, errno);
    }
    return errno_status("write", path, EEXIST);
  }
  Result<std::unique_ptr<WritableFile>> new_appendable_file(const std::string& path) override {
    ENGRAM_ASSIGN_OR_RETURN(Descriptor fd, open_own_file(path, O_CREAT | O_APPEND));
    return std::unique_ptr<WritableFile>(new PosixWritableFile(fd.release(), path));
  }

  bool file_exists(const std::string& path) override { return ::access(path.c_str(), F_OK) == 0; }

  Result<int64_t> file_size(const std::string& path) override {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) return errno_status("stat", path, errno);
    return static_cast<int64_t>(info.st_size);
  }

  Result<std::vector<std::string>> list_directory(const std::string& path) override {
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) return errno_status("list", path, errno);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(directory)) {
      std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(std::move(name));
    }
    int error = errno;
    ::closedir(directory);
    if (error != 0) return errno_status("list", path, error);
    std::sort(names.begin(), names.end());
    return names;
  }

  Status create_directories(const std::string& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) return errno_status("create folder", path, error.value());
    return {};
  }

  Status create_directory(const std::string& path) override {
    if (::mkdir(path.c_str(), 0777) != 0) return errno_status("create folder", path, errno);
    return {};
  }

  Status rename_file(const std::string& from, const std::string& to) override {
    // As root it would: a file named as an output may be /dev/null.
    struct stat info;
    if (::stat(to.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
      return not_regular("replace", to);
    if (::rename(from.c_str(), to.c_str()) != 0) {
      return errno_status("rename to", to, errno).with_context(fmt::format("'{}'", from));
    }
    return {};
  }

  Status remove_file(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) return errno_status("remove", path, errno);
    return {};
  }

  Status remove_directory_recursively(const std::string& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) return errno_status("remove folder", path, error.value());
    return {};
  }

  Status truncate_file(const std::string& path, int64_t size) override {
    ENGRAM_ASSIGN_OR_RETURN(const Descriptor fd, open_own_file(path, 0));
    if (::ftruncate(fd.get(), size) != 0) return errno_status("truncate", path, errno);
    return {};
  }

  Status sync_directory(const std::string& path) override {
    Descriptor fd(open_retrying(path, O_RDONLY | O_DIRECTORY));
    if (fd.get() < 0) return errno_status("open", path, errno);
    // Some network file systems cannot sync a folder and say EINVAL; their renames are durable without it.
    if (::fsync(fd.get()) != 0 && errno != EINVAL) return errno_status("sync", path, errno);
    return {};
  }

  Status replace_symlink(const std::string& target, const std::string& link) override {
    std::string temporary = link + ".tmp";
    if (::unlink(temporary.c_str()) != 0 && errno != ENOENT) return errno_status("remove", temporary, errno);
    if (::symlink(target.c_str(), temporary.c_str()) != 0) return errno_status("create link", link, errno);
    if (::rename(temporary.c_str(), link.c_str()) != 0) {
      int error = errno;
      ::unlink(temporary.c_str());
      return errno_status("create link", link, error);
    }
    return {};
  }

  Result<std::string> read_symlink(const std::string& path) override {
    std::error_code error;
    std::filesystem::path target = std::filesystem::read_symlink(path, error);
    if (error) return errno_status("read link", path, error.value());
    return target.string();
  }
};

Status write_and_sync(Env& env, const std::string& path, std::string_view contents) {
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, env.new_writable_file(path));
  ENGRAM_RETURN_IF_ERROR(file->append(std::as_bytes(std::span(contents))));
  ENGRAM_RETURN_IF_ERROR(file->sync());
  return file->close();
}

}  // namespace

Env& Env::posix() {
  static PosixEnv* env = new PosixEnv;  // never destroyed: threads may use it until the very end
  return *env;
}

Status write_file_atomic(Env& env, const std::string& path, std::string_view contents) {
  std::string temporary = path + ".tmp";
  Status status = write_and_sync(env, temporary, contents);
  if (status.ok()) status = env.rename_file(temporary, path);
  if (!status.ok()) {
    // The first error is the one to report; the clean-up may fail for the same reason.
    if (env.file_exists(temporary)) (void)env.remove_file(temporary);
    return status;
  }
  return env.sync_directory(parent_path(path));
}

std::string join_path(std::string_view directory, std::string_view name) {
  if (directory.empty()) return std::string(name);
  std::string path(directory);
  if (path.back() != '/') path += '/';
  return path.append(name);
}

std::string parent_path(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return slash == 0 ? "/" : std::string(path.substr(0, slash));
}

}  // namespace engram
