#include "engram/train/row_request.h"

#include <algorithm>
#include <numeric>

namespace engram {

RowRequest::RowRequest(Communicator& ranks, std::vector<RowShard*> tables,
                       const std::vector<std::span<const int64_t>>& ids)
    : ranks_(ranks), tables_(std::move(tables)) {
  const size_t cells = static_cast<size_t>(ranks_.size()) * tables_.size();
  of_.counts.resize(cells);
  by_.counts.resize(cells);
  std::vector<DistinctRows> distinct;
  for (size_t t = 0; t < tables_.size(); ++t) {
    distinct.push_back(tables_[t]->distinct(ids[t]));
    for (int rank = 0; rank < ranks_.size(); ++rank) of_.counts[at(rank, t)] = distinct[t].counts[rank];
    indices_.push_back(std::move(distinct[t].index));
  }
  set_begins(of_);
  asked_ = std::accumulate(of_.by_rank.begin(), of_.by_rank.end(), int64_t{0});
  ids_ = torch::empty({asked_}, torch::kLong);
  for (int rank = 0; rank < ranks_.size(); ++rank)
    for (size_t t = 0; t < tables_.size(); ++t)
      std::copy_n(distinct[t].rows.begin() + distinct[t].begins[rank], of_.counts[at(rank, t)],
                  ids_.mutable_data_ptr<int64_t>() + of_.begins[at(rank, t)]);
  out_ = torch::tensor(of_.counts, torch::kLong);
  in_ = torch::empty_like(out_);
  const std::vector<int64_t> each(static_cast<size_t>(ranks_.size()), std::ssize(tables_));
  exchange_.emplace(ranks_.all_to_all(Channel::kTable, in_, each, out_, each));
}

void RowRequest::set_begins(Counts& counts) const {
  counts.begins.resize(counts.counts.size());
  std::exclusive_scan(counts.counts.begin(), counts.counts.end(), counts.begins.begin(), int64_t{0});
  for (size_t i = 0; i < counts.counts.size(); i += tables_.size())
    counts.by_rank.push_back(std::accumulate(counts.counts.begin() + static_cast<int64_t>(i),
                                             counts.counts.begin() + static_cast<int64_t>(i + tables_.size()),
                                             int64_t{0}));
}

void RowRequest::start(const Counts& from, const Counts& to) {
  std::vector<int64_t> sizes = out_.sizes().vec();
  sizes[0] = std::accumulate(from.by_rank.begin(), from.by_rank.end(), int64_t{0});
  in_ = torch::empty(sizes, out_.options());
  exchange_.emplace(ranks_.all_to_all(Channel::kTable, in_, from.by_rank, out_, to.by_rank));
}

void RowRequest::send_ids() {
  exchange_->wait();
  const auto* counts = in_.const_data_ptr<int64_t>();
  by_.counts.assign(counts, counts + by_.counts.size());
  for (int rank = 0; rank < ranks_.size(); ++rank)
    for (size_t t = 0; t < tables_.size(); ++t)
      TORCH_CHECK(by_.counts[at(rank, t)] >= 0 && by_.counts[at(rank, t)] <= tables_[t]->rows().size(0), "rank ", rank,
                  " asks for ", by_.counts[at(rank, t)], " distinct rows, wanted 0 to ", tables_[t]->rows().size(0));
  set_begins(by_);
  out_ = std::move(ids_);
  start(by_, of_);
}

void RowRequest::send_rows() {
  exchange_->wait();
  const torch::Tensor asked = in_;
  out_ = torch::empty({asked.numel(), tables_[0]->rows().size(1)}, tables_[0]->rows().options());
  asked_rows_.resize(tables_.size());
  for (size_t t = 0; t < tables_.size(); ++t) {
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const torch::Tensor ids = part(asked, by_, rank, t);  // becomes local numbers
      tables_[t]->answer(ids, part(out_, by_, rank, t));
      const auto* rows = ids.const_data_ptr<int64_t>();
      asked_rows_[t].insert(asked_rows_[t].end(), rows, rows + ids.numel());
    }
  }
  start(of_, by_);
}

std::vector<MemoryRows> RowRequest::rows() {
  exchange_->wait();
  std::vector<MemoryRows> rows;
  for (size_t t = 0; t < tables_.size(); ++t) {
    std::vector<torch::Tensor> parts;
    for (int rank = 0; rank < ranks_.size(); ++rank) parts.push_back(part(in_, of_, rank, t));
    torch::Tensor leaf = torch::cat(parts).to(torch::kFloat32);
    leaf.requires_grad_(torch::GradMode::is_enabled());
    rows.push_back({std::move(leaf), std::move(indices_[t])});
  }
  return rows;
}

void RowRequest::send_gradients(const std::vector<torch::Tensor>& gradients) {
  const torch::NoGradGuard no_grad;
  out_ = torch::empty({asked_, in_.size(1)});
  for (size_t t = 0; t < tables_.size(); ++t) {
    int64_t done = 0;
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      torch::Tensor to = part(out_, of_, rank, t);
      if (gradients[t].defined()) {
        to.copy_(gradients[t].narrow(0, done, to.size(0)));
      } else {
        to.zero_();
      }
      done += to.size(0);
    }
  }
  start(by_, of_);
}

ExactSum RowRequest::collect_gradients() {
  exchange_->wait();
  ExactSum squares;
  for (size_t t = 0; t < tables_.size(); ++t) {
    std::vector<std::span<float>> parts;
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const torch::Tensor arrived = part(in_, by_, rank, t);
      parts.emplace_back(arrived.mutable_data_ptr<float>(), static_cast<size_t>(arrived.numel()));
    }
    squares.add(tables_[t]->collect_gradient(asked_rows_[t], parts));
  }
  return squares;
}

}  // namespace engram
