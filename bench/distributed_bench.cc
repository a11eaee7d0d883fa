#include "bench/distributed_bench.h"

#include <algorithm>
#include <map>
#include <regex>

#include "bench/larger_worlds.h"
#include "bench/process.h"
#include "bench/two_hosts.h"
#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/formats/safetensors.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kWarmUp = 5;                    // steps that do not count
constexpr int kAfter = 1;                     // nor does the last one, which asks for no rows of a next one
constexpr int kSequences = 4, kLength = 256;  // of a micro-batch
constexpr std::array kChannels = {"control", "dense", "table", "expert"};

struct Cell {
  std::string name, title, recipe;
  std::vector<std::string> settings;
};

// What metrics.jsonl says of a run: medians over its measured steps.
struct Run {
  double tokens_per_second = 0;
  std::map<std::string, double> exchange;
  double distinct_rows = 0;
};

// What is known of a cell after some rounds.
struct Measured {
  std::map<std::string, std::vector<double>> values;
  Run run;  // of the last round's ranks
  Json config;
  std::vector<Weight> weights;
};

Json to_json(const std::vector<double>& values) {
  const Spread spread = spread_of(values);
  return {{"median", spread.median}, {"min", spread.low}, {"max", spread.high}};
}

double median_of(const Json& object) { return object.at("median").get<double>(); }

std::vector<Cell> make_cells(const std::string& folder) {
  const std::string moe = folder + "/demo_moe_cpu.toml", engram = folder + "/demo_engram_cpu.toml";
  return {{"moe", "the demo's MoE", moe, {}},
          {"engram", "the demo's Engram", engram, {}},
          {"wide",
           "Engram, d = 256",
           engram,
           {"model.hidden_size=256", "model.kv_lora_rank=64", "model.qk_nope_head_dim=32", "model.qk_rope_head_dim=16",
            "model.v_head_dim=64", "model.moe_intermediate_size=64", "model.shared_expert_intermediate_size=64"}},
          {"table",
           "Engram, 4M rows",
           "",  // the demo's, without [allocation], which would set the number of rows
           {"model.memory=engram", "model.engram.vocab_size=[250000, 250000]", "optimizer.table_state=row"}},
          {"experts", "the demo's MoE, experts shared out", moe, {"train.shard_experts=true"}}};
}

Result<Run> read_run(Env& env, const std::string& output, int steps) {
  const std::string path = output + "/metrics.jsonl";
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
  std::vector<double> rates, distinct;
  std::map<std::string, std::vector<double>> exchange;
  size_t begin = 0;
  for (int step = 1; begin < text.size(); ++step) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    ENGRAM_ASSIGN_OR_RETURN(const auto line, parse_json(std::string_view(text).substr(begin, end - begin), path));
    begin = end + 1;
    if (step <= kWarmUp || step > kWarmUp + steps) continue;
    rates.push_back(line.at("tokens_per_second").get<double>());
    distinct.push_back(line.value("touched_rows", 0.0));
    if (!line.contains("exchange")) continue;
    for (const auto& [name, value] : line.at("exchange").items()) exchange[name].push_back(value.get<double>());
  }
  if (rates.empty()) return make_status(StatusCode::kInternal, "{}: got no measured step", path);
  Run run{median(rates), {}, median(distinct)};
  for (const auto& [name, values] : exchange) run.exchange[name] = median(values);
  return run;
}

// The weights as they are in memory, where a block's experts are two tensors. `experts`: those too.
Result<std::vector<Weight>> read_weights(Env& env, const std::string& checkpoint, bool experts) {
  ENGRAM_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::open(env, checkpoint + "/model.safetensors"));
  static const std::regex expert(R"((.*\.experts\.)\d+\.(gate|up|down)_proj\.weight)");
  std::map<std::string, int64_t> sizes;
  for (const auto& [name, view] : file.tensors()) {
    int64_t size = 1;
    for (const int64_t length : view.shape) size *= length;
    std::smatch match;
    if (std::regex_match(name, match, expert))
      sizes[match[1].str() + (match[2] == "down" ? "down" : "gate_up")] += size;
    else
      sizes[name] += size;
  }
  std::vector<Weight> weights;
  for (const auto& [name, size] : sizes) {
    const bool of_experts = name.find(".experts.") != std::string::npos;
    if (of_experts && !experts) continue;
    weights.push_back({size, size, of_experts || name.ends_with("embed_tokens.weight") || name == "lm_head.weight"});
  }
  return weights;
}

class Bench {
 public:
  Bench(Env& env, const DistributedBenchOptions& options) : env_(env), options_(options) {}

  Result<Json> run();

 private:
  std::string output(int process) const { return folder_.file("run-" + std::to_string(process)); }
  std::string train(const Cell& cell, int process, const std::string& before, const std::string& after) const;
  Result<double> finish(const std::vector<std::string>& commands, const std::vector<int>& outputs);
  Status round(const Cell& cell, Measured& measured, const TwoHosts* hosts);
  Status measure_ranks(const Cell& cell, Measured& measured);
  Status measure_peer(Measured& measured);
  Json describe(const Cell& cell, const Measured& measured) const;
  Json describe_rows(const Measured& measured) const;
  Status measure_exchange();
  Status write_table_recipe(Cell& cell);
  bool has_peer() const { return options_.peer && env_.file_exists(options_.python); }

  Env& env_;
  const DistributedBenchOptions& options_;
  TemporaryFolder folder_;
  std::vector<std::string> text_settings_;
  Link link_;
  std::unique_ptr<Progress> progress_;
};

// A shell command. What it prints is kept until it is known whether it fails.
std::string Bench::train(const Cell& cell, int process, const std::string& before, const std::string& after) const {
  std::vector<std::string> settings = cell.settings;
  settings.insert(settings.end(), text_settings_.begin(), text_settings_.end());
  for (const auto& [key, value] : {std::pair{"train.threads", 1},
                                   {"train.accumulation", options_.ranks},
                                   {"train.steps", kWarmUp + options_.steps + kAfter},
                                   {"train.validate_every", 0},
                                   {"train.validation_batches", 1},
                                   {"train.checkpoint_every", 0},
                                   {"train.log_every", 1000000},
                                   {"optimizer.warmup_steps", 2},
                                   {"data.batch_size", kSequences}})
    settings.push_back(fmt::format("{}={}", key, value));
  settings.push_back("train.output=" + output(process));
  std::string command = "{ " + before + shell_quoted(options_.executable) + " train " + shell_quoted(cell.recipe);
  for (const std::string& setting : settings) command += " --set " + shell_quoted(setting);
  const std::string log = shell_quoted(output(process) + ".log");
  return command + fmt::format(" {} >{} 2>&1 || {{ grep '^error: ' {} >&2; false; }}; }}", after, log, log);
}

// Runs the commands at once: tokens per second of all runs in these outputs, which are removed at the next call.
Result<double> Bench::finish(const std::vector<std::string>& commands, const std::vector<int>& outputs) {
  for (const int process : outputs) ENGRAM_RETURN_IF_ERROR(env_.remove_directory_recursively(output(process)));
  ENGRAM_RETURN_IF_ERROR(run_commands(commands).status());
  progress_->advance(1);
  double sum = 0;
  for (const int process : outputs) {
    ENGRAM_ASSIGN_OR_RETURN(const Run run, read_run(env_, output(process), options_.steps));
    sum += run.tokens_per_second;
  }
  return sum;
}

Status Bench::measure_ranks(const Cell& cell, Measured& measured) {
  const std::string ranks = fmt::format("--ranks {}", options_.ranks);
  ENGRAM_ASSIGN_OR_RETURN(const double speed, finish({train(cell, 0, "", ranks)}, {0}));
  measured.values["ranks"].push_back(speed);
  ENGRAM_ASSIGN_OR_RETURN(measured.run, read_run(env_, output(0), options_.steps));
  for (const char* channel : kChannels)
    measured.values[channel].push_back(measured.run.exchange[std::string(channel) + "_seconds"]);
  ENGRAM_ASSIGN_OR_RETURN(measured.config, read_json_file(env_, output(0) + "/latest/config.json"));
  ENGRAM_ASSIGN_OR_RETURN(measured.weights, read_weights(env_, output(0) + "/latest", cell.name != "experts"));
  return {};
}

Status Bench::measure_peer(Measured& measured) {
  const std::string command =
      fmt::format("{} {} --ranks {} --config {} --batch-size {} --sequence-length {} --warmup {} --steps {}",
                  shell_quoted(options_.python), shell_quoted(options_.script), options_.ranks,
                  shell_quoted(output(0) + "/latest/config.json"), kSequences, kLength, kWarmUp, options_.steps);
  ENGRAM_ASSIGN_OR_RETURN(const auto printed, run_commands({command}));
  progress_->advance(1);
  ENGRAM_ASSIGN_OR_RETURN(const auto result, parse_json(printed[0], "output of the PyTorch side"));
  measured.values["peer"].push_back(result.at("tokens_per_second").get<double>());
  measured.values["peer_ratio"].push_back(measured.values["ranks"].back() / measured.values["peer"].back());
  return {};
}

Status Bench::round(const Cell& cell, Measured& measured, const TwoHosts* hosts) {
  auto& values = measured.values;
  ENGRAM_ASSIGN_OR_RETURN(const double alone, finish({train(cell, 0, "", "")}, {0}));
  std::vector<std::string> commands;
  std::vector<int> outputs;
  for (int process = 0; process < options_.ranks; ++process) {
    commands.push_back(train(cell, process, "", ""));
    outputs.push_back(process);
  }
  ENGRAM_ASSIGN_OR_RETURN(const double side_by_side, finish(commands, outputs));
  ENGRAM_RETURN_IF_ERROR(measure_ranks(cell, measured));
  values["alone"].push_back(alone);
  values["side_by_side"].push_back(side_by_side);
  values["efficiency"].push_back(values["ranks"].back() / side_by_side);
  values["speed_up"].push_back(values["ranks"].back() / alone);
  if (cell.name == "moe" && has_peer()) ENGRAM_RETURN_IF_ERROR(measure_peer(measured));
  if (hosts == nullptr) return {};
  ENGRAM_ASSIGN_OR_RETURN(const double apart,
                          finish({train(cell, 0, hosts->as_rank(0), ""), train(cell, 1, hosts->as_rank(1), "")}, {0}));
  values["hosts"].push_back(apart);
  return {};
}

// Row ids of a step, those that the ranks ask for, and those that are distinct in the whole step.
Json Bench::describe_rows(const Measured& measured) const {
  const Json& engram = measured.config.at("engram");
  const auto number = [&](const char* key) { return engram.at(key).get<double>(); };
  const double tokens = double{kSequences} * kLength * options_.ranks;
  const double looked_up =
      tokens * static_cast<double>(engram.at("layer_ids").size()) * (number("max_ngram_size") - 1) * number("n_heads");
  return {{"looked_up", looked_up},
          {"asked", measured.run.exchange.at("asked_rows")},
          {"distinct", measured.run.distinct_rows}};
}

Json Bench::describe(const Cell& cell, const Measured& measured) const {
  const double tokens = double{kSequences} * kLength * options_.ranks;
  Json result = {{"name", cell.name}, {"title", cell.title}, {"tokens_per_step", tokens}};
  int64_t parameters = 0;
  for (const Weight& weight : measured.weights) parameters += weight.size;
  result["dense_parameters"] = parameters;
  for (const char* name : {"alone", "side_by_side", "ranks", "efficiency", "speed_up"})
    result[name] = to_json(measured.values.at(name));
  StepCosts costs{options_.ranks, tokens / median_of(result["side_by_side"]), {}, {}, {}, {}, measured.weights};
  const double step_seconds = tokens / median_of(result["ranks"]);
  const std::array counts = {&costs.control, &costs.dense, &costs.table, &costs.expert};
  for (size_t i = 0; i < kChannels.size(); ++i) {
    const std::string channel = kChannels[i];
    const auto& exchange = measured.run.exchange;
    if (!exchange.contains(channel + "_exchanges")) continue;
    *counts[i] = {exchange.at(channel + "_exchanges"), exchange.at(channel + "_bytes")};
    result["waited_share"][channel] = median(measured.values.at(channel)) / step_seconds;
    result["bytes_per_step"][channel] = counts[i]->bytes_sent;
    result["exchanges_per_step"][channel] = counts[i]->calls;
  }
  if (measured.run.exchange.contains("asked_rows")) {
    result["rows"] = describe_rows(measured);
    result["busiest_owner"] = measured.run.exchange.at("busiest_owner");
  }
  Json& worlds = result["larger_worlds"];
  worlds.push_back(larger_world(costs, options_.ranks, link_));
  worlds.back()["measured_seconds"] = step_seconds;
  const auto linked = [&](const char* name, double bits) { return Link{name, link_.latency_seconds, bits / 8}; };
  for (const int ranks : {8, 64})
    for (const Link& link : {link_, linked("25 Gb/s", 25e9), linked("400 Gb/s", 400e9)})
      worlds.push_back(larger_world(costs, ranks, link));
  if (measured.values.contains("peer")) {
    result["peer"] = {{"name", "PyTorch DDP with Gloo"},
                      {"tokens_per_second", to_json(measured.values.at("peer"))},
                      {"ratio", to_json(measured.values.at("peer_ratio"))}};
  }
  if (measured.values.contains("hosts")) {
    result["hosts"] = to_json(measured.values.at("hosts"));
    worlds.push_back(larger_world(costs, 2, linked("the hosts'", 1e6 * options_.link_megabits)));
    worlds.back()["measured_seconds"] = tokens / median_of(result["hosts"]);
  }
  return result;
}

// Latency: the smallest message. Bandwidth: what a larger one takes longer.
Status Bench::measure_exchange() {
  const std::string command = fmt::format("{} bench exchange --ranks {} --rounds 3 --rows 10000 --json",
                                          shell_quoted(options_.executable), options_.ranks);
  ENGRAM_ASSIGN_OR_RETURN(const auto printed, run_commands({command}));
  ENGRAM_ASSIGN_OR_RETURN(const auto result, parse_json(printed[0], "output of engram bench exchange"));
  const auto sent = [](const auto& message) {
    return message.at("bytes_per_second").template get<double>() * message.at("seconds").template get<double>();
  };
  const auto& small = result.at("messages").at(0);
  const auto& large = result.at("messages").at(3);
  link_ = {"here", small.at("seconds").get<double>(), 0};
  link_.bytes_per_second = (sent(large) - sent(small)) / (large.at("seconds").get<double>() - link_.latency_seconds);
  return {};
}

Status Bench::write_table_recipe(Cell& cell) {
  ENGRAM_ASSIGN_OR_RETURN(std::string text, env_.read_file(options_.recipes + "/demo_engram_cpu.toml"));
  text = std::regex_replace(text, std::regex(R"(\[allocation\]\nrho *=[^\n]*\n)"), "");
  cell.recipe = folder_.file("table.toml");
  return write_file_atomic(env_, cell.recipe, text);
}

Result<Json> Bench::run() {
  const bool real = env_.file_exists(options_.text + "/train.tokens");
  if (real)
    text_settings_ = {"data.tokenizer=" + options_.text + "/tokenizer.json",
                      "data.train=[\"" + options_.text + "/train.tokens\"]", "data.validation=[]"};
  else
    text_settings_ = {"data.tokenizer=\"\"", "data.train=[]", "data.validation=[]", "data.synthetic.documents=1000"};
  std::unique_ptr<TwoHosts> hosts;
  if (options_.link_megabits > 0) {
    if (options_.ranks != 2) return invalid_argument("two hosts: got {} ranks, wanted 2", options_.ranks);
    ENGRAM_ASSIGN_OR_RETURN(hosts, TwoHosts::create(options_.link_megabits));
  }
  std::vector<Cell> cells = make_cells(options_.recipes);
  std::erase_if(cells, [&](const Cell& cell) { return std::ranges::count(options_.cells, cell.name) == 0; });
  ENGRAM_RETURN_IF_ERROR(measure_exchange());
  Json result = {
      {"ranks", options_.ranks},
      {"rounds", options_.rounds},
      {"steps", options_.steps},
      {"text", real ? options_.text : "synthetic"},
      {"exchange", {{"latency_seconds", link_.latency_seconds}, {"bytes_per_second", link_.bytes_per_second}}}};
  const auto has = [&](const char* name) { return std::ranges::count(options_.cells, name) > 0 ? 1 : 0; };
  const int64_t runs = 3 * std::ssize(cells) + (has_peer() ? has("moe") : 0) + (hosts ? has("engram") : 0);
  progress_ = std::make_unique<Progress>("bench distributed", options_.rounds * runs, "runs");
  std::map<std::string, Measured> measured;
  for (int round_number = 0; round_number < options_.rounds; ++round_number)
    for (Cell& cell : cells) {
      if (cell.recipe.empty()) ENGRAM_RETURN_IF_ERROR(write_table_recipe(cell));
      ENGRAM_RETURN_IF_ERROR(round(cell, measured[cell.name], cell.name == "engram" ? hosts.get() : nullptr));
    }
  progress_->finish();
  for (const Cell& cell : cells) result["cells"].push_back(describe(cell, measured[cell.name]));
  if (hosts) result["link_megabits"] = options_.link_megabits;
  if (options_.peer && !has_peer())
    result["peer_missing"] = fmt::format("no Python at '{}'; scripts/setup.sh --oracles makes one", options_.python);
  return result;
}

}  // namespace

DistributedBenchOptions default_distributed_bench_options() {
  DistributedBenchOptions options;
  options.executable = this_program();
  options.python = ENGRAM_SOURCE_DIR "/.venv-oracles/bin/python";
  options.script = ENGRAM_SOURCE_DIR "/bench/ddp_peer.py";
  return options;
}

Result<Json> run_distributed_bench(Env& env, const DistributedBenchOptions& options) {
  return Bench(env, options).run();
}

}  // namespace engram::bench
