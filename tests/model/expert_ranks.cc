// One rank of a world for expert_exchange_test.py: `expert_ranks SCENARIO`, with RANK, WORLD_SIZE and so on in the
// environment. Exit code 0, or 1 and one line on stderr.
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "engram/model/layers/expert_exchange.h"
#include "engram/model/ops/ops.h"

namespace engram {
namespace {

using torch::Tensor;

void expect_equal(const Tensor& got, const Tensor& wanted, const std::string& what) {
  TORCH_CHECK(got.sizes() == wanted.sizes() && torch::equal(got, wanted), what, " differs");
}

struct Case {
  int64_t experts, choices, dim, width;
  int64_t micro_batches;        // of each rank
  std::vector<int64_t> tokens;  // of micro-batch m: tokens[m % size]
  torch::Dtype dtype = torch::kFloat;
};

// What a micro-batch reads, the same on whichever rank makes it.
struct MicroBatch {
  Tensor x, index, weight, dy;
};

MicroBatch micro_batch(const Case& c, int64_t number) {
  torch::manual_seed(static_cast<uint64_t>(100 + number));
  const int64_t tokens = c.tokens[static_cast<size_t>(number) % c.tokens.size()];
  const Tensor scores = torch::rand({tokens, c.experts}).mul(torch::arange(c.experts) + 1);  // later experts are busier
  return {torch::randn({tokens, c.dim}).to(c.dtype).requires_grad_(), std::get<1>(scores.topk(c.choices)).contiguous(),
          torch::rand({tokens, c.choices}).requires_grad_(), torch::randn({tokens, c.dim}).to(c.dtype)};
}

struct Weights {
  Tensor gate_up, down;
};
Weights all_weights(const Case& c) {
  torch::manual_seed(1);
  return {torch::randn({c.experts, 2 * c.width, c.dim}), torch::randn({c.experts, c.dim, c.width})};
}

// Outputs and gradients are those of moe_experts() with all experts in one process, bit for bit.
void check_equal(Communicator& world, const Case& c) {
  const ExpertRanks ranks{&world, *std::ranges::max_element(c.tokens), c.micro_batches};
  const Range own = ranks.own_experts(c.experts);
  ExpertExchange exchange(ranks, c.experts);
  const Weights all = all_weights(c);
  for (int step = 0; step < 2; ++step) {
    const Weights mine = {all.gate_up.narrow(0, own.begin, own.size()).clone().requires_grad_(),
                          all.down.narrow(0, own.begin, own.size()).clone().requires_grad_()};
    PairwiseSum sums;
    for (int rank = 0; rank < world.size(); ++rank) {
      PairwiseSum of_rank;
      for (int64_t i = 0; i < c.micro_batches; ++i) {
        MicroBatch wanted = micro_batch(c, rank * c.micro_batches + i);
        const Tensor gate_up = all.gate_up.clone().requires_grad_(), down = all.down.clone().requires_grad_();
        const Tensor y = moe_experts(wanted.x, gate_up, down, wanted.index, wanted.weight);
        y.backward(wanted.dy);
        of_rank.push({gate_up.grad(), down.grad()});
        if (rank != world.rank()) continue;
        MicroBatch got = micro_batch(c, rank * c.micro_batches + i);
        const Tensor own_y = exchange.run(got.x, mine.gate_up, mine.down, got.index, got.weight);
        expect_equal(own_y, y, "y");
        own_y.backward(got.dy);
        expect_equal(got.x.grad(), wanted.x.grad(), "the gradient of x");
        expect_equal(got.weight.grad(), wanted.weight.grad(), "the gradient of the weights");
        TORCH_CHECK(mine.gate_up.grad().defined() == (i + 1 == c.micro_batches), "a gradient before the step's end");
      }
      sums.push(of_rank.finish());
    }
    const std::vector<Tensor> wanted = sums.finish();
    expect_equal(mine.gate_up.grad(), wanted[0].narrow(0, own.begin, own.size()), "the gradient of gate_up");
    expect_equal(mine.down.grad(), wanted[1].narrow(0, own.begin, own.size()), "the gradient of down");

    const c10::InferenceMode inference;  // some ranks have few tokens, and one may have none
    const MicroBatch input = micro_batch(c, world.rank() + step);
    expect_equal(exchange.run(input.x, mine.gate_up, mine.down, input.index, input.weight),
                 moe_experts(input.x, all.gate_up, all.down, input.index, input.weight), "y in inference");
  }
}

// Rank 1 says what no rank can mean; rank 0 must not believe it. `counts`: tokens, and those of four experts.
void check_hostile(Communicator& world, const std::vector<int64_t>& counts) {
  const Case c{8, 2, 8, 8, 1, {100}};
  const MicroBatch input = micro_batch(c, 0);
  const torch::NoGradGuard no_grad;
  if (world.rank() == 0) {
    const Weights all = all_weights(c);
    ExpertExchange({&world, /*most_tokens=*/100, 1}, c.experts)
        .run(input.x, all.gate_up.narrow(0, 0, 4), all.down.narrow(0, 0, 4), input.index, input.weight);
  }
  std::vector<int64_t> said = counts;
  said.insert(said.end(), counts.begin(), counts.end());
  const Tensor heard = torch::empty({10}, torch::kLong), rows = torch::empty({200, 8});
  world.all_to_all(Channel::kExpert, heard, {5, 5}, torch::tensor(said, torch::kLong), {5, 5}).wait();
  world.all_to_all(Channel::kExpert, torch::empty_like(rows), {100, 100}, rows, {100, 100}).wait();
}

Status run(const std::string& scenario) {
  ENGRAM_ASSIGN_OR_RETURN(const World world, world_from_environment(launcher_environment()));
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> all,
                          Communicator::connect(world, {"test", "recipe", "vocabulary", 1}, std::chrono::seconds(30)));
  try {
    if (scenario == "equal") {
      check_equal(*all, {7, 2, 24, 20, 1, {300, 5, 64, 0}});
      check_equal(*all, {8, 3, 16, 12, 2, {70, 512, 1}});
      check_equal(*all, {2, 1, 8, 4, 4, {40, 33}});  // more ranks than experts
      check_equal(*all, {6, 2, 24, 20, 3, {260}, torch::kBFloat16});
    } else {
      const std::map<std::string, std::vector<int64_t>> lies = {{"more", {10, 11, 0, 0, 0}},
                                                                {"negative", {10, 0, -1, 0, 0}},
                                                                {"huge", {int64_t{1} << 40, 1, 1, 1, 1}},
                                                                {"many", {10, 10, 10, 10, 10}}};
      check_hostile(*all, lies.at(scenario));
    }
  } catch (const ExchangeFailed& failed) {
    return failed.status();
  } catch (const c10::Error& error) {
    const Status status(StatusCode::kInternal, error.what_without_backtrace());
    all->fail(status);
    return status;
  }
  return {};
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  at::set_num_threads(1);
  const engram::Status status = engram::run(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
