// The rows of several tables in one request, and their gradients on the way back: the bits of TrainableTable, whose
// rows are all here. Among several processes: tests/dist/same_bytes_test.py.
#include <gtest/gtest.h>

#include <torch/torch.h>

#include "engram/train/row_request.h"
#include "engram/train/trainable_table.h"

namespace engram {
namespace {

constexpr int64_t kDim = 4;

std::vector<int64_t> ids_of(const torch::Tensor& ids) {
  return {ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel()};
}

TEST(RowRequest, OfTwoTablesLearnsAsOneProcessDoes) {
  torch::manual_seed(1);
  const std::unique_ptr<Communicator> alone = Communicator::alone();
  const std::vector<int64_t> sizes = {700, 300};  // more and less than a block of the partition
  std::vector<std::unique_ptr<TrainableTable>> wanted;
  std::vector<std::unique_ptr<RowShard>> shards;
  for (const int64_t size : sizes) {
    const torch::Tensor rows = torch::randn({size, kDim});
    wanted.push_back(std::make_unique<TrainableTable>(rows.clone(), torch::kCPU, RowSparseAdamOptions()));
    shards.push_back(std::make_unique<RowShard>(RowPartition(size, 1), 0, rows.clone(), RowSparseAdamOptions()));
  }
  const auto ids_of_step = [&] {
    std::vector<std::vector<int64_t>> ids;
    for (const int64_t size : sizes) ids.push_back(ids_of(torch::randint(size, {200}, torch::kLong)));
    return ids;
  };
  const auto ask = [&](const std::vector<std::vector<int64_t>>& ids) {
    return std::make_unique<RowRequest>(*alone, std::vector<RowShard*>{shards[0].get(), shards[1].get()},
                                        std::vector<std::span<const int64_t>>{ids[0], ids[1]});
  };
  std::vector<std::vector<int64_t>> ids = ids_of_step();
  std::unique_ptr<RowRequest> request = ask(ids);
  request->send_ids();
  request->send_rows();
  for (int step = 0; step < 3; ++step) {
    const std::vector<MemoryRows> got = request->rows();
    std::vector<torch::Tensor> gradients;
    for (size_t t = 0; t < sizes.size(); ++t) {
      const MemoryRows rows = wanted[t]->submit(ids[t])->rows();
      EXPECT_TRUE(torch::equal(rows.unique_rows, got[t].unique_rows)) << "step " << step << ", table " << t;
      EXPECT_TRUE(torch::equal(rows.index, got[t].index));
      gradients.push_back(torch::randn_like(rows.unique_rows));
    }
    // The next step's request is on its way while this one's gradients are.
    const std::vector<std::vector<int64_t>> next_ids = ids_of_step();
    request->send_gradients(gradients);
    std::unique_ptr<RowRequest> next = ask(next_ids);
    ExactSum squares;
    int64_t asked = 0;
    for (size_t t = 0; t < sizes.size(); ++t) {
      squares.add(wanted[t]->collect_gradient(gradients[t].clone()));
      asked += wanted[t]->touched_rows();
    }
    EXPECT_EQ(squares.words(), request->collect_gradients().words());
    EXPECT_EQ(asked, request->asked_rows());
    next->send_ids();
    for (size_t t = 0; t < sizes.size(); ++t) {
      EXPECT_EQ(wanted[t]->touched_rows(), shards[t]->touched_rows());
      wanted[t]->apply_gradient(0.1, 0.5);
      shards[t]->apply_gradient(0.1, 0.5);
      EXPECT_TRUE(torch::equal(wanted[t]->rows(), shards[t]->rows())) << "step " << step << ", table " << t;
    }
    next->send_rows();  // with the update of this step in them
    request = std::move(next);
    ids = next_ids;
  }
}

TEST(RowShard, RefusesRowsOfOthers) {
  RowShard shard(RowPartition(1000, 2), 1, torch::zeros({488, kDim}), {});
  torch::Tensor out = torch::empty({1, kDim});
  for (const int64_t id : {int64_t{0}, int64_t{255}, int64_t{512}, int64_t{1000}, int64_t{-1}})
    EXPECT_THROW(shard.answer(torch::tensor({id}, torch::kLong), out), c10::Error) << id;
  shard.answer(torch::tensor({int64_t{999}}, torch::kLong), out);
}

}  // namespace
}  // namespace engram
