#include "engram/train/step_meter.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <utility>

#include "engram/core/machine.h"
#include "engram/core/progress.h"

namespace engram {
namespace {

constexpr std::pair<const char*, double StepSeconds::*> kParts[] = {{"data", &StepSeconds::data},
                                                                    {"forward", &StepSeconds::forward},
                                                                    {"backward", &StepSeconds::backward},
                                                                    {"optimizers", &StepSeconds::optimizers},
                                                                    {"exchange", &StepSeconds::exchange}};

}  // namespace

void add_histograms(const StepResult& step, const ModelConfig& config, nlohmann::ordered_json& line) {
  const auto add = [&line](const char* name, const std::vector<int64_t>& counts, int bins, double high) {
    for (size_t i = 0; i * static_cast<size_t>(bins) < counts.size(); ++i) {
      const auto first = counts.begin() + static_cast<int64_t>(i) * bins;
      line["histograms"][fmt::format("{}/{}", name, i)] = {
          {"low", 0}, {"high", high}, {"counts", std::vector<int64_t>(first, first + bins)}};
    }
  };
  add("gate", step.gate_counts, kGateBins, 1);
  add("expert_load", step.expert_counts, config.n_routed_experts, config.n_routed_experts);
}

StepMeter::StepMeter(const RunInputs& inputs, int ranks) : device_(inputs.recipe.train.device), ranks_(ranks) {
  const Recipe& recipe = inputs.recipe;
  if (!recipe.train.freeze.empty()) return;
  token_flops_ = training_flops_per_token(recipe.model, inputs.parameters, recipe.data.sequence_length);
  rate_ = matrix_rate(device_, recipe.train.dtype == TrainDtype::kBf16);
}

std::string StepMeter::describe() const {
  if (token_flops_ == 0) return "";
  return fmt::format("{} FLOPs a token; matrix products reach {} FLOPs a second ({}){}", format_count(token_flops_),
                     format_count(rate_.flops), rate_.source, ranks_ > 1 ? " in each rank" : "");
}

double StepMeter::utilisation(double positions, double seconds) const {
  return token_flops_ == 0 ? 0 : positions * token_flops_ / (seconds * rate_.flops * ranks_);
}

void StepMeter::add(const StepResult& step, double seconds, nlohmann::ordered_json& line) {
  const auto positions = static_cast<double>(step.positions);
  line["tokens_per_second"] = tokens_per_second_ = positions / seconds;
  mfu_ = utilisation(positions, seconds);
  if (token_flops_ > 0) line["mfu"] = mfu_;
  for (const auto& [name, part] : kParts) {
    parts_.*part += step.seconds.*part;
    if (part != &StepSeconds::exchange || ranks_ > 1) line["step_seconds"][name] = step.seconds.*part;
  }
  line["peak_rss_bytes"] = peak_rss_bytes();
  if (device_.is_cuda()) {
    const auto stats = c10::getDeviceAllocator(c10::kCUDA)->getDeviceStats(device_.has_index() ? device_.index() : 0);
    line["peak_device_bytes"] = stats.allocated_bytes[0].peak;
  }
  ++steps_;
  positions_ += positions;
  seconds_ += seconds;
}

std::string StepMeter::last() const {
  return fmt::format("{} tokens/s{}", format_count(tokens_per_second_),
                     token_flops_ > 0 ? fmt::format(", {:.1f} % MFU", 100 * mfu_) : "");
}

void StepMeter::fill(TrainSummary& summary) const {
  if (steps_ == 0) return;
  summary.mfu = utilisation(positions_, seconds_);
  for (const auto& [name, part] : kParts)
    if (part != &StepSeconds::exchange || ranks_ > 1) summary.step_seconds[name] = parts_.*part / steps_;
}

}  // namespace engram
