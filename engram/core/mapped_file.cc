#include "engram/core/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>

namespace engram::internal {
namespace {

// A mapping as the signal handler sees it. Regions are in one list for ever and are used again: the handler may be
// walking the list at any time, and it can take no lock. Nobody touches a region's bytes while it is being entered or
// left, so that the handler never needs one that is half written.
struct Region {
  std::atomic<uintptr_t> begin{0}, end{0};  // end 0: not in use
  std::atomic<int64_t> lost_at{-1};         // offset of the first page that could not be read
  std::atomic<bool> taken{true};
  Region* next = nullptr;  // set before the region is published
};
std::atomic<Region*> regions{nullptr};
struct sigaction previous_action;
uintptr_t page_bytes;

void note_loss(Region& region, int64_t offset) {
  int64_t seen = region.lost_at.load();
  while ((seen < 0 || offset < seen) && !region.lost_at.compare_exchange_weak(seen, offset)) {
  }
}

// Async-signal-safe: atomics and mmap, which is a bare system call.
bool put_zeros(uintptr_t address) {
  for (Region* region = regions.load(); region != nullptr; region = region->next) {
    const uintptr_t begin = region->begin.load(), end = region->end.load();
    if (address < begin || address >= end) continue;
    const uintptr_t page = address / page_bytes * page_bytes;
    note_loss(*region, static_cast<int64_t>(page - begin));
    void* const at = reinterpret_cast<void*>(page);
    return ::mmap(at, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at;
  }
  return false;
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  if (put_zeros(reinterpret_cast<uintptr_t>(info->si_addr))) {
    errno = error;
    return;
  }
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(signal, info, context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
  } else {
    ::signal(SIGBUS, SIG_DFL);                // the access fails again and ends the process as it would have
    if (info->si_code <= 0) ::raise(SIGBUS);  // somebody sent it; there is no access
  }
}

void install_handler() {
  static const bool installed = [] {
    page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    return ::sigaction(SIGBUS, &action, &previous_action) == 0;
  }();
  (void)installed;  // where it fails, a lost page ends the process, as without it
}

Region* take_region() {
  for (Region* region = regions.load(); region != nullptr; region = region->next) {
    if (!region->taken.exchange(true)) return region;
  }
  auto* region = new Region;  // never freed; there are as many as files were ever mapped at a time
  region->next = regions.load();
  while (!regions.compare_exchange_weak(region->next, region)) {
  }
  return region;
}

// A descriptor makes has_changed() cheaper than a path does, but a model of many files, all mapped, would use them
// all up: so many files keep one.
constexpr int kMostDescriptors = 64;
std::atomic<int> kept_descriptors{0};

int keep_descriptor(int fd) {
  if (kept_descriptors.fetch_add(1) < kMostDescriptors) {
    if (const int kept = ::fcntl(fd, F_DUPFD_CLOEXEC, 0); kept >= 0) return kept;
  }
  kept_descriptors.fetch_sub(1);
  return -1;
}

class PosixMappedFile final : public MappedFile {
 public:
  PosixMappedFile(int fd, void* data, const struct stat& info, std::string path)
      : fd_(keep_descriptor(fd)), data_(data), mapped_(info), path_(std::move(path)), region_(take_region()) {
    region_->lost_at = -1;
    region_->begin = reinterpret_cast<uintptr_t>(data);
    region_->end = region_->begin + bytes().size();
  }
  ~PosixMappedFile() override {
    region_->end = 0;
    region_->taken = false;
    if (data_ != nullptr) ::munmap(data_, bytes().size());
    if (fd_ >= 0) {
      ::close(fd_);
      kept_descriptors.fetch_sub(1);
    }
  }

  std::span<const std::byte> bytes() const override {
    return {static_cast<const std::byte*>(data_), static_cast<size_t>(mapped_.st_size)};
  }

  Status readable() const override {
    const int64_t lost = region_->lost_at.load();
    if (lost < 0) return {};
    const std::string where =
        fmt::format("'{}': page {} (byte {})", path_, lost / static_cast<int64_t>(page_bytes), lost);
    struct stat now;
    if (!same_file(now) || now.st_size >= mapped_.st_size) return data_loss("{} could not be read", where);
    return data_loss("{} is gone: the file shrank from {} to {} bytes while it was open", where, mapped_.st_size,
                     now.st_size);
  }

  bool has_changed() const override {
    struct stat now;
    return same_file(now) && (now.st_size != mapped_.st_size || now.st_mtim.tv_sec != mapped_.st_mtim.tv_sec ||
                              now.st_mtim.tv_nsec != mapped_.st_mtim.tv_nsec);
  }

 private:
  // False: unknown. A file that was renamed over cannot be written by its path any more.
  bool same_file(struct stat& now) const {
    if (fd_ >= 0) return ::fstat(fd_, &now) == 0;
    return ::stat(path_.c_str(), &now) == 0 && now.st_dev == mapped_.st_dev && now.st_ino == mapped_.st_ino;
  }

  const int fd_;  // -1: none
  void* const data_;
  const struct stat mapped_;  // when it was mapped
  const std::string path_;
  Region* const region_;
};

}  // namespace

Result<std::unique_ptr<MappedFile>> map_descriptor(int fd, const std::string& path) {
  install_handler();
  struct stat info;
  void* data = nullptr;
  if (::fstat(fd, &info) != 0 || (info.st_size > 0 && (data = ::mmap(nullptr, static_cast<size_t>(info.st_size),
                                                                     PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED))
    return make_status(errno == ENOMEM ? StatusCode::kResourceExhausted : StatusCode::kInternal, "cannot map '{}': {}",
                       path, std::generic_category().message(errno));
  return std::unique_ptr<MappedFile>(new PosixMappedFile(fd, data, info, path));
}

}  // namespace engram::internal
