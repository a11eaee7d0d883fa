// Seen: built for 64-bit ARM, the compiler said that the last, partial vector of a row is read as a whole one; so it is
// on x86 without AVX2. A row at the end of a mapping ended the process, and a store wrote back what another thread had
// changed behind it. Right: nothing beyond a row is touched, on any instruction set.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <hwy/highway.h>

#include <numeric>
#include <vector>

#include "engram/kernels/row_codec.h"

namespace engram {
namespace {

// `count` floats that end where memory ends.
class AtTheEnd {
 public:
  explicit AtTheEnd(size_t count) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* pages = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ENGRAM_CHECK(pages != MAP_FAILED, "mmap");
    base_ = static_cast<char*>(pages);
    size_ = 2 * page;
    ENGRAM_CHECK(mprotect(base_ + page, page, PROT_NONE) == 0, "mprotect");
    floats_ = reinterpret_cast<float*>(base_ + page) - count;
  }
  ~AtTheEnd() { munmap(base_, size_); }
  AtTheEnd(const AtTheEnd&) = delete;
  AtTheEnd& operator=(const AtTheEnd&) = delete;
  float* data() { return floats_; }

 private:
  char* base_;
  size_t size_;
  float* floats_;
};

TEST(TailsReadBehindTheirEnd, OnEveryInstructionSet) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    SCOPED_TRACE(hwy::TargetName(target));
    for (int64_t width = 1; width <= 35; ++width) {
      AtTheEnd values(static_cast<size_t>(width)), out(static_cast<size_t>(width));
      std::iota(values.data(), values.data() + width, 1.0F);
      for (const RowType type : {RowType::kFP32, RowType::kBF16, RowType::kFP8, RowType::kInt8}) {
        RowFormat format = default_row_format(type, width);
        if (format.block > width) format.block = width;
        std::vector<std::byte> row(static_cast<size_t>(format.row_bytes()));
        ASSERT_TRUE(encode_rows(format, values.data(), 1, row.data()).ok());
        decode_rows(format, row.data(), row.size(), 1, out.data());
        std::vector<float> plain(static_cast<size_t>(width));
        decode_rows_plain(format, row.data(), row.size(), 1, plain.data());
        EXPECT_EQ(std::vector<float>(out.data(), out.data() + width), plain) << row_type_name(type) << " " << width;
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace engram
