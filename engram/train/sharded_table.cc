#include "engram/train/sharded_table.h"

#include <algorithm>
#include <numeric>

#include "engram/model/ops/parallel.h"
#include "engram/train/row_merge.h"

namespace engram {
namespace {

int64_t sum_of(const std::vector<int64_t>& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), int64_t{0});
}

torch::Tensor numbers(const std::vector<int64_t>& values) { return torch::tensor(values, torch::kLong); }

RowSparseAdamOptions of_rank(RowSparseAdamOptions options, const Communicator& ranks) {
  options.rank = ranks.rank();
  options.ranks = ranks.size();
  return options;
}

// Rows on their way, in the dtype of the table; what they need lives here until they have come.
class ArrivingRows final : public MemoryRead {
 public:
  ArrivingRows(Exchange exchange, MemoryRows rows, bool train)
      : exchange_(std::move(exchange)), rows_(std::move(rows)), train_(train) {}
  bool done() const override { return exchange_.done(); }
  Status wait() override {
    exchange_.wait();
    return {};
  }
  MemoryRows rows() override {
    rows_.unique_rows = rows_.unique_rows.to(torch::kFloat32);
    rows_.unique_rows.requires_grad_(train_);
    return std::move(rows_);
  }

 private:
  Exchange exchange_;
  MemoryRows rows_;
  bool train_;
};

}  // namespace

ShardedTable::ShardedTable(Communicator& ranks, const RowPartition& partition, torch::Tensor rows,
                           RowSparseAdamOptions options)
    : ranks_(ranks),
      partition_(partition),
      rows_(std::move(rows)),
      adam_(rows_, of_rank(options, ranks)),
      deduplicator_(partition.rows()),
      merger_(partition.count(ranks.rank())) {
  TORCH_CHECK(rows_.is_cpu() && rows_.size(0) == partition_.count(ranks_.rank()), "sharded table: got ", rows_.sizes(),
              " on ", rows_.device(), ", wanted the ", partition_.count(ranks_.rank()), " rows of rank ", ranks_.rank(),
              " on the CPU");
}

std::vector<int64_t> ShardedTable::exchange_counts(const std::vector<int64_t>& counts) {
  const std::vector<int64_t> ones(counts.size(), 1);
  const torch::Tensor mine = numbers(counts), theirs = torch::empty_like(mine);
  ranks_.all_to_all(Channel::kTable, theirs, ones, mine, ones).wait();
  const int64_t* first = theirs.const_data_ptr<int64_t>();
  std::vector<int64_t> result(first, first + counts.size());
  for (size_t rank = 0; rank < result.size(); ++rank)
    TORCH_CHECK(result[rank] >= 0 && result[rank] <= rows_.size(0), "rank ", rank, " asks for ", result[rank],
                " distinct rows, wanted 0 to ", rows_.size(0));
  return result;
}

void ShardedTable::check_asked(std::span<const int64_t> ids) const {
  for (const int64_t id : ids)
    TORCH_CHECK(id >= 0 && id < partition_.rows() && partition_.owner(id) == ranks_.rank(), "a rank asks for row ", id,
                " of rank ", ranks_.rank(), ", which owns none such of ", partition_.rows());
}

std::unique_ptr<MemoryRead> ShardedTable::submit(std::span<const int64_t> row_ids, bool) {
  deduplicator_.run(row_ids, unique_, index_);
  // By owner, in first-seen order: place[i] is where unique_[i] goes.
  asked_of_.assign(static_cast<size_t>(ranks_.size()), 0);
  for (const int64_t id : unique_) ++asked_of_[static_cast<size_t>(partition_.owner(id))];
  std::vector<int64_t> next(asked_of_.size());
  std::exclusive_scan(asked_of_.begin(), asked_of_.end(), next.begin(), int64_t{0});
  torch::Tensor ids = torch::empty({std::ssize(unique_)}, torch::kLong);
  std::vector<int64_t> place(unique_.size());
  for (size_t i = 0; i < unique_.size(); ++i) {
    place[i] = next[static_cast<size_t>(partition_.owner(unique_[i]))]++;
    ids.mutable_data_ptr<int64_t>()[place[i]] = unique_[i];
  }
  torch::Tensor index = torch::empty({std::ssize(index_)}, torch::kLong);
  for (size_t i = 0; i < index_.size(); ++i)
    index.mutable_data_ptr<int64_t>()[i] = place[static_cast<size_t>(index_[i])];

  asked_by_ = exchange_counts(asked_of_);
  const torch::Tensor asked = torch::empty({sum_of(asked_by_)}, torch::kLong);
  ranks_.all_to_all(Channel::kTable, asked, asked_by_, ids, asked_of_).wait();
  const std::span<const int64_t> asked_ids(asked.const_data_ptr<int64_t>(), static_cast<size_t>(asked.numel()));
  check_asked(asked_ids);
  asked_rows_.resize(asked_ids.size());
  std::ranges::transform(asked_ids, asked_rows_.begin(), [&](int64_t id) { return partition_.local(id); });

  const bool train = torch::GradMode::is_enabled();
  const torch::NoGradGuard no_grad;
  const torch::Tensor answer = rows_.index_select(0, numbers(asked_rows_));
  MemoryRows rows{torch::empty({ids.numel(), row_dim()}, rows_.options()), std::move(index)};
  Exchange exchange = ranks_.all_to_all(Channel::kTable, rows.unique_rows, asked_of_, answer, asked_by_);
  return std::make_unique<ArrivingRows>(std::move(exchange), std::move(rows), train);
}

ExactSum ShardedTable::collect_gradient(torch::Tensor gradient) {
  const torch::NoGradGuard no_grad;
  if (!gradient.defined()) gradient = torch::zeros({sum_of(asked_of_), row_dim()});
  torch::Tensor arrived = torch::empty({sum_of(asked_by_), row_dim()});
  ranks_.all_to_all(Channel::kTable, arrived, asked_by_, gradient.contiguous(), asked_of_).wait();
  merger_.run(asked_rows_, own_, own_index_);
  own_ids_ = numbers(own_);
  gradient_ = torch::empty({std::ssize(own_), row_dim()});
  merge_rows({asked_by_, own_index_, row_dim()}, arrived.mutable_data_ptr<float>(),
             gradient_.mutable_data_ptr<float>());
  ExactSum squares;
  squares.add_squares(gradient_.const_data_ptr<float>(), gradient_.numel());
  return squares;
}

void ShardedTable::apply_gradient(double lr, double scale) {
  const torch::NoGradGuard no_grad;
  if (!gradient_.defined()) return;
  if (scale != 1) gradient_.mul_(scale);
  adam_.update(rows_, own_ids_, gradient_, lr);
  gradient_.reset();
}

std::vector<int64_t> ShardedTable::counts_by_rank(int64_t begin, int64_t end) const {
  std::vector<int64_t> counts(static_cast<size_t>(ranks_.size()));
  partition_.ranges(begin, end, [&](int owner, int64_t, int64_t, int64_t count) { counts[owner] += count; });
  return counts;
}

// A piece [begin, end) of a table is one exchange: of each rank a run of its rows, to or from rank 0, which puts the
// blocks in their places.
StreamedTensor ShardedTable::streamed(std::string name, const torch::Tensor& local) {
  std::vector<int64_t> shape = local.sizes().vec();
  shape[0] = num_rows();
  const auto part = [this, local](int64_t begin, int64_t end) {  // what this rank has of [begin, end)
    int64_t first = 0, count = 0;
    partition_.ranges(begin, end, [&](int owner, int64_t, int64_t own, int64_t rows) {
      if (owner != ranks_.rank()) return;
      if (count == 0) first = own;
      count += rows;
    });
    return local.narrow(0, first, count);
  };
  // Calls copy(row of the piece, row of the runs, count) for each block.
  const auto blocks = [this](int64_t begin, int64_t end, const auto& copy) {
    const std::vector<int64_t> counts = counts_by_rank(begin, end);
    std::vector<int64_t> next(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), next.begin(), int64_t{0});
    partition_.ranges(begin, end, [&](int owner, int64_t row, int64_t, int64_t count) {
      copy(row - begin, next[static_cast<size_t>(owner)], count);
      next[static_cast<size_t>(owner)] += count;
    });
  };
  const auto read = [=, this](int64_t begin, int64_t end) -> torch::Tensor {
    const torch::NoGradGuard no_grad;
    const torch::Tensor mine = part(begin, end).contiguous();
    std::vector<int64_t> to(static_cast<size_t>(ranks_.size())), from(to.size());
    to[0] = mine.size(0);
    if (ranks_.rank() == 0) from = counts_by_rank(begin, end);
    std::vector<int64_t> sizes = shape;
    sizes[0] = sum_of(from);
    const torch::Tensor runs = torch::empty(sizes, local.options());
    ranks_.all_to_all(Channel::kTable, runs, from, mine, to).wait();
    if (ranks_.rank() != 0) return {};
    torch::Tensor rows = torch::empty_like(runs);
    blocks(begin, end, [&](int64_t row, int64_t run, int64_t count) {
      rows.narrow(0, row, count).copy_(runs.narrow(0, run, count));
    });
    return rows;
  };
  const auto write = [=, this](int64_t begin, int64_t end, const torch::Tensor& rows) {
    const torch::NoGradGuard no_grad;
    std::vector<int64_t> to(static_cast<size_t>(ranks_.size())), from(to.size());
    std::vector<int64_t> sizes = shape;
    if (ranks_.rank() == 0) to = counts_by_rank(begin, end);
    sizes[0] = sum_of(to);
    torch::Tensor runs = torch::empty(sizes, local.options());
    if (ranks_.rank() == 0)
      blocks(begin, end, [&](int64_t row, int64_t run, int64_t count) {
        runs.narrow(0, run, count).copy_(rows.narrow(0, row, count));
      });
    torch::Tensor home = part(begin, end);
    const torch::Tensor mine = torch::empty_like(home);
    from[0] = home.size(0);
    ranks_.all_to_all(Channel::kTable, mine, from, runs, to).wait();
    home.copy_(mine);
  };
  return {std::move(name), local.scalar_type(), std::move(shape), read, write};
}

std::vector<StreamedTensor> ShardedTable::stored_state() {
  std::vector<StreamedTensor> state;
  for (auto& [name, tensor] : adam_.state()) state.push_back(streamed(name, tensor));
  return state;
}

}  // namespace engram
