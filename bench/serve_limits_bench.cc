// The parts of serve_bench that measure the engine itself: against one client, the memory's speed, greedy sampling,
// and llama.cpp.
#include <algorithm>
#include <map>

#include "bench/process.h"
#include "bench/serve_work.h"
#include "engram/core/json.h"
#include "engram/model/parameters.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

// Seconds to read `bytes` of memory once with all threads: the bound of a decode step.
double seconds_to_read(int64_t bytes) {
  const torch::Tensor buffer = torch::ones({bytes / 4});
  std::vector<double> seconds;
  float sink = 0;
  for (int i = 0; i < 7; ++i) {
    const double start = now_seconds();
    sink += buffer.sum().item<float>();
    seconds.push_back(now_seconds() - start);
  }
  return sink > 0 ? *std::min_element(seconds.begin(), seconds.end()) : 0;
}

// Multiply-adds a second, times two, of a large fp32 product: the bound of a step with many sequences.
double matrix_rate() {
  constexpr int kSize = 1536;
  const torch::Tensor a = torch::rand({kSize, kSize}), b = torch::rand({kSize, kSize});
  torch::Tensor product = torch::mm(a, b);
  double best = 1e30;
  for (int i = 0; i < 7; ++i) {
    const double start = now_seconds();
    torch::mm_out(product, a, b);
    best = std::min(best, now_seconds() - start);
  }
  return 2.0 * kSize * kSize * kSize / best;
}

// One sequence's decode step beside the time to read the weights that it needs once. The backbone's
// own FFN is cut into experts of a quarter of its width, of which four are active.
Result<Json> measure_moe_decode(Env& env, const ServeBenchOptions& options, const Workload& work) {
  const BackboneShape& shape = work.scale.backbones[0];
  ModelConfig config = backbone_config(work, shape, nullptr);
  config.ffn = FfnKind::kMoe;
  config.first_k_dense_replace = 0;
  config.n_routed_experts = 16;
  config.num_experts_per_tok = 4;
  config.moe_intermediate_size = shape.intermediate / 4;
  config.shared_expert_intermediate_size = 0;
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, make_model(env, work, config));
  EngineOptions one_sequence;
  one_sequence.prefix_cache = false;
  one_sequence.scheduler = {.max_sequences = 1, .max_batched_tokens = 16};
  ENGRAM_ASSIGN_OR_RETURN(auto engine, LLMEngine::create(env, model, one_sequence));
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount count, count_parameters(config));
  const int64_t bytes = 4 * (count.p_act + int64_t{config.vocab_size} * config.hidden_size);
  std::vector<double> decode, ratio;
  double least_read = 0;
  for (int round = -1; round < options.rounds; ++round) {
    const auto from = work.text.begin() + (round + 1) * work.scale.longest;
    const std::vector<Job> jobs = {{{from, from + 4}, {from + 4, from + work.scale.longest}}};
    ENGRAM_ASSIGN_OR_RETURN(const auto got, serve({{engine.get()}}, jobs));
    if (round < 0) continue;
    const double read = seconds_to_read(bytes);
    decode.push_back(1 / got[0].tokens_per_second);
    ratio.push_back(decode.back() / read);
    least_read = round == 0 ? read : std::min(least_read, read);
  }
  return Json{{"experts", config.n_routed_experts}, {"active_experts", config.num_experts_per_tok},
              {"active_weight_bytes", bytes},       {"decode_seconds", median(decode)},
              {"weight_read_seconds", least_read},  {"decode_over_weight_read", median(ratio)}};
}

}  // namespace

Result<Json> run_serve_clients_bench(Env& env, const ServeBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const Workload work, read_workload(env, options));
  if (options.threads > 0) torch::set_num_threads(options.threads);
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model,
                          make_model(env, work, backbone_config(work, work.scale.backbones[0], nullptr)));
  EngineOptions engine_of_32;
  engine_of_32.prefix_cache = false;
  engine_of_32.scheduler = {.max_sequences = 32, .max_batched_tokens = 512};
  ENGRAM_ASSIGN_OR_RETURN(auto engine, LLMEngine::create(env, model, engine_of_32));
  const int length = work.scale.longest;
  std::map<int, std::vector<double>> speed;
  for (int round = -1; round < options.rounds; ++round) {
    for (int clients : {1, 32}) {
      std::vector<Job> jobs;
      for (int i = 0; i < clients; ++i) {
        const auto from = work.text.begin() + (round + 2) * 32 * length + i * length;
        jobs.push_back({{from, from + 4}, {from + 4, from + length}});
      }
      ENGRAM_ASSIGN_OR_RETURN(const auto got, serve({{engine.get()}}, jobs));
      if (round >= 0) speed[clients].push_back(got[0].tokens_per_second);
    }
  }
  const double one = median(speed[1]), many = median(speed[32]);
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount count, count_parameters(model.config));
  const int64_t bytes = 4 * (count.p_act + int64_t{model.config.vocab_size} * model.config.hidden_size);
  const double read = seconds_to_read(bytes), rate = matrix_rate();
  const double token_flops = static_cast<double>(bytes) / 2;  // two a weight
  ENGRAM_ASSIGN_OR_RETURN(const Json moe, measure_moe_decode(env, options, work));
  return Json{
      {"clients", {{{"clients", 1}, {"tokens_per_second", one}}, {{"clients", 32}, {"tokens_per_second", many}}}},
      {"ratio_of_32_clients", many / one},
      {"matrix_flops", rate},
      {"share_of_matrix_rate", token_flops * many / rate},
      {"largest_possible_ratio", rate / token_flops / one},
      {"active_weight_bytes", bytes},
      {"decode_seconds", 1 / one},
      {"weight_read_seconds", read},
      {"weight_bytes_per_second", static_cast<double>(bytes) / read},
      {"decode_over_weight_read", 1 / one / read},
      {"moe", moe}};
}

Result<Json> run_serve_sampling_bench(Env& env, const ServeBenchOptions& options) {
  constexpr int kSequences = 8;
  struct Kind {
    const char* name;
    double temperature, top_p;
  };
  constexpr Kind kKinds[] = {{"greedy", 0, 1}, {"temperature 1", 1, 1}, {"top-p 0.9", 1, 0.9}};
  ENGRAM_ASSIGN_OR_RETURN(const Workload work, read_workload(env, options));
  if (options.threads > 0) torch::set_num_threads(options.threads);
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model,
                          make_model(env, work, backbone_config(work, work.scale.backbones[0], nullptr)));
  std::vector<std::unique_ptr<LLMEngine>> engines;
  std::vector<Server> servers;
  for (const Kind& kind : kKinds) {
    EngineOptions with;
    with.prefix_cache = false;
    with.scheduler = {.max_sequences = kSequences, .max_batched_tokens = 512};
    ENGRAM_ASSIGN_OR_RETURN(auto engine, LLMEngine::create(env, model, with));
    servers.push_back({engine.get(), false, kind.temperature, kind.top_p});
    engines.push_back(std::move(engine));
  }
  const int length = work.scale.longest;
  std::vector<std::vector<double>> ratios(servers.size()), speeds(servers.size());
  for (int round = -1; round < options.rounds; ++round) {
    std::vector<Job> jobs;
    for (int i = 0; i < kSequences; ++i) {
      const auto from = work.text.begin() + (round + 1) * kSequences * length + i * length;
      jobs.push_back({{from, from + 4}, {from + 4, from + length}});
    }
    ENGRAM_ASSIGN_OR_RETURN(const auto got, serve(servers, jobs));
    for (size_t i = 0; i < got.size() && round >= 0; ++i) {
      speeds[i].push_back(got[i].tokens_per_second);
      ratios[i].push_back(got[i].seconds / got[0].seconds);
    }
  }
  Json rows = Json::array();
  for (size_t i = 0; i < servers.size(); ++i) {
    const Spread ratio = spread_of(ratios[i]);
    rows.push_back({{"name", kKinds[i].name},
                    {"temperature", kKinds[i].temperature},
                    {"top_p", kKinds[i].top_p},
                    {"tokens_per_second", median(speeds[i])},
                    {"time_over_greedy", ratio.median},
                    {"ratio_low", ratio.low},
                    {"ratio_high", ratio.high}});
  }
  return Json{
      {"sequences", kSequences}, {"vocab_size", model.config.vocab_size}, {"rounds", options.rounds}, {"rows", rows}};
}

Result<Json> run_serve_drafts_bench(Env& env, const ServeBenchOptions& options) {
  constexpr int kPrompt = 512, kOutput = 256;
  constexpr int64_t kDrafts[] = {0, 2, 4, 8};
  ENGRAM_ASSIGN_OR_RETURN(Workload work, read_workload(env, options));
  if (options.threads > 0) torch::set_num_threads(options.threads);
  work.scale.longest = kPrompt + kOutput;
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model,
                          make_model(env, work, backbone_config(work, work.scale.backbones[0], nullptr)));
  std::vector<std::unique_ptr<LLMEngine>> engines;
  std::vector<Server> servers;
  for (int64_t drafts : kDrafts) {
    EngineOptions with;
    with.prefix_cache = false;
    with.scheduler = {.max_sequences = 1, .max_batched_tokens = kPrompt, .max_draft_tokens = drafts};
    ENGRAM_ASSIGN_OR_RETURN(auto engine, LLMEngine::create(env, model, with));
    servers.push_back({engine.get()});
    engines.push_back(std::move(engine));
  }
  const size_t places = work.text.size() / (kPrompt + kOutput);
  std::vector<std::vector<double>> ratios(engines.size()), speeds(engines.size());
  for (int round = 0; round < options.rounds; ++round) {
    const size_t place = places * static_cast<size_t>(round) / static_cast<size_t>(options.rounds);
    const auto from = work.text.begin() + static_cast<std::ptrdiff_t>(place * (kPrompt + kOutput));
    const std::vector<Job> jobs = {{{from, from + kPrompt}, {from + kPrompt, from + kPrompt + kOutput}}};
    ENGRAM_ASSIGN_OR_RETURN(const auto got, serve(servers, jobs));
    for (size_t i = 0; i < got.size(); ++i) {
      speeds[i].push_back(got[i].tokens_per_second);
      ratios[i].push_back(got[i].tokens_per_second / got[0].tokens_per_second);
    }
  }
  Json rows = Json::array();
  for (size_t i = 0; i < engines.size(); ++i) {
    const EngineMetrics metrics = engines[i]->metrics();
    const Spread ratio = spread_of(ratios[i]);
    rows.push_back(
        {{"draft_tokens", kDrafts[i]},
         {"tokens_per_second", median(speeds[i])},
         {"ratio", ratio.median},
         {"ratio_low", ratio.low},
         {"ratio_high", ratio.high},
         {"tokens_per_step", static_cast<double>(metrics.generated_tokens) / static_cast<double>(metrics.steps)},
         {"accepted", static_cast<double>(metrics.accepted_draft_tokens) /
                          static_cast<double>(std::max<uint64_t>(metrics.draft_tokens, 1))}});
  }
  return Json{{"prompt", kPrompt}, {"output", kOutput}, {"rounds", options.rounds}, {"rows", rows}};
}

Result<Json> run_serve_peer_bench(Env& env, const ServeBenchOptions& options) {
  constexpr int kPrompt = 512, kDecode = 128;
  ENGRAM_ASSIGN_OR_RETURN(const Workload work, read_workload(env, options));
  for (const std::string& path : {options.python, options.llama_script}) {
    if (!env.file_exists(path)) return not_found("{}: not there; scripts/setup.sh --oracles makes it", path);
  }
  if (options.threads > 0) torch::set_num_threads(options.threads);
  ModelConfig config = backbone_config(work, work.scale.backbones[0], nullptr);
  config.max_position_embeddings = 1024;
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, make_model(env, work, config));
  EngineOptions engine_options;
  engine_options.prefix_cache = false;
  engine_options.scheduler = {.max_sequences = 1, .max_batched_tokens = kPrompt};
  ENGRAM_ASSIGN_OR_RETURN(auto engine, LLMEngine::create(env, model, engine_options));
  ENGRAM_RETURN_IF_ERROR(env.create_directories(options.folder));
  const Json job = {{"model", config.to_json()},
                    {"gguf", join_path(options.folder, "bench_serve.gguf")},
                    {"prompt", kPrompt},
                    {"decode", kDecode},
                    {"threads", torch::get_num_threads()}};
  const std::string command = fmt::format("{} {} {}", shell_quoted(options.python), shell_quoted(options.llama_script),
                                          shell_quoted(job.dump()));
  const auto text = work.text.begin();
  const std::vector<Job> prefill = {{{text, text + kPrompt}, {text + kPrompt, text + kPrompt + 1}}};
  const std::vector<Job> decode = {{{text, text + 1}, {text + 1, text + 1 + kDecode}}};
  std::vector<double> ours_prefill, ours_decode, peer_prefill, peer_decode;
  for (int round = 0; round < options.rounds; ++round) {
    ENGRAM_RETURN_IF_ERROR(serve({{engine.get()}}, prefill).status());  // warm
    ENGRAM_ASSIGN_OR_RETURN(const auto first, serve({{engine.get()}}, prefill));
    ENGRAM_ASSIGN_OR_RETURN(const auto then, serve({{engine.get()}}, decode));
    ours_prefill.push_back(kPrompt / first[0].seconds);
    ours_decode.push_back(kDecode / then[0].seconds);
    ENGRAM_ASSIGN_OR_RETURN(const auto outputs, run_commands({command}));
    ENGRAM_RETURN_IF_ERROR(parse_json(outputs[0], "output of the llama.cpp process").status());
    const Json peer = Json::parse(outputs[0]);
    peer_prefill.push_back(peer.at("prefill_tokens_per_second").get<double>());
    peer_decode.push_back(peer.at("decode_tokens_per_second").get<double>());
  }
  const auto row = [](const char* name, std::vector<double> ours, std::vector<double> peer) {
    std::vector<double> ratios;
    for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / peer[i]);
    const Spread ratio = spread_of(ratios);
    return Json{{"name", name},          {"ours", median(ours)},   {"llama_cpp", median(peer)},
                {"ratio", ratio.median}, {"ratio_low", ratio.low}, {"ratio_high", ratio.high}};
  };
  return Json{{"peer", "llama-cpp-python, the same shape in F32"},
              {"rows", {row("prefill", ours_prefill, peer_prefill), row("decode", ours_decode, peer_decode)}}};
}

}  // namespace engram::bench
