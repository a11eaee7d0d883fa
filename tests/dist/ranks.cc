// One rank of a world, for communicator_test.py: `dist_ranks SCENARIO TIME-OUT`, with RANK, WORLD_SIZE and so on in the
// environment. It says "loaded" and waits for a line on stdin, so that all start at once however busy the machine is.
// Exit code 0 and "ok" on stdout, or 1 and one line on stderr.
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "engram/dist/communicator.h"

namespace engram {
namespace {

using torch::Tensor;

void expect(bool true_, const char* what) { TORCH_CHECK(true_, "wrong: ", what); }

// Element i of what rank `from` sends rank `to` has a value that names all three.
Tensor message(int from, int to, int64_t rows, at::ScalarType type) {
  const Tensor numbers = torch::arange(rows * 2, torch::kLong).view({rows, 2}) + from * 7 + to * 31;
  return (numbers % 100).to(type);
}

// Rank s sends rank r `rows(s, r)` rows.
template <typename Rows>
void check_all_to_all(Communicator& world, Channel channel, at::ScalarType type, const Rows& rows) {
  std::vector<int64_t> out_splits, in_splits;
  std::vector<Tensor> out_parts, in_parts;
  for (int other = 0; other < world.size(); ++other) {
    out_splits.push_back(rows(other, world.rank()));
    in_splits.push_back(rows(world.rank(), other));
    out_parts.push_back(message(other, world.rank(), out_splits.back(), type));
    in_parts.push_back(message(world.rank(), other, in_splits.back(), type));
  }
  const Tensor wanted = torch::cat(out_parts), out = torch::zeros_like(wanted);
  world.all_to_all(channel, out, out_splits, torch::cat(in_parts), in_splits).wait();
  expect(out.equal(wanted), "all_to_all");
}

void check_verbs(Communicator& world) {
  const int rank = world.rank(), size = world.size();
  for (const auto type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kByte}) {
    const Channel channel = static_cast<Channel>(static_cast<int>(type) % kChannels);
    check_all_to_all(world, channel, type, [](int, int) { return 3; });
    check_all_to_all(world, channel, type, [](int from, int to) { return from * 5 + to; });
    check_all_to_all(world, channel, type, [](int from, int to) { return from == to ? 0 : 4; });
    check_all_to_all(world, channel, type, [](int from, int) { return from == 0 ? 1000 : 0; });
    check_all_to_all(world, channel, type, [](int, int to) { return to == 0 ? 70000 : 0; });
    check_all_to_all(world, channel, type, [](int, int) { return 0; });
    for (int root = 0; root < size; ++root) {
      const Tensor tensor = message(rank, 0, 50, type);
      world.broadcast(channel, tensor, root).wait();
      expect(tensor.equal(message(root, 0, 50, type)), "broadcast");
    }
    const Tensor gathered = torch::zeros({size, 5, 2}, type);
    world.all_gather(channel, gathered, message(rank, 1, 5, type)).wait();
    for (int other = 0; other < size; ++other) expect(gathered[other].equal(message(other, 1, 5, type)), "all_gather");
  }
  const Tensor integers = torch::full({1000}, (int64_t{1} << 40) + rank), slots = torch::zeros({size}, at::kDouble);
  world.sum(Channel::kControl, integers).wait();
  expect(integers.eq((int64_t{1} << 40) * size + size * (size - 1) / 2).all().item<bool>(), "sum of int64");
  slots[rank] = 0.1 * (rank + 1);
  world.sum(Channel::kControl, slots).wait();
  for (int other = 0; other < size; ++other) expect(slots[other].item<double>() == 0.1 * (other + 1), "sum of slots");
}

// Started in another order on each rank, over channels; in order within one.
void check_channels(Communicator& world) {
  constexpr int kEach = 20;
  std::vector<Exchange> exchanges;
  std::vector<Tensor> outs;
  const std::vector<int64_t> splits(world.size(), 1);
  const auto start = [&](int channel, int round) {
    outs.push_back(torch::zeros({world.size(), 100}));
    exchanges.push_back(world.all_to_all(static_cast<Channel>(channel), outs.back(), splits,
                                         torch::full({world.size(), 100}, channel * 1000.f + round), splits));
  };
  for (int i = 0; i < kChannels; ++i)
    for (int round = 0; round < kEach; ++round) start((i + world.rank()) % kChannels, round);
  for (size_t i = 0; i < exchanges.size(); ++i) {
    exchanges[i].wait();
    expect(exchanges[i].done(), "done after wait");
    const int channel = (static_cast<int>(i) / kEach + world.rank()) % kChannels;
    expect(outs[i].eq(channel * 1000.f + static_cast<int>(i) % kEach).all().item<bool>(), "channels");
  }
  { const Exchange dropped = world.all_gather(Channel::kTable, torch::zeros({world.size()}), torch::ones({1})); }
  const ChannelStats stats = world.stats(Channel::kDense);
  expect(stats.calls >= kEach && (world.size() == 1) == (stats.bytes_sent == 0), "stats");
}

void check_refusals(Communicator& world) {
  const auto refused = [](const auto& call) {
    try {
      call();
    } catch (const c10::Error&) {
      return true;
    }
    return false;
  };
  const std::vector<int64_t> splits(world.size(), 1), more(world.size(), 2);
  const Tensor tensor = torch::zeros({world.size(), 4});
  expect(refused([&] { world.all_to_all(Channel::kDense, tensor, splits, tensor.clone(), more).wait(); }), "splits");
  expect(refused([&] { world.all_to_all(Channel::kDense, tensor, splits, tensor.clone(), {}).wait(); }), "no splits");
  expect(refused([&] { world.broadcast(Channel::kDense, torch::zeros({4, 4}).t(), 0).wait(); }), "not contiguous");
  expect(refused([&] { world.sum(Channel::kDense, tensor).wait(); }), "a sum of floats");
  expect(refused([&] { world.all_gather(Channel::kDense, tensor, tensor).wait(); }) == (world.size() > 1), "shapes");
}

void check_agree(Communicator& world, std::chrono::seconds timeout) {
  expect(world.agree({}, timeout).ok(), "all agree");
  for (int failing = 0; failing < world.size(); ++failing) {
    // The lowest rank that fails is heard.
    const Status mine = world.rank() >= failing ? invalid_argument("bad shard {}", world.rank()) : Status();
    const Status all = world.agree(mine, timeout);
    expect(all.code() == StatusCode::kInvalidArgument, "code of agree");
    const std::string wanted = fmt::format("bad shard {}", failing);
    expect(all.message() == (world.size() == 1 ? wanted : fmt::format("rank {}: {}", failing, wanted)), "agree");
  }
  const std::string text = world.agree(data_loss("{}", std::string(5000, 'x')), timeout).message();
  expect(text.size() >= 1000, "a long message");
}

// Exchanges until one fails.
void loop(Communicator& world) {
  const std::vector<int64_t> splits(world.size(), 1000);
  for (int round = 0;; ++round) {
    const Tensor in = torch::zeros({world.size() * 1000, 4});
    world.all_to_all(Channel::kTable, torch::empty_like(in), splits, in, splits).wait();
    if (round == 0) {
      std::puts("ready");
      std::fflush(stdout);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Status run(const std::string& scenario, std::chrono::seconds timeout) {
  ENGRAM_ASSIGN_OR_RETURN(const World world, world_from_environment(launcher_environment()));
  const char* recipe = std::getenv("HELLO_RECIPE");
  const Hello hello = {"test", recipe != nullptr ? recipe : "a recipe", "a vocabulary", 1000};
  const double start = now();
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> communicator,
                          Communicator::connect(world, hello, timeout));
  Communicator& all = *communicator;
  const double connected = now();
  try {
    if (scenario == "verbs") {
      check_verbs(all);
      check_channels(all);
      check_refusals(all);
      check_agree(all, timeout);
    } else if (scenario == "patience") {  // longer than the time-out
      if (all.rank() == 1) std::this_thread::sleep_for(timeout + std::chrono::seconds(1));
      expect(all.agree({}, 3 * timeout).ok(), "agree waits");
    } else if (scenario == "late") {
      if (all.rank() == 1) std::this_thread::sleep_for(3 * timeout);
      loop(all);
    } else if (scenario == "exit" || scenario == "fail") {
      const Tensor tensor = torch::ones({1000});
      all.broadcast(Channel::kDense, tensor, 0).wait();
      if (all.rank() + 1 == all.size() && scenario == "exit") _exit(3);
      if (all.rank() + 1 == all.size()) throw std::runtime_error("the disk is full");
      loop(all);
    } else if (scenario == "rank0") {
      if (all.rank() == 0) throw std::runtime_error("the disk is full");
      loop(all);
    } else if (scenario == "speed") {
      const std::vector<int64_t> splits(all.size(), 4);
      const Tensor in = torch::zeros({all.size() * 4}), out = torch::zeros_like(in);
      for (int i = 0; i < 200; ++i) all.all_to_all(Channel::kDense, out, splits, in, splits).wait();
      const double begin = now();
      for (int i = 0; i < 1000; ++i) all.all_to_all(Channel::kDense, out, splits, in, splits).wait();
      fmt::print("set-up {:.1f} ms, all_to_all {:.1f} us\n", 1e3 * (connected - start), 1e3 * (now() - begin));
    } else {
      loop(all);
    }
  } catch (const ExchangeFailed& failed) {
    return failed.status();
  } catch (const c10::Error& error) {
    all.fail(Status(StatusCode::kInternal, error.what_without_backtrace()));
    return Status(StatusCode::kInternal, error.what_without_backtrace());
  } catch (const std::exception& error) {
    all.fail(Status(StatusCode::kInternal, error.what()));
    return Status(StatusCode::kInternal, error.what());
  }
  return {};
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  at::set_num_threads(1);
  std::puts("loaded");
  std::fflush(stdout);
  if (std::getchar() == EOF) return 2;
  const engram::Status status = engram::run(argv[1], std::chrono::seconds(std::atoi(argv[2])));
  if (status.ok()) return std::puts("ok") < 0;
  fmt::print(stderr, "error: {}\n", status.message());
  return 1;
}
