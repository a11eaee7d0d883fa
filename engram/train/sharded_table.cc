#include "engram/train/sharded_table.h"

#include <numeric>

#include "engram/train/row_request.h"

namespace engram {
namespace {

class ArrivingRows final : public MemoryRead {
 public:
  explicit ArrivingRows(RowRequest request) : request_(std::move(request)) {}
  bool done() const override { return request_.done(); }
  MemoryRows rows() override { return std::move(request_.rows()[0]); }

 private:
  RowRequest request_;
};

}  // namespace

std::unique_ptr<MemoryRead> ShardedTable::submit(std::span<const int64_t> row_ids, bool) {
  RowRequest request(ranks_, {&shard_}, {row_ids});
  request.send_ids();
  request.send_rows();
  return std::make_unique<ArrivingRows>(std::move(request));
}

ShardedTable::Piece ShardedTable::piece(const torch::Tensor& local, int64_t begin, int64_t end) const {
  const bool root = ranks_.rank() == 0;
  Piece piece;
  std::vector<int64_t> counts(static_cast<size_t>(ranks_.size())), next(counts.size());
  int64_t first = 0;
  shard_.partition().ranges(begin, end, [&](int owner, int64_t, int64_t own, int64_t count) {
    if (owner == ranks_.rank() && counts[owner] == 0) first = own;
    counts[owner] += count;
  });
  piece.own = local.narrow(0, first, counts[ranks_.rank()]);
  piece.of_root.resize(counts.size());
  piece.of_root[0] = counts[ranks_.rank()];
  piece.of_ranks.resize(counts.size());
  if (!root) return piece;
  piece.of_ranks = counts;
  std::exclusive_scan(counts.begin(), counts.end(), next.begin(), int64_t{0});
  piece.place = torch::empty({end - begin}, torch::kLong);
  auto* place = piece.place.mutable_data_ptr<int64_t>();
  shard_.partition().ranges(begin, end, [&](int owner, int64_t row, int64_t, int64_t count) {
    std::iota(place + row - begin, place + row - begin + count, next[owner]);
    next[owner] += count;
  });
  return piece;
}

StreamedTensor ShardedTable::streamed(std::string name, const torch::Tensor& local) {
  std::vector<int64_t> shape = local.sizes().vec();
  shape[0] = num_rows();
  const auto room = [this, local](int64_t rows) {  // for the runs of all ranks, at rank 0
    std::vector<int64_t> sizes = local.sizes().vec();
    sizes[0] = ranks_.rank() == 0 ? rows : 0;
    return torch::empty(sizes, local.options());
  };
  const auto read = [=, this](int64_t begin, int64_t end) {
    const Piece piece = this->piece(local, begin, end);
    const torch::Tensor runs = room(end - begin);
    ranks_.all_to_all(Channel::kTable, runs, piece.of_ranks, piece.own.contiguous(), piece.of_root).wait();
    return piece.place.defined() ? runs.index_select(0, piece.place) : torch::Tensor();
  };
  const auto write = [=, this](int64_t begin, int64_t end, const torch::Tensor& rows) {
    const torch::NoGradGuard no_grad;
    const Piece piece = this->piece(local, begin, end);
    torch::Tensor runs = room(end - begin), own = torch::empty_like(piece.own);
    if (piece.place.defined()) runs.index_copy_(0, piece.place, rows.to(local.scalar_type()));
    ranks_.all_to_all(Channel::kTable, own, piece.of_root, runs, piece.of_ranks).wait();
    torch::Tensor(piece.own).copy_(own);
  };
  return {std::move(name), local.scalar_type(), std::move(shape), read, write};
}

std::vector<StreamedTensor> ShardedTable::stored_state() {
  std::vector<StreamedTensor> state;
  for (auto& [name, tensor] : shard_.adam().state()) state.push_back(streamed(name, tensor));
  return state;
}

}  // namespace engram
