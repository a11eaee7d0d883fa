// EventLog: OUTPUT/tensorboard/events.out.tfevents.0.engram, the event file that TensorBoard and what imports its files
// read.
//
// A file is a run of records: length (8 bytes), masked CRC-32C of these, data, masked CRC-32C of the data. The data is
// an Event of TensorBoard's event.proto in protocol-buffer form. One event holds a step: its numbers as scalars, its
// histograms, and its samples as text.
#pragma once
#include <string>
#include <string_view>

#include "engram/train/metrics_sink.h"

namespace engram {

class EventLog : public MetricsSink {
 public:
  static Result<std::unique_ptr<EventLog>> open(Env& env, const std::string& folder, int64_t step);
  Status append(const nlohmann::ordered_json& line) override;
  Status sync() override { return file_->sync(); }

 private:
  EventLog() = default;
  std::unique_ptr<WritableFile> file_;
};

// The parts, for tests.
std::string event_record(std::string_view data);
// The event of a line, without its frame. wall_time: seconds since 1970.
std::string step_event(const nlohmann::ordered_json& line, double wall_time);
// How many bytes of an event file are whole records of steps up to `step`; 0 when it is none of ours.
size_t event_bytes_until(std::string_view file, int64_t step);

}  // namespace engram
