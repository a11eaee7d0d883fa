// What a server counts, as Prometheus text (format 0.0.4) and as JSON for the page's charts.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "engram/serve/engine.h"

namespace engram {

// Thread-safe.
class HttpCounters {
 public:
  // `route` is one of the server's own paths, or "other": clients do not choose label values.
  void count_reply(const std::string& route, int status);
  std::map<std::pair<std::string, int>, uint64_t> replies() const;

  std::atomic<int64_t> connections{0};          // open now
  std::atomic<uint64_t> accepted{0};            // connections, refused ones included
  std::atomic<uint64_t> refused{0};             // over the limit
  std::atomic<uint64_t> gave_way{0};            // slow ones that were closed where places were short
  std::atomic<uint64_t> clients_gone{0};        // in the middle of a generation
  std::atomic<uint64_t> slow_clients{0};        // cut off: they did not read
  std::atomic<uint64_t> requests_timed_out{0};  // over the total time

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> replies_;
};

std::string metrics_text(const EngineMetrics& metrics, const HttpCounters& http);
std::string metrics_json(const EngineMetrics& metrics, const HttpCounters& http);

}  // namespace engram
