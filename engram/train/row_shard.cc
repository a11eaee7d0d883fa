#include "engram/train/row_shard.h"

#include <numeric>
#include <utility>

#include "engram/train/row_merge.h"

namespace engram {
namespace {

RowSparseAdamOptions of_rank(RowSparseAdamOptions options, int rank, int ranks) {
  options.rank = rank;
  options.ranks = ranks;
  return options;
}

}  // namespace

RowShard::RowShard(const RowPartition& partition, int rank, torch::Tensor rows, RowSparseAdamOptions options)
    : partition_(partition),
      rank_(rank),
      rows_(std::move(rows)),
      adam_(rows_, of_rank(options, rank, partition.ranks())),
      deduplicator_(partition.rows()),
      merger_(partition.count(rank)) {
  TORCH_CHECK(rows_.is_cpu() && rows_.size(0) == partition_.count(rank_), "sharded table: got ", rows_.sizes(), " on ",
              rows_.device(), ", wanted the ", partition_.count(rank_), " rows of rank ", rank_, " on the CPU");
}

DistinctRows RowShard::distinct(std::span<const int64_t> row_ids) {
  deduplicator_.run(row_ids, unique_, index_);
  DistinctRows result;
  result.counts.resize(static_cast<size_t>(partition_.ranks()));
  for (const int64_t id : unique_) ++result.counts[static_cast<size_t>(partition_.owner(id))];
  result.begins.resize(result.counts.size());
  std::exclusive_scan(result.counts.begin(), result.counts.end(), result.begins.begin(), int64_t{0});
  std::vector<int64_t> next = result.begins;
  result.rows.resize(unique_.size());
  for (int64_t& id : unique_) {  // becomes its place
    const int64_t place = next[static_cast<size_t>(partition_.owner(id))]++;
    result.rows[static_cast<size_t>(place)] = std::exchange(id, place);
  }
  result.index = torch::empty({std::ssize(index_)}, torch::kLong);
  auto* index = result.index.mutable_data_ptr<int64_t>();
  for (const int64_t first : index_) *index++ = unique_[static_cast<size_t>(first)];
  return result;
}

void RowShard::answer(torch::Tensor ids, torch::Tensor out) const {
  for (int64_t& id : std::span(ids.mutable_data_ptr<int64_t>(), static_cast<size_t>(ids.numel()))) {
    TORCH_CHECK(id >= 0 && id < partition_.rows() && partition_.owner(id) == rank_, "a rank asks for row ", id,
                " of rank ", rank_, ", which owns none such of ", partition_.rows());
    id = partition_.local(id);
  }
  at::index_select_out(out, rows_, 0, ids);
}

ExactSum RowShard::collect_gradient(std::span<const int64_t> asked, std::span<const std::span<float>> parts) {
  std::vector<int64_t> rows, index;
  merger_.run(asked, rows, index);
  ids_ = torch::tensor(rows, torch::kLong);
  gradient_ = torch::empty({std::ssize(rows), rows_.size(1)});
  merge_rows({parts, index, rows_.size(1)}, gradient_.mutable_data_ptr<float>());
  ExactSum squares;
  squares.add_squares(gradient_.const_data_ptr<float>(), gradient_.numel());
  return squares;
}

void RowShard::apply_gradient(double lr, double scale) {
  const torch::NoGradGuard no_grad;
  if (!gradient_.defined()) return;
  if (scale != 1) gradient_.mul_(scale);
  adam_.update(rows_, ids_, gradient_, lr);
  gradient_.reset();
}

}  // namespace engram
