// Golden loss curves: 50 steps of six small recipes in fp32 on one thread. A change that should change no number leaves
// them as they are, to the last bit, on the kind of machine that made them; elsewhere they agree to 1e-4 of the loss.
//
//   golden_losses            compares with tests/golden/losses
//   golden_losses --write    makes these files anew, after a change that is meant to change the numbers
// A file holds the kind of machine, and then the loss of each step as a hexadecimal floating-point number, which is
// exact.
#include <ATen/Version.h>
#include <fmt/ranges.h>
#include <hwy/targets.h>
#include <torch/utils.h>
#include <torch/version.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engram/core/json.h"
#include "engram/train/trainer.h"
#include "tests/golden/golden_files.h"

namespace engram::golden {
namespace {

namespace fs = std::filesystem;

constexpr double kElsewhere = 1e-4;  // of the loss

const char kRecipe[] = R"(
[model]
hidden_size = 32
num_hidden_layers = 3
max_position_embeddings = 64
num_attention_heads = 4
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 8
v_head_dim = 8
intermediate_size = 64
moe_intermediate_size = 16
n_routed_experts = 8
shared_expert_intermediate_size = 16
[model.engram]
n_heads = 4
head_dim = 8
[data]
sequence_length = 64
batch_size = 4
[data.synthetic]
documents = 64
[optimizer]
muon_lr = 1e-3
adamw_lr = 5e-4
warmup_steps = 5
[train]
steps = 50
threads = 1
log_every = 1000
validation_batches = 1
)";

struct Curve {
  std::string name;
  std::vector<std::string> settings;
  std::string start_from;  // another curve
};

std::vector<Curve> curves() {
  const std::string rows = "model.engram.vocab_size=[300, 500]";
  const std::string engram = "model.memory=engram", layer = "model.engram.layer_ids=[1]";
  return {{"dense", {"model.ffn=dense", "model.attention=gqa", "model.num_key_value_heads=2", "model.head_dim=8"}, ""},
          {"moe", {}, ""},
          {"engram", {engram, layer, rows}, ""},
          {"hyper", {"model.residual=hyper", "model.hc_mult=2", engram, layer, rows}, ""},
          {"over_encoding", {"model.memory=over_encoding", "model.engram.layer_ids=[0]", rows}, ""},
          {"retrofit",
           {"model.ffn=dense", "model.attention=gqa", "model.num_key_value_heads=2", "model.head_dim=8", engram, layer,
            rows, "train.freeze=[\"backbone\"]", "lora.rank=4", "lora.targets=[\"q_proj\", \"down_proj\"]"},
           "dense"}};
}

// Of the first processor.
std::string processor(const std::string& key) {
  std::ifstream lines("/proc/cpuinfo");
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key)) return line.substr(line.find(':') + 2);
  return "unknown";
}

// What decides the last bits: the processor, what the libraries may use of it, and who compiled.
std::string machine_kind() {
  std::string kind =
      fmt::format("{} family {} model {}, {}, {}, torch {}, compiler {}{}", processor("vendor_id"),
                  processor("cpu family"), processor("model\t"), at::get_cpu_capability(),
                  hwy::TargetName(hwy::SupportedTargets() & -hwy::SupportedTargets()), TORCH_VERSION, __VERSION__,
#ifdef __OPTIMIZE__
                  ""
#else
                  " without optimization"
#endif
      );
  for (const char* name : {"DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"})
    if (const char* value = std::getenv(name)) kind += fmt::format(", {}={}", name, value);
  return kind;
}

std::vector<double> train_curve(const Curve& curve, const fs::path& folder) {
  std::vector<std::string> settings = curve.settings;
  settings.push_back("train.output=" + (folder / curve.name).string());
  if (!curve.start_from.empty()) settings.push_back("train.start_from=" + (folder / curve.start_from).string());
  value_or_throw(train(Env::posix(), value_or_throw(Recipe::parse(kRecipe, curve.name, settings)), TrainOptions()));
  std::vector<double> losses;
  std::istringstream lines(value_or_throw(Env::posix().read_file(folder / curve.name / "metrics.jsonl")));
  for (std::string line; std::getline(lines, line);)
    losses.push_back(value_or_throw(parse_json(line, "metrics.jsonl")).at("loss").get<double>());
  return losses;
}

std::string file_text(const std::string& kind, const std::vector<double>& losses) {
  return fmt::format("{}\n{:a}\n", kind, fmt::join(losses, "\n"));
}

// What is wrong with a curve, or nothing.
std::string compare(const std::string& path, const std::string& kind, const std::vector<double>& losses) {
  std::istringstream file(value_or_throw(Env::posix().read_file(path)));
  std::string made_by, number;
  std::getline(file, made_by);
  double worst = 0;
  size_t step = 0;
  for (; std::getline(file, number); ++step) {
    if (step >= losses.size()) break;
    const double wanted = std::strtod(number.c_str(), nullptr);
    if (made_by == kind && losses[step] != wanted)
      return fmt::format("{}: step {}: got {:a} ({}), wanted {} ({})", path, step + 1, losses[step], losses[step],
                         number, wanted);
    worst = std::max(worst, std::abs(losses[step] - wanted) / wanted);
  }
  if (step != losses.size()) return fmt::format("{}: got {} losses, wanted {}", path, losses.size(), step);
  std::printf("  %s: %s\n", path.c_str(),
              made_by == kind ? "equal" : fmt::format("within {:.1e}, made by {}", worst, made_by).c_str());
  if (worst <= kElsewhere) return "";
  return fmt::format("{}: differs by {:.1e} of the loss, wanted at most {:.0e}", path, worst, kElsewhere);
}

int run(bool write) {
  at::set_num_threads(1);
  const std::string kind = machine_kind();
  std::printf("%s\n", kind.c_str());
  const fs::path folder = fs::temp_directory_path() / fmt::format("engram_golden_losses_{}", ::getpid());
  int failures = 0;
  const std::vector<Curve> all = curves();
  for (const Curve& curve : all) {
    const std::vector<double> losses = train_curve(curve, folder);
    const std::string path = fmt::format("{}/tests/golden/losses/{}.txt", ENGRAM_SOURCE_DIR, curve.name);
    if (write) throw_if_error(write_file_atomic(Env::posix(), path, file_text(kind, losses)));
    const std::string failure = compare(path, kind, losses);
    if (!failure.empty()) std::printf("golden: FAILED: %s\n", failure.c_str());
    failures += failure.empty() ? 0 : 1;
  }
  fs::remove_all(folder);
  std::printf("golden: %zu loss curves\n", all.size());
  return failures > 0 ? 1 : 0;
}

}  // namespace
}  // namespace engram::golden

int main(int argc, char** argv) {
  try {
    return engram::golden::run(argc > 1 && std::string(argv[1]) == "--write");
  } catch (const std::exception& error) {
    std::printf("golden: FAILED: %s\n", error.what());
    return 1;
  }
}
