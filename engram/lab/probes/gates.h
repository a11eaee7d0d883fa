// Gate probes (experiment E12): where do the gates open?
//
// Runs texts through a trained model and keeps alpha of every Engram layer and branch. Tokens are grouped into pieces
// of whole UTF-8, so that a Chinese character split over tokens shows once, with the gate of its last token.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/data/token_shard.h"
#include "engram/model/io/checkpoint.h"

namespace engram {

// Figure 7 of the paper, and a sentence of the same kind with names that any English text holds.
std::span<const char* const> english_gate_sentences();
std::span<const char* const> chinese_gate_sentences();

// alpha of consecutive tokens: values[(layer * branches + branch) * length + t], each in (0, 1).
struct GateTrace {
  int layers = 0, branches = 0;
  int64_t length = 0;
  std::vector<float> values;
  float at(int layer, int branch, int64_t t) const {
    return values[static_cast<size_t>((int64_t{layer} * branches + branch) * length + t)];
  }
};
// Any number of tokens, in windows of `window` (0: max_position_embeddings); each window is a separate sequence.
// REQUIRES: a model with memory = engram.
GateTrace trace_gates(const LoadedModel& model, std::span<const int32_t> tokens, int64_t window = 0);

struct TextPiece {
  std::string text;   // whole UTF-8
  int64_t token = 0;  // position of the piece's last token
};
std::vector<TextPiece> split_pieces(const Tokenizer& tokenizer, std::span<const int32_t> tokens);

// How wide one layer's branch opens and closes over a trace: mean, standard deviation, 2nd and 98th percentile.
struct GateSpread {
  double mean = 0, deviation = 0, low = 0, high = 0;
};
GateSpread gate_spread(const GateTrace& trace, int layer, int branch);

struct NgramGate {
  std::string text;
  int64_t count = 0;
  double mean_gate = 0;
};
// The n-grams of `order` tokens whose last token has the highest mean gate (over branches), seen at least min_count
// times; the highest first, at most `limit`.
std::vector<NgramGate> highest_gates(const Tokenizer& tokenizer, std::span<const int32_t> tokens,
                                     const GateTrace& trace, int layer, int order, int64_t min_count, size_t limit);

}  // namespace engram
