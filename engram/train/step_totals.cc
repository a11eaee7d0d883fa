#include "engram/train/step_totals.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace engram {
namespace {

template <typename Number>
torch::Tensor joined(std::initializer_list<const std::vector<Number>*> parts) {
  std::vector<Number> all;
  for (const std::vector<Number>* part : parts) all.insert(all.end(), part->begin(), part->end());
  return torch::tensor(all, c10::CppTypeToScalarType<Number>::value);
}

template <typename Number>
void divide(const torch::Tensor& sums, std::initializer_list<std::vector<Number>*> parts) {
  const Number* next = sums.const_data_ptr<Number>();
  for (std::vector<Number>* part : parts) {
    std::copy_n(next, part->size(), part->begin());
    next += part->size();
  }
}

}  // namespace

double StepTotals::gradient_norm() const {
  return std::sqrt(std::accumulate(gradient_squares.begin(), gradient_squares.end(), exact_squares.value()));
}

double StepTotals::loss() const { return std::accumulate(losses.begin(), losses.end(), 0.0); }

void add_over_ranks(Communicator& ranks, StepTotals& totals) {
  if (ranks.size() == 1) return;
  const ExactSum::Words words = totals.exact_squares.words();
  std::vector<int64_t> counts(words.begin(), words.end());
  counts.push_back(totals.asked_rows);
  counts.push_back(totals.stop ? 1 : 0);
  torch::Tensor numbers = joined<double>({&totals.gradient_squares, &totals.losses, &totals.gate_means});
  torch::Tensor integers = joined<int64_t>({&counts, &totals.touched_rows, &totals.expert_loads});
  Exchange first = ranks.sum(Channel::kControl, numbers), second = ranks.sum(Channel::kControl, integers);
  first.wait();
  second.wait();
  divide<double>(numbers, {&totals.gradient_squares, &totals.losses, &totals.gate_means});
  divide<int64_t>(integers, {&counts, &totals.touched_rows, &totals.expert_loads});
  ExactSum::Words sums;
  std::copy_n(counts.begin(), sums.size(), sums.begin());
  totals.exact_squares = ExactSum::from_words(sums);
  totals.asked_rows = counts[sums.size()];
  totals.stop = counts[sums.size() + 1] > 0;
}

}  // namespace engram
