#include "engram/model/paged/paged_cache.h"

#include <algorithm>
#include <numeric>

namespace engram {

PagedStep::PagedStep(std::vector<StepSequence> sequences, int64_t block_size, torch::Device device)
    : sequences_(std::move(sequences)), block_size_(block_size), first_{0}, device_(device) {
  TORCH_CHECK(block_size_ > 0 && !sequences_.empty(), "paged step: got ", sequences_.size(), " sequences in blocks of ",
              block_size_, " tokens, wanted at least one of each");
  bool some_off = false;
  for (const StepSequence& s : sequences_) {
    const auto room = static_cast<int64_t>(s.blocks.size()) * block_size_;
    TORCH_CHECK(s.position >= 0 && s.count > 0 && s.position + s.count <= room, "paged step: got ", s.count,
                " tokens at position ", s.position, ", wanted 1 or more within ", room, " tokens of blocks");
    first_.push_back(first_.back() + s.count);
    some_off |= s.memory_off;
    all_memory_off_ &= s.memory_off;
  }
  positions_ = torch::empty({num_tokens()}, torch::kLong);
  slots_ = torch::empty({num_tokens()}, torch::kLong);
  if (some_off) memory_off_ = torch::zeros({num_tokens()}, torch::kBool);
  for (size_t i = 0; i < sequences_.size(); ++i) {
    for (int64_t t = 0; t < sequences_[i].count; ++t) {
      const int64_t position = sequences_[i].position + t, at = first_[i] + t;
      positions_.mutable_data_ptr<int64_t>()[at] = position;
      slots_.mutable_data_ptr<int64_t>()[at] = slot_of(i, position);
    }
    if (sequences_[i].memory_off) memory_off_.narrow(0, first_[i], sequences_[i].count).fill_(true);
  }
  if (device_.is_cpu()) return;
  for (torch::Tensor* host : {&positions_, &slots_, &memory_off_}) {
    if (host->defined()) *host = copy_ahead(*host, device_);
  }
  find_keys();
}

void PagedStep::find_keys() {
  const auto count = static_cast<int64_t>(sequences_.size());
  torch::Tensor query_ends = torch::zeros({count + 1}, torch::kInt), key_ends = torch::zeros({count + 1}, torch::kInt);
  int64_t keys = 0;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const int64_t length = sequences_[i].position + sequences_[i].count;
    keys += length;
    query_ends.mutable_data_ptr<int32_t>()[i + 1] = static_cast<int32_t>(first_[i + 1]);
    key_ends.mutable_data_ptr<int32_t>()[i + 1] = static_cast<int32_t>(keys);
    keys_.longest_query = std::max(keys_.longest_query, sequences_[i].count);
    keys_.longest_key = std::max(keys_.longest_key, length);
  }
  keys_.slots = copy_ahead(key_slots(), device_);
  keys_.query_ends = copy_ahead(query_ends, device_);
  keys_.key_ends = copy_ahead(key_ends, device_);
}

torch::Tensor PagedStep::key_slots() const {
  int64_t keys = 0;
  for (const StepSequence& s : sequences_) keys += s.position + s.count;
  torch::Tensor out = torch::empty({keys}, torch::kLong);
  int64_t* to = out.mutable_data_ptr<int64_t>();
  for (const StepSequence& s : sequences_) {  // page by page: this is most of what a step's layout costs
    int64_t left = s.position + s.count;
    for (auto block = s.blocks.begin(); left > 0; ++block) {
      const int64_t count = std::min(left, block_size_);
      std::iota(to, to + count, int64_t{*block} * block_size_);
      to += count;
      left -= count;
    }
  }
  return out;
}

torch::Tensor copy_ahead(const torch::Tensor& host, torch::Device device) {
  if (device.is_cpu()) return host;
  return host.pin_memory().to(device, /*non_blocking=*/true);
}

int64_t PagedStep::slot_of(size_t sequence, int64_t position) const {
  return int64_t{sequences_[sequence].blocks[static_cast<size_t>(position / block_size_)]} * block_size_ +
         position % block_size_;
}

torch::Tensor PagedStep::tap_slots(int64_t taps, int64_t dilation) const {
  torch::Tensor out = torch::empty({num_tokens(), taps}, torch::kLong);
  int64_t* to = out.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i < sequences_.size(); ++i) {
    for (int64_t t = 0; t < sequences_[i].count; ++t) {
      for (int64_t age = 0; age < taps; ++age) {
        const int64_t position = sequences_[i].position + t - age * dilation;
        *to++ = position < 0 ? -1 : slot_of(i, position);
      }
    }
  }
  return copy_ahead(out, device_);
}

int64_t attention_row_width(const ModelConfig& c) {
  if (c.attention == AttentionKind::kMla) return c.kv_lora_rank + c.qk_rope_head_dim;
  return int64_t{2} * c.num_key_value_heads * c.head_dim;
}

int64_t memory_row_width(const ModelConfig& c) {
  if (!c.memory_in_blocks()) return 0;
  return c.hidden_size + 2 * (c.engram_branch_gates ? c.hc_mult : 1);
}

PagedCache::PagedCache(const ModelConfig& config, int64_t num_blocks, int64_t block_size, torch::Device device,
                       torch::Dtype dtype)
    : num_blocks_(num_blocks), block_size_(block_size) {
  const int64_t slots = num_blocks * block_size;
  const auto options = torch::TensorOptions().dtype(torch::kFloat).device(device);
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    attention_.push_back(torch::zeros({slots, attention_row_width(config)}, options.dtype(dtype)));
  }
  if (memory_row_width(config) == 0) return;
  for (int i = 0; i < config.num_memory_layers(); ++i) {
    memory_.push_back(torch::zeros({slots, memory_row_width(config)}, options));
  }
}

int64_t PagedCache::bytes_per_token(const ModelConfig& config, torch::Dtype dtype) {
  const int64_t layers = memory_row_width(config) > 0 ? config.num_memory_layers() : 0;
  const auto attention = config.num_hidden_layers * attention_row_width(config);
  return static_cast<int64_t>(torch::elementSize(dtype)) * attention + 4 * layers * memory_row_width(config);
}

}  // namespace engram
