#include "engram/lab/probes/gates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "engram/core/utf8.h"
#include "engram/lab/pages/statistics.h"

namespace engram {
namespace {

const std::array<const char*, 3> kEnglishSentences = {
    "Only Alexander the Great could tame the horse Bucephalus.", "By the way, I am a fan of the Milky Way.",
    "Diana, Princess of Wales, spoke of the United States of America and the House of Representatives."};
const std::array<const char*, 2> kChineseSentences = {
    "\u56db\u5927\u53d1\u660e\u5305\u62ec\u9020\u7eb8\u672f\u3001\u6307\u5357\u9488\u3001\u706b\u836f\u548c\u5370\u5237"
    "\u672f\u3002",                                                         // the four great inventions
    "\u5f20\u4ef2\u666f\u5199\u4e86\u4f24\u5bd2\u6742\u75c5\u8bba\u3002"};  // Zhang Zhongjing wrote the Shanghan Zabing
                                                                            // Lun

}  // namespace

std::span<const char* const> english_gate_sentences() { return kEnglishSentences; }
std::span<const char* const> chinese_gate_sentences() { return kChineseSentences; }

GateTrace trace_gates(const LoadedModel& model, std::span<const int32_t> tokens, int64_t window) {
  TORCH_CHECK(model.config.memory_in_blocks(), "gates: the checkpoint has no Engram layer");
  torch::NoGradGuard no_grad;
  GateTrace trace;
  trace.layers = model.config.num_memory_layers();
  trace.length = static_cast<int64_t>(tokens.size());
  if (window == 0) window = model.config.max_position_embeddings;
  for (int64_t begin = 0; begin < trace.length; begin += window) {
    const int64_t length = std::min(window, trace.length - begin);
    const std::vector<int32_t> chunk(tokens.begin() + begin, tokens.begin() + begin + length);
    ForwardTrace forward_trace;
    model.model->forward(model.prepare_input(chunk, 1, length), &forward_trace);
    for (int layer = 0; layer < trace.layers; ++layer) {
      const auto gates = forward_trace.gates[static_cast<size_t>(layer)].to(torch::kCPU, torch::kFloat).contiguous();
      if (trace.values.empty()) {
        trace.branches = static_cast<int>(gates.size(2));
        trace.values.resize(static_cast<size_t>(trace.layers * trace.branches * trace.length));
      }
      const float* values = gates.data_ptr<float>();
      for (int64_t t = 0; t < length; ++t) {
        for (int branch = 0; branch < trace.branches; ++branch) {
          const int64_t series = int64_t{layer} * trace.branches + branch;
          trace.values[static_cast<size_t>(series * trace.length + begin + t)] = values[t * trace.branches + branch];
        }
      }
    }
  }
  return trace;
}

std::vector<TextPiece> split_pieces(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  std::vector<TextPiece> pieces;
  std::string bytes;
  for (size_t t = 0; t < tokens.size(); ++t) {
    bytes += tokenizer.token_bytes(tokens[t]);
    bool whole = true;  // a piece ends where no character is cut
    for (std::string_view rest = bytes; !rest.empty();) {
      const Utf8Sequence next = next_utf8(rest);
      whole = next.complete;
      rest.remove_prefix(next.length);
    }
    if (whole || t + 1 == tokens.size()) {
      pieces.push_back({bytes, static_cast<int64_t>(t)});
      bytes.clear();
    }
  }
  return pieces;
}

GateSpread gate_spread(const GateTrace& trace, int layer, int branch) {
  std::vector<double> sorted;
  for (int64_t t = 0; t < trace.length; ++t) sorted.push_back(trace.at(layer, branch, t));
  GateSpread spread;
  if (sorted.empty()) return spread;
  std::sort(sorted.begin(), sorted.end());
  const auto n = static_cast<double>(sorted.size());
  for (const double gate : sorted) spread.mean += gate / n;
  for (const double gate : sorted) spread.deviation += (gate - spread.mean) * (gate - spread.mean) / n;
  spread.deviation = std::sqrt(spread.deviation);
  spread.low = percentile(sorted, 0.02);
  spread.high = percentile(sorted, 0.98);
  return spread;
}

std::vector<NgramGate> highest_gates(const Tokenizer& tokenizer, std::span<const int32_t> tokens,
                                     const GateTrace& trace, int layer, int order, int64_t min_count, size_t limit) {
  std::map<std::vector<int32_t>, std::pair<int64_t, double>> sums;
  for (int64_t t = order - 1; t < trace.length; ++t) {
    double gate = 0;
    for (int branch = 0; branch < trace.branches; ++branch) gate += trace.at(layer, branch, t) / trace.branches;
    auto& [count, sum] = sums[{tokens.begin() + (t - order + 1), tokens.begin() + t + 1}];
    ++count;
    sum += gate;
  }
  std::vector<NgramGate> found;
  for (const auto& [ngram, total] : sums) {
    if (total.first < min_count) continue;
    const auto text = tokenizer.decode(ngram);
    if (text.ok() && text->find("\xEF\xBF\xBD") == std::string::npos) {  // no half characters
      found.push_back({*text, total.first, total.second / static_cast<double>(total.first)});
    }
  }
  std::sort(found.begin(), found.end(), [](const NgramGate& a, const NgramGate& b) {
    return a.mean_gate != b.mean_gate ? a.mean_gate > b.mean_gate : a.text < b.text;
  });
  if (found.size() > limit) found.resize(limit);
  return found;
}

}  // namespace engram
