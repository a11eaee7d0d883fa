// The parts of serve_bench that measure the engine itself: against one client, the memory's speed, greedy sampling,
// and llama.cpp.
#include <torch/utils.h>

#include <algorithm>
#include <map>
#include <span>

#include "bench/process.h"
#include "bench/serve_work.h"
#include "engram/core/json.h"
#include "engram/kernels/gemv.h"
#include "engram/model/ops/parallel.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

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

constexpr size_t kPiece = 16384;

// What a decode step reads, in pieces: all weights but the embedding's, of which it needs a row, and of a block's
// experts as many as are active. `turn`: others of them in each.
std::vector<std::span<const float>> active_weights(const LoadedModel& model, int turn) {
  const ModelConfig& config = model.config;
  std::vector<std::span<const float>> out;
  for (const auto& named : model.model->named_parameters()) {
    if (named.key() == "model.embed_tokens.weight" && !config.tie_word_embeddings) continue;
    torch::Tensor weight = named.value();
    if (weight.dim() == 3) {
      const int64_t active = config.num_experts_per_tok;
      weight = weight.narrow(0, turn * active % (config.n_routed_experts - active + 1), active);
    }
    const std::span<const float> all(weight.const_data_ptr<float>(), static_cast<size_t>(weight.numel()));
    for (size_t at = 0; at < all.size(); at += kPiece)
      out.push_back(all.subspan(at, std::min(kPiece, all.size() - at)));
  }
  return out;
}

// Seconds to read that once where it lies, with all threads at once and nothing in between. Products with a short
// vector are the fastest read: they fetch ahead, which a sum does not.
double seconds_to_read(const std::vector<std::span<const float>>& pieces) {
  constexpr size_t kWidth = 512;
  const std::vector<float> vector(kWidth, 1.0f);
  std::vector<float> products(pieces.size() * kPiece / kWidth);
  const double start = now_seconds();
  parallel_tasks(std::ssize(pieces), [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    const auto k = static_cast<int64_t>(std::min(kWidth, pieces[at].size())), rows = std::ssize(pieces[at]) / k;
    gemv(1, rows, k, vector.data(), pieces[at].data(), 0, rows, products.data() + at * kPiece / kWidth);
  });
  return now_seconds() - start;
}

// One sequence's decode step beside the time to read the weights that it needs: medians of a round, taken in turn, and
// the median of the rounds' ratios.
Result<Json> measure_decode(Env& env, const ServeBenchOptions& options, const Workload& work,
                            const LoadedModel& model) {
  constexpr int kReads = 15;
  EngineOptions one_sequence;
  one_sequence.prefix_cache = false;
  one_sequence.scheduler = {.max_sequences = 1, .max_batched_tokens = 16};
  ENGRAM_ASSIGN_OR_RETURN(auto engine, LLMEngine::create(env, model, one_sequence));
  int64_t bytes = 0;
  for (const auto& piece : active_weights(model, 0)) bytes += static_cast<int64_t>(piece.size_bytes());
  std::vector<double> decode, reads, ratio;
  for (int round = -1; round < options.rounds; ++round) {
    const auto from = work.text.begin() + (round + 1) * work.scale.longest;
    const std::vector<Job> jobs = {{{from, from + 4}, {from + 4, from + work.scale.longest}}};
    ENGRAM_ASSIGN_OR_RETURN(const auto got, serve({{engine.get()}}, jobs));
    std::vector<double> read;
    for (int turn = 0; turn < kReads; ++turn) read.push_back(seconds_to_read(active_weights(model, turn)));
    if (round < 0) continue;
    decode.push_back(got[0].step_seconds);
    reads.push_back(median(read));
    ratio.push_back(decode.back() / reads.back());
  }
  const Spread ratios = spread_of(ratio);
  return Json{{"active_weight_bytes", bytes},
              {"decode_seconds", median(decode)},
              {"weight_read_seconds", median(reads)},
              {"decode_over_weight_read", ratios.median},
              {"ratio_low", ratios.low},
              {"ratio_high", ratios.high}};
}

// The backbone's own FFN cut into experts of a quarter of its width, of which four are active.
ModelConfig mixture_config(const Workload& work) {
  const BackboneShape& shape = work.scale.backbones[0];
  ModelConfig config = backbone_config(work, shape, nullptr);
  config.ffn = FfnKind::kMoe;
  config.first_k_dense_replace = 0;
  config.n_routed_experts = 16;
  config.num_experts_per_tok = 4;
  config.moe_intermediate_size = shape.intermediate / 4;
  config.shared_expert_intermediate_size = 0;
  return config;
}

}  // namespace

Result<Json> run_serve_clients_bench(Env& env, const ServeBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const Workload work, read_workload(env, options));
  if (work.scale.on_gpu()) return invalid_argument("clients: a bound of CPUs, got scale {}", work.scale.name);
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
  const double one = median(speed[1]), many = median(speed[32]), rate = matrix_rate();
  ENGRAM_ASSIGN_OR_RETURN(Json out, measure_decode(env, options, work, model));
  const double token_flops = out.at("active_weight_bytes").get<double>() / 2;  // two a weight
  const ModelConfig mixture = mixture_config(work);
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel experts, make_model(env, work, mixture));
  ENGRAM_ASSIGN_OR_RETURN(Json moe, measure_decode(env, options, work, experts));
  moe.update({{"experts", mixture.n_routed_experts}, {"active_experts", mixture.num_experts_per_tok}});
  out.update(
      {{"clients", {{{"clients", 1}, {"tokens_per_second", one}}, {{"clients", 32}, {"tokens_per_second", many}}}},
       {"ratio_of_32_clients", many / one},
       {"matrix_flops", rate},
       {"share_of_matrix_rate", token_flops * many / rate},
       {"largest_possible_ratio", rate / token_flops / one},
       {"moe", moe}});
  return out;
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

namespace {

constexpr int kPeerPrompt = 512, kPeerDecode = 128, kPeerSequences = 8;

// SmolLM2-135M's, a small model that people have.
ModelConfig peer_config(const Workload& work) {
  ModelConfig config = backbone_config(
      work, {.hidden = 576, .intermediate = 1536, .heads = 9, .kv_heads = 3, .head_dim = 64, .blocks = 30}, nullptr);
  config.vocab_size = 49152;
  config.tie_word_embeddings = true;
  config.max_position_embeddings = 1024;
  return config;
}

struct PeerSpeeds {
  std::vector<double> prefill, decode, decode_all;  // tokens/s, one a round
  std::string version;                              // the peer's
};

Status add_ours(LLMEngine& engine, const std::vector<int32_t>& text, PeerSpeeds& speeds) {
  const auto from = text.begin();
  const Job prefill{{from, from + kPeerPrompt}, {from + kPeerPrompt, from + kPeerPrompt + 1}};
  const Job decode{{from, from + 1}, {from + 1, from + 1 + kPeerDecode}};
  ENGRAM_RETURN_IF_ERROR(serve({{&engine}}, {prefill}).status());  // warm
  ENGRAM_ASSIGN_OR_RETURN(const auto first, serve({{&engine}}, {prefill}));
  ENGRAM_ASSIGN_OR_RETURN(const auto one, serve({{&engine}}, {decode}));
  ENGRAM_ASSIGN_OR_RETURN(const auto all, serve({{&engine}}, std::vector<Job>(kPeerSequences, decode)));
  speeds.prefill.push_back(kPeerPrompt / first[0].seconds);
  speeds.decode.push_back(kPeerDecode / one[0].seconds);
  speeds.decode_all.push_back(kPeerSequences * kPeerDecode / all[0].seconds);
  return Status();
}

Status add_peers(const ServeBenchOptions& options, const ModelConfig& config, const char* weights, PeerSpeeds& speeds) {
  const Json job = {{"model", config.to_json()},
                    {"weights", weights},
                    {"folder", options.folder},
                    {"prompt", kPeerPrompt},
                    {"decode", kPeerDecode},
                    {"sequences", kPeerSequences},
                    {"threads", torch::get_num_threads()}};
  ENGRAM_ASSIGN_OR_RETURN(const auto outputs,
                          run_commands({fmt::format("{} {} {}", shell_quoted(options.python),
                                                    shell_quoted(options.llama_script), shell_quoted(job.dump()))}));
  ENGRAM_RETURN_IF_ERROR(parse_json(outputs[0], "output of the llama.cpp process").status());
  const Json peer = Json::parse(outputs[0]);
  speeds.prefill.push_back(peer.at("prefill").get<double>());
  speeds.decode.push_back(peer.at("decode").get<double>());
  speeds.decode_all.push_back(peer.at("decode_all").get<double>());
  speeds.version = peer.at("version").get<std::string>();
  return Status();
}

void add_rows(Json& rows, const char* ours_weights, const PeerSpeeds& ours, const char* weights,
              const PeerSpeeds& peer) {
  for (const auto& [work, speeds] :
       {std::pair{"prefill", &PeerSpeeds::prefill}, std::pair{"decode", &PeerSpeeds::decode},
        std::pair{"decode of 8", &PeerSpeeds::decode_all}}) {
    std::vector<double> ratios;
    for (size_t i = 0; i < (ours.*speeds).size(); ++i) ratios.push_back((ours.*speeds)[i] / (peer.*speeds)[i]);
    const Spread ratio = spread_of(ratios);
    rows.push_back({{"name", fmt::format("{}, {} beside {}", work, ours_weights, weights)},
                    {"ours", median(ours.*speeds)},
                    {"llama_cpp", median(peer.*speeds)},
                    {"ratio", ratio.median},
                    {"ratio_low", ratio.low},
                    {"ratio_high", ratio.high}});
  }
}

}  // namespace

Result<Json> run_serve_peer_bench(Env& env, const ServeBenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const Workload work, read_workload(env, options));
  for (const std::string& path : {options.python, options.llama_script}) {
    if (!env.file_exists(path)) return not_found("{}: not there; scripts/setup.sh --oracles makes it", path);
  }
  if (options.threads > 0) torch::set_num_threads(options.threads);
  const ModelConfig config = peer_config(work);
  EngineOptions engine_options;
  engine_options.prefix_cache = false;
  engine_options.scheduler = {.max_sequences = kPeerSequences, .max_batched_tokens = kPeerPrompt};
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel wide, make_model(env, work, config));
  ENGRAM_ASSIGN_OR_RETURN(LoadedModel half, make_model(env, work, config));
  half.model->place(torch::kCPU, torch::kBFloat16);
  ENGRAM_ASSIGN_OR_RETURN(auto wide_engine, LLMEngine::create(env, wide, engine_options));
  ENGRAM_ASSIGN_OR_RETURN(auto half_engine, LLMEngine::create(env, half, engine_options));
  ENGRAM_RETURN_IF_ERROR(env.create_directories(options.folder));
  PeerSpeeds ours_wide, ours_half, f32, bf16, q8;
  for (int round = 0; round < options.rounds; ++round) {
    ENGRAM_RETURN_IF_ERROR(add_ours(*wide_engine, work.text, ours_wide));
    ENGRAM_RETURN_IF_ERROR(add_peers(options, config, "F32", f32));
    ENGRAM_RETURN_IF_ERROR(add_ours(*half_engine, work.text, ours_half));
    ENGRAM_RETURN_IF_ERROR(add_peers(options, config, "BF16", bf16));
    ENGRAM_RETURN_IF_ERROR(add_peers(options, config, "Q8_0", q8));
  }
  Json rows = Json::array();
  add_rows(rows, "F32", ours_wide, "F32", f32);
  add_rows(rows, "BF16", ours_half, "BF16", bf16);
  add_rows(rows, "BF16", ours_half, "Q8_0", q8);
  return Json{{"peer", fmt::format("llama.cpp in {}; the shape of SmolLM2-135M, random weights", q8.version)},
              {"rows", rows}};
}

}  // namespace engram::bench
