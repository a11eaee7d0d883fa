// RowIds: the table rows of a run of tokens, for every layer of a memory. Made once by MemoryHasher; whoever reads
// rows, reads them again, traces or verifies drafts takes them from here.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace engram {

// Copyable value.
class RowIds {
 public:
  RowIds() = default;  // of a model without memory
  RowIds(int num_layers, int rows_per_token)
      : rows_per_token_(rows_per_token), layers_(static_cast<size_t>(num_layers)) {}

  int num_layers() const { return static_cast<int>(layers_.size()); }
  int rows_per_token() const { return rows_per_token_; }  // R
  int64_t num_tokens() const { return layers_.empty() ? 0 : static_cast<int64_t>(layers_[0].size()) / rows_per_token_; }
  // [tokens, R] of a layer (its position, not its block). REQUIRES: such a layer, such tokens.
  std::span<const int64_t> layer(int at) const { return layers_[static_cast<size_t>(at)]; }
  std::span<const int64_t> layer(int at, int64_t first, int64_t count) const {
    return layer(at).subspan(static_cast<size_t>(first * rows_per_token_),
                             static_cast<size_t>(count * rows_per_token_));
  }

  void reserve(int64_t tokens) {
    for (auto& ids : layers_) ids.reserve(static_cast<size_t>(tokens * rows_per_token_));
  }
  // `tokens` more, or fewer; new ids are 0.
  void resize(int64_t tokens) {
    for (auto& ids : layers_) ids.resize(static_cast<size_t>(tokens * rows_per_token_));
  }
  // The ids of other's tokens [first, first + count) after these. REQUIRES: as many layers and rows a token.
  void append(const RowIds& other, int64_t first, int64_t count) {
    for (int at = 0; at < num_layers(); ++at) {
      const std::span<const int64_t> from = other.layer(at, first, count);
      layers_[static_cast<size_t>(at)].insert(layers_[static_cast<size_t>(at)].end(), from.begin(), from.end());
    }
  }
  void append(const RowIds& other) { append(other, 0, other.num_tokens()); }
  std::span<int64_t> mutable_layer(int at) { return layers_[static_cast<size_t>(at)]; }
  bool operator==(const RowIds&) const = default;

 private:
  int rows_per_token_ = 0;
  std::vector<std::vector<int64_t>> layers_;
};

}  // namespace engram
