#include "engram/model/memory/stored_table.h"

#include <ATen/Parallel.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <future>

#include "engram/kernels/row_codec.h"
#include "engram/model/memory/row_decoding.h"
#include "engram/model/ops/parallel.h"

namespace engram {

class StoredTable::Read final : public MemoryRead {
 public:
  Read(const StoredTable& table, std::span<const int64_t> row_ids, bool overlap)
      : table_(table), overlap_(overlap), count_(static_cast<int64_t>(row_ids.size())) {
    const bool on_host = table.device_.is_cpu();
    const auto options = torch::TensorOptions().dtype(torch::kUInt8).pinned_memory(!on_host);
    bytes_ = torch::empty({count_ * table.format_.row_bytes()}, options);
    const std::span<std::byte> out(reinterpret_cast<std::byte*>(bytes_.mutable_data_ptr<uint8_t>()),
                                   static_cast<size_t>(bytes_.numel()));
    if (on_host || !overlap) {
      pending_ = table.store_->read(row_ids, out);
      return;
    }
    const auto task = std::make_shared<std::packaged_task<Pending()>>(
        [store = table.store_.get(), ids = std::vector<int64_t>(row_ids.begin(), row_ids.end()), out] {
          return store->read(ids, out);
        });
    starting_ = task->get_future();
    at::launch([task] { (*task)(); });
  }
  ~Read() override {
    if (starting_.valid()) starting_.wait();  // it writes to bytes_
  }
  Read(const Read&) = delete;
  Read& operator=(const Read&) = delete;

  bool done() const override {
    if (starting_.valid()) return false;
    return pending_.done();
  }
  Status wait() override {
    if (starting_.valid()) pending_ = starting_.get();
    return pending_.wait();
  }
  MemoryRows rows() override {
    return {table_.device_.is_cpu() ? table_.decode_on_host(bytes_) : table_.decode_on_device(bytes_, overlap_), {}};
  }

 private:
  const StoredTable& table_;
  bool overlap_;
  int64_t count_;
  torch::Tensor bytes_;
  Pending pending_ = Status();  // declared after the buffer that it writes to
  std::future<Pending> starting_;
};

StoredTable::StoredTable(std::unique_ptr<RowStore> store, const RowFormat& format, torch::Device device,
                         torch::Dtype dtype, std::optional<c10::Stream> staging)
    : store_(std::move(store)), format_(format), device_(device), dtype_(dtype), staging_(staging) {}

std::unique_ptr<MemoryRead> StoredTable::submit(std::span<const int64_t> row_ids, bool overlap) {
  return std::make_unique<Read>(*this, row_ids, overlap);
}

std::vector<std::string> StoredTable::tiers(std::span<const int64_t> row_ids) const {
  const std::vector<TierStats> names = store_->stats().tiers;
  std::vector<uint8_t> tier(row_ids.size());
  store_->locate(row_ids, tier);
  std::vector<std::string> out;
  for (uint8_t t : tier) out.push_back(names[t].name);
  return out;
}

torch::Tensor StoredTable::decode_on_device(const torch::Tensor& bytes, bool overlap) const {
  const c10::impl::VirtualGuardImpl guard(device_.type());
  const c10::Stream model_stream = guard.getStream(device_);
  // Without overlap the model's own stream copies, as an engine would that has no other.
  const c10::Stream stream = overlap ? *staging_ : model_stream;
  torch::Tensor out;
  {
    const c10::StreamGuard on_stream(stream);
    const torch::Tensor moved = bytes.to(device_, /*non_blocking=*/true).view({-1, format_.row_bytes()});
    out = decode_rows_plain(format_, moved, dtype_);
  }
  if (!overlap) return out;
  c10::Event decoded(device_.type());
  decoded.record(stream);
  decoded.block(model_stream);
  out.record_stream(model_stream);  // its memory is not reused before the model has read it
  return out;
}

torch::Tensor StoredTable::decode_on_host(const torch::Tensor& bytes) const {
  const auto stride = static_cast<size_t>(format_.row_bytes());
  const int64_t count = bytes.numel() / format_.row_bytes();
  torch::Tensor out = torch::empty({count, format_.width});
  const auto* from = reinterpret_cast<const std::byte*>(bytes.const_data_ptr<uint8_t>());
  parallel_ranges(count, 1024, [&](int64_t begin, int64_t end) {
    decode_rows(format_, from + static_cast<size_t>(begin) * stride, stride, end - begin,
                out.mutable_data_ptr<float>() + begin * format_.width);
  });
  return out;
}

}  // namespace engram
