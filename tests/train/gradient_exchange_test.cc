// Gradients of two ranks, here two threads: what arrives at the owners is the pairwise sum over all micro-batches of
// the step, whatever order backward fills the buckets in, and a parameter that a backward leaves out holds nobody up.
// A parameter that is larger than half of them all is divided where it may be.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <torch/torch.h>

#include <thread>

#include "engram/train/gradient_exchange.h"

namespace engram {
namespace {

constexpr int kRanks = 2;
constexpr int64_t kMicroBatches = 3;  // of each rank

int free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  EXPECT_EQ(0, bind(fd, generic, size) + getsockname(fd, generic, &size));
  close(fd);
  return ntohs(address.sin_port);
}

// The second is in no loss; the first two and the last two share buckets, the third is a bucket.
const std::vector<std::vector<int64_t>> kShapes = {{300, 7}, {20}, {3, 1000, 400}, {11}, {50, 20}};
constexpr size_t kUnused = 1;

// The gradient of a loss sum(w * factor).
torch::Tensor factor(size_t parameter, int64_t micro_batch) {
  const torch::Tensor numbers = torch::arange(torch::zeros(kShapes[parameter]).numel(), torch::kDouble);
  return ((numbers + 1) * 0.1 * static_cast<double>(micro_batch + 1)).sin().to(torch::kFloat).view(kShapes[parameter]);
}

struct Result {
  std::vector<torch::Tensor> sums, values;
  std::vector<std::vector<int64_t>> begins;
};

Result run_rank(int rank, int port, int64_t unit) {
  World world;
  world.rank = world.local_rank = rank;
  world.size = world.local_size = kRanks;
  world.host = "127.0.0.1";
  world.port = port;
  auto ranks = std::move(Communicator::connect(world, Hello(), std::chrono::seconds(60))).value();
  std::vector<torch::Tensor> parameters;
  std::vector<ExchangedParameter> exchanged;
  for (const auto& shape : kShapes) {
    parameters.push_back(torch::full(shape, 1.0 + rank, torch::requires_grad()));
    exchanged.push_back({parameters.back(), parameters.back().numel(), unit, /*group=*/exchanged.size() / 2});
  }
  GradientExchange exchange(*ranks, exchanged);
  exchange.send_parameters();
  Result result;
  for (int step = 0; step < 2; ++step) {
    for (int64_t i = 0; i < kMicroBatches; ++i) {
      torch::Tensor loss = torch::zeros({});
      for (size_t p = 0; p < parameters.size(); ++p)
        if (p != kUnused) loss = loss + (parameters[p] * factor(p, rank * kMicroBatches + i)).sum();
      exchange.begin_backward(i == kMicroBatches - 1);
      loss.backward();
      exchange.end_backward();
      for (const torch::Tensor& parameter : parameters) EXPECT_FALSE(parameter.grad().defined());
    }
    result.sums = exchange.finish_sum();
  }
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> own = exchange.own();
  for (size_t p = 0; p < parameters.size(); ++p) {
    result.begins.push_back(exchange.begins(p));
    result.sums[p] = result.sums[p].defined() ? result.sums[p].clone() : torch::Tensor();
    if (own[p].defined()) own[p].detach().add_(static_cast<double>(p + 1));
  }
  for (size_t group = 0; group < 3; ++group) exchange.start_return(group);
  exchange.finish_return();
  for (const torch::Tensor& parameter : parameters) result.values.push_back(parameter.detach().clone());
  return result;
}

std::vector<Result> run_ranks(int64_t unit) {
  const int port = free_port();
  std::vector<Result> results(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank)
    threads.emplace_back([&results, rank, port, unit] { results[rank] = run_rank(rank, port, unit); });
  for (std::thread& thread : threads) thread.join();
  return results;
}

void expect_sums_and_values(const std::vector<Result>& results) {
  for (size_t p = 0; p < kShapes.size(); ++p) {
    std::vector<torch::Tensor> of_ranks;
    for (int rank = 0; rank < kRanks; ++rank) {
      std::vector<torch::Tensor> terms;
      for (int64_t i = 0; i < kMicroBatches; ++i) terms.push_back(factor(p, rank * kMicroBatches + i));
      of_ranks.push_back(pairwise_sum(std::move(terms)));
    }
    const torch::Tensor wanted = pairwise_sum(std::move(of_ranks));
    const std::vector<int64_t>& begins = results[0].begins[p];
    EXPECT_EQ(begins, results[1].begins[p]);
    EXPECT_EQ(kShapes[p][0], begins.back());
    for (int rank = 0; rank < kRanks; ++rank) {
      const torch::Tensor& sum = results[rank].sums[p];
      ASSERT_EQ(p != kUnused && begins[rank] < begins[rank + 1], sum.defined()) << p;
      if (sum.defined()) {
        EXPECT_TRUE(torch::equal(wanted.narrow(0, begins[rank], begins[rank + 1] - begins[rank]), sum)) << p;
      }
    }
    for (const Result& result : results)  // rank 0's 1, and what the owner added
      EXPECT_TRUE(result.values[p].eq(1.0 + static_cast<double>(p + 1)).all().item<bool>()) << p;
  }
}

TEST(GradientExchange, OfTwoRanksSumsPairwiseAndReturnsWeights) {
  const std::vector<Result> results = run_ranks(/*unit=*/0);
  for (const std::vector<int64_t>& begins : results[0].begins) EXPECT_TRUE(begins[1] == 0 || begins[1] == begins[2]);
  expect_sums_and_values(results);
}

TEST(GradientExchange, DividesWhatIsLargerThanAShare) {
  const std::vector<Result> results = run_ranks(/*unit=*/2);
  EXPECT_EQ((std::vector<int64_t>{0, 2, 3}), results[0].begins[2]);  // units of rows [0, 2) and [2, 3)
  expect_sums_and_values(results);
}

}  // namespace
}  // namespace engram
