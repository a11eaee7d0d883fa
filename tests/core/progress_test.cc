// What a terminal and a log file see; the clock is the test's own.
#include "engram/core/progress.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

class ProgressTest : public ::testing::Test {
 protected:
  ProgressOutput output(bool terminal) {
    ProgressOutput output;
    output.file = file_;
    output.terminal = terminal;
    output.seconds = [this] { return now_; };
    return output;
  }
  std::string written() {
    std::fflush(file_);
    return std::string(buffer_, size_);
  }
  void TearDown() override {
    std::fclose(file_);
    std::free(buffer_);
  }

  char* buffer_ = nullptr;
  size_t size_ = 0;
  std::FILE* file_ = ::open_memstream(&buffer_, &size_);
  double now_ = 100;
};

TEST_F(ProgressTest, PlainLinesComeEveryFewSeconds) {
  {
    Progress progress("train", 100, "steps", 0, output(false));
    for (int i = 0; i < 100; ++i) {
      now_ += 0.125;
      progress.set_text("loss 3.2");
      progress.advance(1);
    }
    progress.log("a line");
  }
  EXPECT_EQ(written(),
            "train: 40/100 steps, 8.00/s, 0:08 left, loss 3.2\n"
            "train: 80/100 steps, 8.00/s, 0:03 left, loss 3.2\n"
            "a line\n"
            "train: 100/100 steps, 8.00/s, after 0:13, loss 3.2\n");
}

TEST_F(ProgressTest, TheTerminalLineIsRedrawn) {
  Progress progress("hash", 4, "files", 0, output(true));
  now_ += 1;
  progress.advance(1);
  progress.advance(1);  // too soon to draw again
  progress.log("note");
  now_ += 1;
  progress.finish();
  progress.finish();
  progress.advance(1);
  EXPECT_EQ(written(),
            "\rhash:  25% [######..................] 1/4 files, 1.00/s, 0:03 left\x1b[K"
            "\r\x1b[Knote\n"
            "\rhash:  50% [############............] 2/4 files, 2.00/s, 0:01 left\x1b[K"
            "\rhash:  50% [############............] 2/4 files, 1.00/s, 0:02 left\x1b[K\n");
}

TEST_F(ProgressTest, ResumedUnitsDoNotCountForTheRate) {
  Progress progress("train", 40, "steps", 20, output(false));
  now_ += 5;
  progress.advance(10);
  EXPECT_EQ(written(), "train: 30/40 steps, 2.00/s, 0:05 left\n");
  progress.finish();
}

TEST_F(ProgressTest, UnknownTotalShowsCountAndRate) {
  Progress progress("read", 0, "lines", 0, output(false));
  now_ += 10;
  progress.advance(25000);
  progress.finish();
  EXPECT_EQ(written(), "read: 25000 lines, 2.50k/s, after 0:10\nread: 25000 lines, 2.50k/s, after 0:10\n");
}

TEST_F(ProgressTest, TheBarGivesWayToTheNumbers) {
  Progress progress("train", 1000, "steps", 0, output(true));
  now_ += 10;
  progress.set_text("loss 4.1234");
  now_ += 20;
  progress.advance(420);
  now_ += 1;
  progress.set_text("loss 4.1234, 25.1k tokens/s");
  progress.advance(0);
  EXPECT_EQ(written(),
            "\rtrain:  42% [######..........] 420/1000 steps, 14.0/s, 0:41 left, loss 4.1234\x1b[K"
            "\rtrain:  42% 420/1000 steps, 13.5/s, 0:43 left, loss 4.1234, 25.1k tokens/s\x1b[K");
}

TEST_F(ProgressTest, BytesHaveUnitsAndSlowUnitsNoRate) {
  Progress bytes("convert", 987654321, "B", 0, output(false));
  now_ += 10;
  bytes.advance(123456789);
  Progress parts("look inside", 4, "parts", 0, output(false));
  now_ += 60;
  parts.advance(1);
  EXPECT_EQ(written(), "convert: 118 MiB of 942 MiB, 11.8 MiB/s, 1:10 left\nlook inside: 1/4 parts, 3:00 left\n");
}

TEST(ProgressFormat, DurationsAndCounts) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(7509), "2:05:09");
  EXPECT_EQ(format_duration(1e300), "2400:00:00");
  EXPECT_EQ(format_count(0.5), "0.50");
  EXPECT_EQ(format_count(17.34), "17.3");
  EXPECT_EQ(format_count(999.6), "1.00k");
  EXPECT_EQ(format_count(1.31e6), "1.31M");
  EXPECT_EQ(format_count(123456789), "123M");
}

}  // namespace
}  // namespace engram
