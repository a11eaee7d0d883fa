#include "bench/exchange_bench.h"

#include <torch/types.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "bench/process.h"
#include "engram/dist/partition.h"

namespace engram::bench {
namespace {

using torch::Tensor;

// Seconds of one call: the median of `rounds` means over `repetitions`, after a first call.
template <typename Call>
double time_of(int rounds, int64_t repetitions, const Call& call) {
  call();
  std::vector<double> means;
  for (int round = 0; round < rounds; ++round) {
    const double start = now_seconds();
    for (int64_t i = 0; i < repetitions; ++i) call();
    means.push_back((now_seconds() - start) / static_cast<double>(repetitions));
  }
  return median(means);
}

nlohmann::ordered_json time_message(Communicator& world, int rounds, int64_t floats) {
  const int size = world.size();
  std::vector<int64_t> splits;
  for (int rank = 0; rank < size; ++rank) splits.push_back(even_range(floats, size, rank).size());
  const std::vector<int64_t> mine(size, splits[world.rank()]);
  const Tensor in = torch::zeros({floats}), out = torch::zeros({mine[0] * size});
  const int64_t repetitions = std::clamp<int64_t>((int64_t{1} << 22) / floats, 3, 500);
  const double seconds =
      time_of(rounds, repetitions, [&] { world.all_to_all(Channel::kDense, out, mine, in, splits).wait(); });
  const auto sent = static_cast<double>((floats - splits[world.rank()]) * int64_t{sizeof(float)});
  return {{"floats", floats}, {"seconds", seconds}, {"bytes_per_second", sent / seconds}};
}

// Distinct rows of a step, spread evenly over a table, as they go to their owners.
nlohmann::ordered_json time_step(Communicator& world, const ExchangeBenchOptions& options, int64_t width) {
  const int size = world.size();
  const RowPartition table(options.rows * 20, size);
  std::vector<std::vector<int64_t>> ids(size);
  for (int64_t i = 0; i < options.rows; ++i) ids[table.owner(i * 20)].push_back(table.local(i * 20));
  std::vector<int64_t> asked, all;
  for (const std::vector<int64_t>& owned : ids) {
    asked.push_back(static_cast<int64_t>(owned.size()));
    all.insert(all.end(), owned.begin(), owned.end());
  }
  const std::vector<int64_t> ones(size, 1);
  const Tensor counts_out = torch::tensor(asked), counts_in = torch::zeros_like(counts_out);
  const auto counts = [&] { world.all_to_all(Channel::kTable, counts_in, ones, counts_out, ones).wait(); };
  const double counts_seconds = time_of(options.rounds, 20, counts);
  const std::vector<int64_t> answered(counts_in.data_ptr<int64_t>(), counts_in.data_ptr<int64_t>() + size);
  const int64_t total = std::accumulate(answered.begin(), answered.end(), int64_t{0});
  const Tensor ids_out = torch::tensor(all), ids_in = torch::empty({total}, torch::kLong);
  const Tensor rows_here = torch::zeros({options.rows, width}), rows_there = torch::zeros({total, width});
  const double ids_seconds =
      time_of(options.rounds, 5, [&] { world.all_to_all(Channel::kTable, ids_in, answered, ids_out, asked).wait(); });
  const double rows_seconds = time_of(
      options.rounds, 5, [&] { world.all_to_all(Channel::kTable, rows_here, asked, rows_there, answered).wait(); });
  const double gradients_seconds = time_of(
      options.rounds, 5, [&] { world.all_to_all(Channel::kTable, rows_there, answered, rows_here, asked).wait(); });
  const int64_t row_bytes = width * int64_t{sizeof(float)}, rank = world.rank();
  const int64_t sent =
      8 * (size - 1) + (options.rows - asked[rank]) * (8 + row_bytes) + (total - answered[rank]) * row_bytes;
  return {{"rows", options.rows},
          {"row_bytes", row_bytes},
          {"counts_seconds", counts_seconds},
          {"ids_seconds", ids_seconds},
          {"rows_seconds", rows_seconds},
          {"gradients_seconds", gradients_seconds},
          {"seconds", counts_seconds + ids_seconds + rows_seconds + gradients_seconds},
          {"bytes_sent", sent}};
}

}  // namespace

nlohmann::ordered_json run_exchange_bench(Communicator& world, const ExchangeBenchOptions& options) {
  nlohmann::ordered_json result = {{"ranks", world.size()}, {"rounds", options.rounds}};
  for (const int64_t floats : {int64_t{16}, int64_t{1} << 12, int64_t{1} << 16, int64_t{1} << 20, int64_t{1} << 24})
    result["messages"].push_back(time_message(world, options.rounds, floats));
  for (const int64_t width : {16, 64}) result["steps"].push_back(time_step(world, options, width));
  return result;
}

}  // namespace engram::bench
