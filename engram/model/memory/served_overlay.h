// ServedOverlay: the rows that an overlay edits (store/tiers/overlay_store.h), decoded, for the sequences that ask for
// them. The tables stay as they are for all others.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engram/kernels/row_format.h"
#include "engram/store/tiers/overlay_store.h"

namespace engram {

// An overlay's file, and what requests call it.
struct NamedOverlay {
  std::string name, path;
};

// Immutable once its layers are added.
class ServedOverlay {
 public:
  ServedOverlay(std::string name, int num_layers) : name_(std::move(name)), layers_(static_cast<size_t>(num_layers)) {}
  // The edits of one layer, 0-based among the model's memory layers.
  void add(int layer, const Overlay::Layer& edits, const RowFormat& format);

  const std::string& name() const { return name_; }
  bool edits(int layer, int64_t row_id) const { return at(layer).places.contains(row_id); }
  // Puts the edited ones among rows [n, d_row] of these ids in their place.
  void apply(int layer, std::span<const int64_t> row_ids, torch::Tensor rows) const;
  int64_t num_rows() const;
  int64_t bytes() const { return bytes_; }  // of the rows as their file has them

 private:
  struct Layer {
    std::unordered_map<int64_t, int64_t> places;  // row id -> row of values
    torch::Tensor values;                         // [n, d_row] fp32, CPU
  };
  const Layer& at(int layer) const { return layers_[static_cast<size_t>(layer)]; }

  std::string name_;
  std::vector<Layer> layers_;
  int64_t bytes_ = 0;
};

}  // namespace engram
