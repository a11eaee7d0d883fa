// Progress: how far long work is, on stderr.
//
// On a terminal one line is redrawn: percent, bar, rate, time left and a free text; elsewhere a plain line appears
// every few seconds, so that logs stay readable. The rate is the mean since construction. Not thread-safe.
//
//   Progress progress("train", steps, "steps");
//   for (...) { progress.advance(1); progress.set_text(fmt::format("loss {:.3f}", loss)); }
//   progress.log("validation loss 3.21");   // a separate line above the bar
#pragma once
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

namespace engram {

// Where and how to write; tests replace the parts.
struct ProgressOutput {
  ProgressOutput();  // stderr, a terminal if it is one, a steady clock
  std::FILE* file;
  bool terminal;
  std::function<double()> seconds;  // now, from any origin
};

class Progress {
 public:
  // total: units of the whole work, 0 when unknown. done: units that an earlier run did (resume); they count as
  // progress but not for the rate.
  Progress(std::string label, int64_t total, std::string unit, int64_t done = 0, ProgressOutput output = {});
  ~Progress();  // finish()
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(int64_t units);
  // Shown after the numbers from the next redraw on.
  void set_text(std::string text);
  // Prints a line (without line break in it) and redraws.
  void log(std::string_view line);
  // Draws the last state and ends the line. Later calls do nothing.
  void finish();

 private:
  void draw_if_due();
  void draw(double now);
  std::string numbers(double now) const;

  const std::string label_, unit_;
  const int64_t total_, done_before_;
  const ProgressOutput output_;
  const double start_;
  int64_t done_;
  double next_draw_;
  std::string text_;
  bool finished_ = false;
};

// "0:07", "12:34", "2:05:09".
std::string format_duration(double seconds);
// Three digits that matter, with k, M or G: "0.52", "17.3", "1.31M".
std::string format_count(double value);

}  // namespace engram
