// PageReader: many reads of 4 KiB pages of one file in flight: by io_uring, or by threads where the system forbids it.
//
// A reader has depth() slots, each with an aligned buffer of one page; a slot holds one read at a time. The seam under
// the drive tiers: tests put a reader that fails on purpose in between (tests/store/faulty_page_reader.h). Pages are
// not checked here: PageQueue does that.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/port/reads.h"

namespace engram {

using PageDone = port::ReadDone;  // a slot and its result: bytes read, or -errno

// start() and wait() belong to one thread; the rest to any. Destroy it with no read in flight.
class PageReader {
 public:
  virtual ~PageReader() = default;
  virtual const char* name() const = 0;  // "io_uring", "threads"
  virtual int depth() const = 0;
  virtual std::span<std::byte> buffer(int slot) = 0;
  // Starts reading a page into a free slot's buffer, at the latest with the next wait(). Failures are results.
  virtual void start(int slot, int64_t page) = 0;
  // Waits until a read has ended or wake() was called, and appends the reads that have ended, in any order.
  virtual void wait(std::vector<PageDone>& done) = 0;
  // Lets the current wait() return, or the next one.
  virtual void wake() = 0;
  // A part of one page if it is in the page cache, without waiting for a drive: bytes read, or -errno (-EAGAIN: it is
  // not).
  virtual int64_t read_resident(int64_t page, int64_t offset, std::span<std::byte> out) const = 0;
  // Whether the file was written to or changed its size since it was opened. Costs a system call. Asked after bytes
  // were read, false means that they are what the file held when it was opened.
  virtual bool has_changed() const = 0;
  // Any part of the file, waiting for it: for the header. Under O_DIRECT offset, size and memory are whole pages.
  virtual const RandomAccessFile& file() const = 0;
};

enum class PageReaderKind { kAny, kUring, kThreads };

struct PageReaderOptions {
  bool direct = true;  // past the page cache (O_DIRECT), where the system has a way to
  int depth = 64;      // reads in flight, 1 .. kMaxReadDepth
  PageReaderKind kind = PageReaderKind::kAny;
  // Tests: puts a reader around the real one.
  std::function<std::unique_ptr<PageReader>(std::unique_ptr<PageReader>)> wrap;
};
inline constexpr int kMaxReadDepth = 256;

// kNotFound, ...; kInvalidArgument: the depth, or a file system without O_DIRECT; kUnimplemented: kUring was asked for
// and the system forbids it (kAny then takes threads).
Result<std::unique_ptr<PageReader>> open_page_reader(const std::string& path, const PageReaderOptions& options);

}  // namespace engram
