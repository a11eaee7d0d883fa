// Gradients of two ranks, here two threads: what arrives at the owners is the pairwise sum over all micro-batches of
// the step, whatever order backward fills the buckets in, and a parameter that a backward leaves out holds nobody up.
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
  std::vector<int> owners;
};

Result run_rank(int rank, int port) {
  World world;
  world.rank = world.local_rank = rank;
  world.size = world.local_size = kRanks;
  world.host = "127.0.0.1";
  world.port = port;
  auto ranks = std::move(Communicator::connect(world, Hello(), std::chrono::seconds(60))).value();
  std::vector<torch::Tensor> parameters;
  std::vector<int64_t> costs;
  for (const auto& shape : kShapes) {
    parameters.push_back(torch::full(shape, 1.0 + rank, torch::requires_grad()));
    costs.push_back(parameters.back().numel());
  }
  GradientExchange exchange(*ranks, parameters, costs);
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
  for (size_t p = 0; p < parameters.size(); ++p) {
    result.owners.push_back(exchange.owner(p));
    result.sums[p] = result.sums[p].defined() ? result.sums[p].clone() : torch::Tensor();
    if (exchange.owns(p)) parameters[p].add_(static_cast<double>(p + 1));
  }
  exchange.start_return();
  exchange.finish_return();
  for (const torch::Tensor& parameter : parameters) result.values.push_back(parameter.detach().clone());
  return result;
}

TEST(GradientExchange, OfTwoRanksSumsPairwiseAndReturnsWeights) {
  const int port = free_port();
  std::vector<Result> results(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank)
    threads.emplace_back([&results, rank, port] { results[rank] = run_rank(rank, port); });
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(results[0].owners, results[1].owners);
  for (size_t p = 0; p < kShapes.size(); ++p) {
    std::vector<torch::Tensor> of_ranks;
    for (int rank = 0; rank < kRanks; ++rank) {
      std::vector<torch::Tensor> terms;
      for (int64_t i = 0; i < kMicroBatches; ++i) terms.push_back(factor(p, rank * kMicroBatches + i));
      of_ranks.push_back(pairwise_sum(std::move(terms)));
    }
    const torch::Tensor wanted = pairwise_sum(std::move(of_ranks));
    const int owner = results[0].owners[p];
    EXPECT_FALSE(results[1 - owner].sums[p].defined()) << p;
    EXPECT_EQ(p != kUnused, results[owner].sums[p].defined()) << p;
    if (p != kUnused) {
      EXPECT_TRUE(torch::equal(wanted, results[owner].sums[p])) << p;
    }
    for (const Result& result : results)  // rank 0's 1, and what the owner added
      EXPECT_TRUE(result.values[p].eq(1.0 + static_cast<double>(p + 1)).all().item<bool>()) << p;
  }
}

}  // namespace
}  // namespace engram
