#include "engram/train/event_log.h"

#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <span>

#include "engram/core/crc32c.h"

namespace engram {
namespace {

static_assert(std::endian::native == std::endian::little);

template <typename Number>
std::string bytes_of(Number number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

// Protocol buffers: a key is the field's number and how its value is written.
enum Wire { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string key(int field, Wire wire) { return varint(static_cast<uint64_t>(field << 3 | wire)); }
std::string number(int field, int64_t value) { return key(field, kVarint) + varint(static_cast<uint64_t>(value)); }
std::string number(int field, double value) { return key(field, kFixed64) + bytes_of(value); }
std::string number(int field, float value) { return key(field, kFixed32) + bytes_of(value); }
std::string text(int field, std::string_view value) {
  return key(field, kLength) + varint(value.size()) + std::string(value);
}
std::string packed(int field, const std::vector<double>& values) {
  return text(field, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double)});
}

uint32_t masked_crc(std::string_view data) {
  const uint32_t crc = crc32c(std::as_bytes(std::span(data)));
  return std::rotr(crc, 15) + 0xa282ead8u;
}

// {"low", "high", "counts"}: bins of equal width.
std::string histogram(const nlohmann::ordered_json& bins) {
  const auto low = bins.at("low").get<double>(), high = bins.at("high").get<double>();
  const auto counts = bins.at("counts").get<std::vector<double>>();
  double all = 0, sum = 0, squares = 0;
  std::vector<double> limits;
  const double width = (high - low) / static_cast<double>(std::max<size_t>(counts.size(), 1));
  for (size_t i = 0; i < counts.size(); ++i) {
    const double middle = low + (static_cast<double>(i) + 0.5) * width;
    limits.push_back(low + static_cast<double>(i + 1) * width);
    all += counts[i];
    sum += counts[i] * middle;
    squares += counts[i] * middle * middle;
  }
  return number(1, low) + number(2, high) + number(3, all) + number(4, sum) + number(5, squares) + packed(6, limits) +
         packed(7, counts);
}

// A tensor of one string that the text page shows.
std::string sample(const std::string& tag, const std::string& words) {
  constexpr int64_t kString = 7;  // DT_STRING
  const std::string plugin = text(1, text(1, "text"));
  return text(1, tag) + text(8, number(1, kString) + text(2, "") + text(8, words)) + text(9, plugin);
}

constexpr char kFile[] = "events.out.tfevents.0.engram";
constexpr size_t kHead = 12, kTail = 4;  // of a record: length and its checksum; the data's checksum

uint64_t read_varint(std::string_view data, size_t at) {
  uint64_t value = 0;
  for (int shift = 0; at < data.size() && shift < 64; shift += 7) {
    const auto byte = static_cast<uint8_t>(data[at++]);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) break;
  }
  return value;
}

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string version_record() {
  return event_record(number(1, seconds_since_1970()) + number(2, int64_t{0}) + text(3, "brain.Event:2"));
}

}  // namespace

std::string event_record(std::string_view data) {
  const std::string length = bytes_of(uint64_t{data.size()});
  return length + bytes_of(masked_crc(length)) + std::string(data) + bytes_of(masked_crc(data));
}

// Time and step come first, where event_bytes_until() finds the step.
std::string step_event(const nlohmann::ordered_json& line, double wall_time) {
  std::string summary;
  for_each_number(line, [&](const std::string& name, double value) {
    if (std::isfinite(value)) summary += text(1, text(1, name) + number(2, static_cast<float>(value)));
  });
  const auto none = nlohmann::ordered_json::object();
  const nlohmann::ordered_json &histograms = line.contains("histograms") ? line["histograms"] : none,
                               &samples = line.contains("samples") ? line["samples"] : none;
  for (const auto& [name, bins] : histograms.items()) summary += text(1, text(1, name) + text(5, histogram(bins)));
  for (size_t i = 0; i < samples.size(); ++i)
    summary += text(1, sample(fmt::format("sample/{}", i),
                              samples[i].at("prompt").get<std::string>() + samples[i].at("text").get<std::string>()));
  return number(1, wall_time) + number(2, line.at("step").get<int64_t>()) + text(5, summary);
}

size_t event_bytes_until(std::string_view file, int64_t step) {
  size_t end = 0;
  while (file.size() - end >= kHead + kTail) {
    uint64_t length = 0;
    uint32_t length_crc = 0, data_crc = 0;
    std::memcpy(&length, file.data() + end, sizeof length);
    std::memcpy(&length_crc, file.data() + end + sizeof length, sizeof length_crc);
    if (masked_crc(file.substr(end, sizeof length)) != length_crc || length > file.size() - end - kHead - kTail) break;
    const std::string_view data = file.substr(end + kHead, length);
    std::memcpy(&data_crc, data.data() + length, sizeof data_crc);
    // number(1, time) is 9 bytes, then the key of the step.
    if (masked_crc(data) != data_crc || data.size() < 11 || data[9] != key(2, kVarint)[0]) break;
    if (read_varint(data, 10) > static_cast<uint64_t>(step)) break;
    end += kHead + length + kTail;
  }
  return end;
}

Result<std::unique_ptr<EventLog>> EventLog::open(Env& env, const std::string& folder, int64_t step) {
  const std::string path = join_path(folder, kFile);
  size_t keep = 0;
  if (env.file_exists(path)) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string file, env.read_file(path, {.max_bytes = INT64_MAX}));
    keep = step > 0 ? event_bytes_until(file, step) : 0;
    if (keep < file.size()) ENGRAM_RETURN_IF_ERROR(env.truncate_file(path, static_cast<int64_t>(keep)));
  }
  ENGRAM_RETURN_IF_ERROR(env.create_directories(folder));
  std::unique_ptr<EventLog> log(new EventLog);
  ENGRAM_ASSIGN_OR_RETURN(log->file_, env.new_appendable_file(path));
  const std::string first = keep == 0 ? version_record() : "";
  ENGRAM_RETURN_IF_ERROR(log->file_->append(std::as_bytes(std::span(first))));
  return log;
}

Status EventLog::append(const nlohmann::ordered_json& line) {
  const std::string record = event_record(step_event(line, seconds_since_1970()));
  return file_->append(std::as_bytes(std::span(record)));
}

}  // namespace engram
