#include "engram/serve/prometheus.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "engram/serve/http_types.h"

namespace engram {
namespace {

// One metric: its lines stand together behind one TYPE line.
void family(std::string& out, const std::string& name, const char* kind, const char* help) {
  out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, kind);
}
void single(std::string& out, const std::string& name, const char* kind, const char* help, auto value) {
  family(out, name, kind, help);
  out += fmt::format("{} {}\n", name, value);
}

void histogram(std::string& out, const std::string& name, const char* help, const DurationHistogram& values) {
  family(out, name, "histogram", help);
  uint64_t below = 0;
  for (size_t i = 0; i < DurationHistogram::kBounds.size(); ++i) {
    below += values.counts[i];
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, DurationHistogram::kBounds[i], below);
  }
  out += fmt::format("{}_bucket{{le=\"+Inf\"}} {}\n", name, values.total());
  out += fmt::format("{}_sum {}\n{}_count {}\n", name, values.sum, name, values.total());
}

void engine_metrics(std::string& out, const EngineMetrics& m) {
  single(out, "engram_requests_running", "gauge", "Sequences that the engine computes.", m.running);
  single(out, "engram_requests_waiting", "gauge", "Sequences in the queue.", m.waiting);
  single(out, "engram_batch_size", "gauge", "Sequences of the last step.", m.last_batch);
  single(out, "engram_kv_blocks_used", "gauge", "Blocks of the KV cache in use.", m.kv_blocks_used);
  single(out, "engram_kv_blocks", "gauge", "Blocks of the KV cache.", m.kv_blocks_total);
  single(out, "engram_tokens_per_second", "gauge", "Tokens generated over the last seconds.", m.tokens_per_second);
  single(out, "engram_steps_total", "counter", "Steps of the engine.", m.steps);
  single(out, "engram_preemptions_total", "counter", "Sequences put back into the queue.", m.preemptions);
  single(out, "engram_prompt_tokens_total", "counter", "Prompt tokens taken in.", m.prompt_tokens);
  single(out, "engram_prompt_tokens_cached_total", "counter", "Prompt tokens found in the prefix cache.",
         m.cached_prompt_tokens);
  single(out, "engram_generated_tokens_total", "counter", "Tokens generated.", m.generated_tokens);
  single(out, "engram_draft_tokens_total", "counter", "Drafts that steps checked.", m.draft_tokens);
  single(out, "engram_accepted_draft_tokens_total", "counter", "Drafts that were right.", m.accepted_draft_tokens);
  single(out, "engram_step_seconds_total", "counter", "Time in steps.", m.step_seconds);
  single(out, "engram_stall_seconds_total", "counter", "Time in steps spent waiting for rows.", m.stall_seconds);
  family(out, "engram_requests_total", "counter", "Choices that ended; a request has n for each prompt.");
  for (const auto& [outcome, count] :
       {std::pair{"finished", m.finished}, std::pair{"cancelled", m.cancelled}, std::pair{"failed", m.failed}}) {
    out += fmt::format("engram_requests_total{{outcome=\"{}\"}} {}\n", outcome, count);
  }
  histogram(out, "engram_time_to_first_token_seconds", "From a request to its first token.", m.time_to_first_token);
  histogram(out, "engram_inter_token_seconds", "Between two tokens of a request.", m.inter_token);
  histogram(out, "engram_request_seconds", "From a request to its last token.", m.request);
}

void store_metrics(std::string& out, const EngineMetrics& metrics) {
  std::vector<std::pair<std::string, StoreStats>> stores;
  for (const auto& [layer_id, stats] : metrics.stores)
    stores.emplace_back(fmt::format("layer=\"{}\"", layer_id), stats);
  if (!stores.empty()) out += to_prometheus(stores);
}

void http_metrics(std::string& out, const HttpCounters& http) {
  family(out, "engram_http_replies_total", "counter", "Replies by route and status.");
  for (const auto& [key, count] : http.replies()) {
    out += fmt::format("engram_http_replies_total{{route=\"{}\",status=\"{}\"}} {}\n", key.first, key.second, count);
  }
  single(out, "engram_http_connections", "gauge", "Open connections.", http.connections.load());
  single(out, "engram_http_connections_total", "counter", "Connections accepted.", http.accepted.load());
  single(out, "engram_http_connections_refused_total", "counter", "Connections over the limit.", http.refused.load());
  single(out, "engram_http_connections_dropped_total", "counter", "Slow connections closed to make a place for others.",
         http.gave_way.load());
  single(out, "engram_http_clients_gone_total", "counter", "Clients that left during a generation.",
         http.clients_gone.load());
  single(out, "engram_http_slow_clients_total", "counter", "Clients cut off because they did not read.",
         http.slow_clients.load());
  single(out, "engram_http_requests_timed_out_total", "counter", "Requests over the total time.",
         http.requests_timed_out.load());
}

nlohmann::ordered_json histogram_json(const DurationHistogram& values) {
  nlohmann::ordered_json bounds = nlohmann::ordered_json::array(), counts = nlohmann::ordered_json::array();
  for (const double bound : DurationHistogram::kBounds) bounds.push_back(bound);
  for (const uint64_t count : values.counts) counts.push_back(count);
  return {{"count", values.total()}, {"sum", values.sum}, {"bounds", bounds}, {"counts", counts}};
}

}  // namespace

void HttpCounters::count_reply(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++replies_[{route, status}];
}

std::map<std::pair<std::string, int>, uint64_t> HttpCounters::replies() const {
  const std::lock_guard lock(mutex_);
  return replies_;
}

std::string metrics_text(const EngineMetrics& metrics, const HttpCounters& http) {
  std::string out;
  engine_metrics(out, metrics);
  store_metrics(out, metrics);
  http_metrics(out, http);
  return out;
}

std::string metrics_json(const EngineMetrics& m, const HttpCounters& http) {
  nlohmann::ordered_json out = {{"running", m.running},
                                {"waiting", m.waiting},
                                {"batch", m.last_batch},
                                {"kv_blocks_used", m.kv_blocks_used},
                                {"kv_blocks", m.kv_blocks_total},
                                {"steps", m.steps},
                                {"preemptions", m.preemptions},
                                {"prompt_tokens", m.prompt_tokens},
                                {"cached_prompt_tokens", m.cached_prompt_tokens},
                                {"generated_tokens", m.generated_tokens},
                                {"draft_tokens", m.draft_tokens},
                                {"accepted_draft_tokens", m.accepted_draft_tokens},
                                {"finished", m.finished},
                                {"cancelled", m.cancelled},
                                {"failed", m.failed},
                                {"step_seconds", m.step_seconds},
                                {"stall_seconds", m.stall_seconds},
                                {"tokens_per_second", m.tokens_per_second},
                                {"time_to_first_token", histogram_json(m.time_to_first_token)},
                                {"inter_token", histogram_json(m.inter_token)},
                                {"request", histogram_json(m.request)},
                                {"connections", http.connections.load()}};
  out["stores"] = nlohmann::ordered_json::array();
  for (const auto& [layer_id, stats] : m.stores) {
    nlohmann::ordered_json store = stats.to_json();
    store["layer_id"] = layer_id;
    out["stores"].push_back(std::move(store));
  }
  return json_line(out);
}

}  // namespace engram
