#include "engram/serve/memory_trace.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engram/text/unicode.h"

namespace engram {
namespace {

using nlohmann::ordered_json;

// Six digits are more than anybody looks at.
ordered_json gate_json(float gate) {
  return std::isfinite(gate) ? ordered_json(std::round(static_cast<double>(gate) * 1e6) / 1e6) : ordered_json();
}

ordered_json layer_json(const LayerTrace& layer) {
  ordered_json gates = ordered_json::array(), rows = ordered_json::array();
  for (const float gate : layer.gates) gates.push_back(gate_json(gate));
  for (size_t i = 0; i < layer.row_ids.size(); ++i) {
    const std::string tier = i < layer.tiers.size() ? layer.tiers[i] : "";
    rows.push_back({{"id", layer.row_ids[i]}, {"tier", tier}, {"hit", tier != "drive"}});
  }
  return {{"layer_id", layer.layer_id}, {"gates", std::move(gates)}, {"rows", std::move(rows)}};
}

}  // namespace

MemoryTracer::MemoryTracer(const Tokenizer& tokenizer, int max_ngram_size)
    : tokenizer_(tokenizer), max_ngram_size_(static_cast<size_t>(std::max(max_ngram_size, 1))) {}

ordered_json MemoryTracer::add(const TokenTrace& trace) {
  const bool known = trace.token >= 0 && trace.token < tokenizer_.vocab_size();
  const std::string bytes = known ? tokenizer_.token_bytes(trace.token) : "";
  last_.push_back(bytes);
  if (last_.size() > max_ngram_size_) last_.pop_front();
  ordered_json ngrams = ordered_json::array();
  for (size_t n = 2; n <= max_ngram_size_; ++n) {
    std::string ngram;
    for (size_t i = last_.size() - std::min(n, last_.size()); i < last_.size(); ++i) ngram += last_[i];
    ngrams.push_back(utf8_lossy(ngram));
  }
  ordered_json layers = ordered_json::array();
  for (const LayerTrace& layer : trace.layers) layers.push_back(layer_json(layer));
  return {{"position", position_++},
          {"token_id", trace.token},
          {"text", text_.push(bytes)},
          {"ngrams", std::move(ngrams)},
          {"layers", std::move(layers)}};
}

}  // namespace engram
