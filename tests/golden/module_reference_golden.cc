// reference/engram.cpp against the demo's module: hashes exactly, gates and output within 1e-6 of the largest value.
// The library's layout must derive the same multipliers and primes from the file's configuration.
#define ENGRAM_REFERENCE_WITHOUT_MAIN
#include "reference/engram.cpp"

#include "engram/core/json.h"
#include "engram/hash/layout.h"
#include "tests/golden/deepseek_map.h"
#include "tests/golden/golden_files.h"

namespace engram::golden {
namespace {

namespace reference = engram_reference;

constexpr double kTolerance = 1e-6;  // of a computation in double against results rounded to float32

void check_hashes(const reference::File& file, const reference::Config& config, GoldenOutcome& outcome) {
  const TokenMap map = value_or_throw(deepseek_token_map());
  const int64_t pad = map.ids()[std::stoul(file.metadata("pad_id"))];
  const reference::Ids token_ids = file.values<int64_t>("token_ids");
  const size_t length = static_cast<size_t>(file.shape("token_ids").at(1));
  reference::Ids hashes;
  for (size_t begin = 0; begin < token_ids.size(); begin += length) {
    reference::Ids canonical;
    for (size_t t = begin; t < begin + length; ++t) canonical.push_back(map.ids()[static_cast<size_t>(token_ids[t])]);
    const reference::Ids z = reference::hash(config, canonical, pad);
    hashes.insert(hashes.end(), z.begin(), z.end());
  }
  if (hashes != file.values<int64_t>("hashes")) outcome.failures.push_back("hashes differ");
}

void check_layout(const reference::File& file, const reference::Config& config, GoldenOutcome& outcome) {
  EngramConfig engram;
  for (int64_t id : reference::integers_in(file.metadata("layers"))) engram.layer_ids.push_back(static_cast<int>(id));
  engram.max_ngram_size = config.N;
  engram.n_heads = config.K;
  engram.vocab_size = reference::integers_in(file.metadata("vocab_size_per_ngram"));
  engram.seed = std::stoll(file.metadata("seed"));
  engram.compressed_vocab_size = value_or_throw(deepseek_token_map()).compressed_vocab_size();
  const EngramLayout layout = value_or_throw(EngramLayout::create(engram, 2));
  const auto& ids = engram.layer_ids;
  const int layer = static_cast<int>(std::ranges::find(ids, std::stoi(file.metadata("layer"))) - ids.begin());
  if (!std::ranges::equal(layout.multipliers(layer), config.multipliers)) {
    outcome.failures.push_back("the layout's multipliers differ");
  }
  if (!std::ranges::equal(layout.primes(layer), config.primes))
    outcome.failures.push_back("the layout's primes differ");
  if (!std::ranges::equal(layout.offsets(layer), file.values<int64_t>("offsets"))) {
    outcome.failures.push_back("the layout's offsets differ");
  }
}

void check_tensor(const char* name, const reference::Vector& got, const reference::File& file, GoldenOutcome& outcome) {
  const double difference = reference::relative_difference(got, file.values<double>(name));
  std::printf("  %-6s differ by %.1e of the largest\n", name, difference);
  if (difference <= kTolerance) return;
  outcome.failures.push_back(
      fmt::format("{} differ by {:.1e} of the largest, allowed {:.1e}", name, difference, kTolerance));
}

GoldenOutcome check_file(const std::string& path) {
  GoldenOutcome outcome;
  try {
    const reference::File file(path);
    const reference::Config config = reference::read_config(file);
    const reference::Weights weights = reference::read_weights(file, config);
    const reference::Output output = reference::forward_batch(file, config, weights, file.values<int64_t>("hashes"));
    check_tensor("gates", output.gates, file, outcome);
    check_tensor("output", output.Y, file, outcome);
    if (deepseek_token_map().status().code() == StatusCode::kNotFound) {
      outcome.skipped = "its hashes need the DeepSeek tokenizer: " + deepseek_token_map().status().message();
    } else {
      check_hashes(file, config, outcome);
      check_layout(file, config, outcome);
    }
    ++outcome.cases;
  } catch (const std::exception& error) {
    outcome.failures.push_back(error.what());
  }
  return outcome;
}

}  // namespace
}  // namespace engram::golden

int main() { return engram::golden::run_golden(engram::golden::GoldenKind::kModule, engram::golden::check_file); }
