#include "engram/core/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace engram {
namespace {

constexpr double kTerminalInterval = 0.1, kPlainInterval = 5.0;
constexpr int kBarWidth = 24;

size_t terminal_columns(std::FILE* file) {
  winsize size = {};
  if (::ioctl(::fileno(file), TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

// Cuts to at most `columns` bytes, between characters.
void cut(std::string& line, size_t columns) {
  if (line.size() <= columns) return;
  while (columns > 0 && (static_cast<unsigned char>(line[columns]) & 0xC0) == 0x80) --columns;
  line.resize(columns);
}

}  // namespace

ProgressOutput::ProgressOutput()
    : file(stderr), terminal(::isatty(STDERR_FILENO) == 1), seconds([] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
      }) {}

Progress::Progress(std::string label, int64_t total, std::string unit, int64_t done, ProgressOutput output)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      done_before_(done),
      output_(std::move(output)),
      start_(output_.seconds()),
      done_(done),
      next_draw_(start_ + (output_.terminal ? 0 : kPlainInterval)) {}

Progress::~Progress() { finish(); }

void Progress::advance(int64_t units) {
  done_ += units;
  draw_if_due();
}

void Progress::set_text(std::string text) {
  text_ = std::move(text);
  draw_if_due();
}

void Progress::log(std::string_view line) {
  fmt::print(output_.file, "{}{}\n", output_.terminal && !finished_ ? "\r\x1b[K" : "", line);
  if (output_.terminal && !finished_) draw(output_.seconds());
}

void Progress::finish() {
  if (finished_) return;
  draw(output_.seconds());
  if (output_.terminal) std::fputc('\n', output_.file);
  std::fflush(output_.file);
  finished_ = true;
}

void Progress::draw_if_due() {
  if (finished_) return;
  double now = output_.seconds();
  if (now < next_draw_) return;
  next_draw_ = now + (output_.terminal ? kTerminalInterval : kPlainInterval);
  draw(now);
}

void Progress::draw(double now) {
  std::string line = label_ + ": ";
  if (total_ > 0 && output_.terminal) {
    double share = std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0);
    int filled = static_cast<int>(share * kBarWidth);
    line += fmt::format("{:3.0f}% [{}{}] ", std::floor(share * 100), std::string(static_cast<size_t>(filled), '#'),
                        std::string(static_cast<size_t>(kBarWidth - filled), '.'));
  }
  line += numbers(now);
  if (!text_.empty()) line += ", " + text_;
  if (output_.terminal) {
    cut(line, terminal_columns(output_.file) - 1);
    fmt::print(output_.file, "\r{}\x1b[K", line);
  } else {
    fmt::print(output_.file, "{}\n", line);
  }
  std::fflush(output_.file);
}

// "420/1000 steps, 12.3 steps/s, 0:47 left".
std::string Progress::numbers(double now) const {
  const double elapsed = now - start_;
  std::string text = total_ > 0 ? fmt::format("{}/{} {}", done_, total_, unit_) : fmt::format("{} {}", done_, unit_);
  const double rate = elapsed > 0 ? static_cast<double>(done_ - done_before_) / elapsed : 0;
  if (rate <= 0) return text;
  text += fmt::format(", {} {}/s", format_count(rate), unit_);
  if (done_ >= total_) return text + ", after " + format_duration(elapsed);
  return text + ", " + format_duration(static_cast<double>(total_ - done_) / rate) + " left";
}

std::string format_duration(double seconds) {
  // 100 days stand for anything longer: a rate near zero must not overflow.
  int64_t whole = static_cast<int64_t>(std::clamp(std::round(seconds), 0.0, 8640000.0));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string format_count(double value) {
  const char* suffix = "";
  for (const char* larger : {"k", "M", "G", "T"}) {
    if (std::abs(value) < 999.5) break;
    value /= 1000;
    suffix = larger;
  }
  int decimals = std::abs(value) < 9.995 ? 2 : std::abs(value) < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}{}", value, decimals, suffix);
}

}  // namespace engram
