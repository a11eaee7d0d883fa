// Seen: `table convert --dtype fp8` met a NaN, failed, and left a .partial file that no later run could finish. Right:
// it goes; what an interrupted or unreadable conversion leaves stays, for --resume.
#include <gtest/gtest.h>

#include <limits>

#include "engram/store/import/table_tools.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

// 1,000 rows; row 700 is not a number, or cannot be read.
class BadRow final : public TableSource {
 public:
  explicit BadRow(bool unreadable) : TableSource("test", "bad"), unreadable_(unreadable) {
    tables_.push_back({1, 1000, {RowType::kFP32, 4}, "F32"});
  }

 private:
  Status do_read_rows(int, int64_t first, int64_t count, std::byte* out) const override {
    const bool has_it = first <= 700 && 700 < first + count;
    if (has_it && unreadable_) return data_loss("bad: row 700 cannot be read");
    std::vector<float> values(static_cast<size_t>(4 * count), 0.5f);
    if (has_it) values[static_cast<size_t>(4 * (700 - first))] = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(out, values.data(), values.size() * sizeof(float));
    return {};
  }
  bool unreadable_;
};

using ConversionLeavesAUselessFile = StoreTest;

TEST_F(ConversionLeavesAUselessFile, OnlyWhatCanBeResumedStays) {
  for (const bool unreadable : {false, true}) {
    const BadRow source(unreadable);
    const RowFileInfo info = value_or_throw(plan_convert(source, RowType::kFP8));
    const Status status = convert_table(Env::posix(), source, path("rows"), info, false, nullptr);
    EXPECT_EQ(status.code(), unreadable ? StatusCode::kDataLoss : StatusCode::kInvalidArgument) << status.message();
    EXPECT_EQ(Env::posix().file_exists(path("rows.partial")), unreadable);
    EXPECT_FALSE(Env::posix().file_exists(path("rows")));
  }
}

}  // namespace
}  // namespace engram
