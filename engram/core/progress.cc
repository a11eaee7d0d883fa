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
constexpr double kLeastRate = 0.1;            // below it a unit takes long, and "0.02 parts/s" helps nobody
constexpr size_t kBarWidths[] = {24, 16, 8};  // three, so that it does not move with every digit of the numbers

size_t terminal_columns(std::FILE* file) {
  winsize size = {};
  if (::ioctl(::fileno(file), TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

// "118 MiB": bytes are what most totals are made of, and nine digits of them say nothing.
std::string format_bytes(double bytes) {
  const char* unit = "B";
  for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
    if (bytes < 1024) break;
    bytes /= 1024;
    unit = larger;
  }
  return fmt::format("{:.{}f} {}", bytes, *unit == 'B' || bytes >= 99.95 ? 0 : 1, unit);
}

// "[######......] ", as wide as there is room for; nothing where there is none.
std::string bar(double share, size_t room) {
  for (const size_t width : kBarWidths) {
    if (width + 3 > room) continue;
    const auto filled = static_cast<size_t>(share * static_cast<double>(width));
    return fmt::format("[{}{}] ", std::string(filled, '#'), std::string(width - filled, '.'));
  }
  return "";
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

void Progress::set_text(std::string text) { text_ = std::move(text); }

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
  const std::string rest = numbers(now) + (text_.empty() ? "" : ", " + text_);
  if (!output_.terminal) {
    fmt::print(output_.file, "{}{}\n", line, rest);
    std::fflush(output_.file);
    return;
  }
  const size_t columns = terminal_columns(output_.file) - 1;
  if (total_ > 0) {
    const double share = std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0);
    line += fmt::format("{:3.0f}% ", std::floor(share * 100));
    // The numbers come first: the bar has what they leave of the line.
    const size_t taken = line.size() + rest.size();
    line += bar(share, columns > taken ? columns - taken : 0);
  }
  line += rest;
  cut(line, columns);
  fmt::print(output_.file, "\r{}\x1b[K", line);
  std::fflush(output_.file);
}

// "420/1000 steps, 12.3/s, 0:47 left"; bytes as "118 MiB of 942 MiB, 12.3 MiB/s, 1:07 left".
std::string Progress::numbers(double now) const {
  const bool bytes = unit_ == "B";
  const auto amount = [&](int64_t n) { return bytes ? format_bytes(static_cast<double>(n)) : fmt::format("{}", n); };
  std::string text = amount(done_);
  if (total_ > 0) text += (bytes ? " of " : "/") + amount(total_);
  if (!bytes) text += " " + unit_;
  const double elapsed = now - start_;
  const double rate = elapsed > 0 ? static_cast<double>(done_ - done_before_) / elapsed : 0;
  if (rate <= 0) return text;
  if (bytes) {
    text += fmt::format(", {}/s", format_bytes(rate));
  } else if (rate >= kLeastRate) {
    text += fmt::format(", {}/s", format_count(rate));
  }
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
