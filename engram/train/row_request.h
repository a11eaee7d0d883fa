// RowRequest: the rows that one rank needs in a step, from their owners, and the way of their gradients back: one
// exchange of each kind for all tables together.
//
//   numbers   how many rows of each table are asked of each owner
//   ids       which
//   rows      the answer
//   gradients the way back, of as many rows
// Each stage starts its exchange and waits for the one before, so the first two may be on their way while other work
// is done. All ranks go through the stages of their requests in the same order.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/dist/exact_sum.h"
#include "engram/model/memory/memory_source.h"
#include "engram/train/row_shard.h"

namespace engram {

// One thread. The tables and the communicator outlive it. Throws ExchangeFailed, and c10::Error on an id that is not
// the table's or that another rank may not ask for.
class RowRequest {
 public:
  // ids[t]: of tables[t], any order, repeats allowed; copied. Tables of one width and type. Sends the numbers.
  RowRequest(Communicator& ranks, std::vector<RowShard*> tables, const std::vector<std::span<const int64_t>>& ids);

  void send_ids();
  void send_rows();  // as they are now
  bool done() const { return exchange_->done(); }
  // Waits. One entry for each table: a leaf, with a gradient where gradients are recorded, and the flat index.
  std::vector<MemoryRows> rows();
  // Of those leaves, fp32; undefined: none reached them.
  void send_gradients(const std::vector<torch::Tensor>& gradients);
  // Waits, and gives each table the gradients of its rows. The sum of the squares of those kept here.
  ExactSum collect_gradients();

  int64_t asked_rows() const { return asked_; }  // distinct ones that this rank asked for

 private:
  // Numbers of rows for each [rank][table], and where each begins in a message.
  struct Counts {
    std::vector<int64_t> counts, begins, by_rank;
  };
  void set_begins(Counts& counts) const;
  size_t at(int rank, size_t table) const { return static_cast<size_t>(rank) * tables_.size() + table; }
  torch::Tensor part(const torch::Tensor& message, const Counts& of, int rank, size_t table) const {
    return message.narrow(0, of.begins[at(rank, table)], of.counts[at(rank, table)]);
  }
  // Sends out_, whose rows `to` counts, and gets in_, whose rows `from` counts.
  void start(const Counts& from, const Counts& to);

  Communicator& ranks_;
  std::vector<RowShard*> tables_;
  int64_t asked_ = 0;
  Counts of_, by_;                                // what this rank asks of the owners, what it is asked by the others
  std::vector<torch::Tensor> indices_;            // of each table, the positions of its ids among its rows here
  torch::Tensor ids_, out_, in_;                  // ids of this rank; the message that goes, the one that comes
  std::vector<std::vector<int64_t>> asked_rows_;  // of each table: local numbers, of all askers
  std::optional<Exchange> exchange_;
};

}  // namespace engram
