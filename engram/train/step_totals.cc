#include "engram/train/step_totals.h"

#include <torch/types.h>

#include <bit>
#include <cmath>
#include <numeric>
#include <type_traits>

namespace engram {
namespace {

// Calls each(number) for all, in one order.
template <typename Each>
void for_each_number(StepTotals& totals, ExactSum::Words& words, int64_t& stop, const Each& each) {
  for (std::vector<double>* numbers : {&totals.losses, &totals.gate_means})
    for (double& number : *numbers) each(number);
  for (std::vector<int64_t>* numbers : {&totals.touched_rows, &totals.expert_loads, &totals.gate_counts})
    for (int64_t& number : *numbers) each(number);
  for (int64_t& word : words) each(word);
  each(totals.asked_rows);
  each(totals.targets);
  each(stop);
}

}  // namespace

double StepTotals::gradient_norm() const { return std::sqrt(squares.value()); }

double StepTotals::loss() const { return std::accumulate(losses.begin(), losses.end(), 0.0); }

void add_over_ranks(Communicator& ranks, StepTotals& totals) {
  if (ranks.size() == 1) return;
  ExactSum::Words words = totals.squares.words();
  int64_t stop = totals.stop ? 1 : 0;
  // A double that one rank has comes through as its bits: those of the others are 0.
  std::vector<int64_t> numbers;
  for_each_number(totals, words, stop, [&](auto& number) { numbers.push_back(std::bit_cast<int64_t>(number)); });
  ranks.sum(Channel::kControl, torch::from_blob(numbers.data(), {std::ssize(numbers)}, torch::kLong)).wait();
  const int64_t* next = numbers.data();
  for_each_number(totals, words, stop,
                  [&](auto& number) { number = std::bit_cast<std::decay_t<decltype(number)>>(*next++); });
  totals.squares = ExactSum::from_words(words);
  totals.stop = stop > 0;
}

}  // namespace engram
