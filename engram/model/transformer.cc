#include "engram/model/transformer.h"

#include <ATen/record_function.h>
#include <torch/nn/modules/container/modulelist.h>

#include <algorithm>

#include "engram/model/layers/attention.h"
#include "engram/model/layers/engram.h"
#include "engram/model/layers/hyper_connection.h"
#include "engram/model/layers/moe.h"
#include "engram/model/layers/norm.h"
#include "engram/model/layers/over_encoding.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/recompute.h"
#include "engram/store/tiers/huge_memory.h"

namespace engram {
namespace {

// Everything the blocks of one forward pass share. N = B*T rows; x is [N, d] in a plain model, [N, M, d] in a hyper
// one.
struct Pass {
  AttentionContext attention;
  torch::Tensor reach;  // [B, T] int32 or undefined (ops.h, engram_fuse)
  Recompute recompute = Recompute::kNone;
};

class BlockImpl : public torch::nn::Module {
 public:
  BlockImpl(const ModelConfig& c, int block, const ExpertRanks* ranks)
      : index_(block), streams_(c.hc_mult), hidden_size_(c.hidden_size) {
    const auto& ids = c.engram.layer_ids;
    const auto found = std::find(ids.begin(), ids.end(), block);
    if (c.memory_in_blocks() && found != ids.end()) {
      memory_layer_ = static_cast<int>(found - ids.begin());
      engram_ = register_module("engram", Engram(c, memory_layer_));
    }
    input_layernorm_ = register_module("input_layernorm", RmsNorm(c.hidden_size, c.rms_norm_eps));
    self_attn_ = register_module("self_attn", make_attention(c));
    post_attention_layernorm_ = register_module("post_attention_layernorm", RmsNorm(c.hidden_size, c.rms_norm_eps));
    mlp_ = register_module("mlp", make_feed_forward(c, block, ranks));
    if (c.has_hyper_connections()) {
      attn_hc_ = register_module("attn_hc", HyperConnection(c, 2 * block));
      ffn_hc_ = register_module("ffn_hc", HyperConnection(c, 2 * block + 1));
    }
  }

  // rows: null where the memory is off or another block's. gates: null, or receives alpha.
  torch::Tensor forward(const torch::Tensor& x, const Pass& pass, const MemoryRows* rows, torch::Tensor* gates) {
    if (pass.recompute != Recompute::kBlocks) return keep(x, pass, rows, gates);
    const torch::Tensor index = rows != nullptr ? rows->index : torch::Tensor();
    const auto part = [this, pass, index](const std::vector<torch::Tensor>& inputs) {
      if (inputs.size() == 1) return keep(inputs[0], pass, nullptr, nullptr);
      const MemoryRows again{inputs[1], index};
      return keep(inputs[0], pass, &again, nullptr);
    };
    if (rows == nullptr) return engram::recompute(part, {x}, parameters());
    return engram::recompute(part, {x, rows->unique_rows}, parameters());
  }

  // memory_Nm: undefined where no token has memory. Caches: this block's, and its memory layer's.
  torch::Tensor step(torch::Tensor x, const StepContext& context, PagedCache& cache, const torch::Tensor& memory_Nm,
                     torch::Tensor* gates) {
    auto memory = [&](const torch::Tensor& input) {
      torch::Tensor streams = input.view({input.size(0), engram_->gated_streams(), hidden_size_});
      return engram_->step(streams, memory_Nm, context.step, cache.memory(memory_layer_), gates).reshape(input.sizes());
    };
    auto attention = [&](const torch::Tensor& input) {
      return self_attn_->step(input_layernorm_(input), context, cache.attention(index_));
    };
    return run(std::move(x), memory_Nm.defined(), memory, attention);
  }

  int index() const { return index_; }
  int memory_layer() const { return memory_layer_; }  // -1: none
  EngramImpl* engram() const { return engram_ ? engram_.ptr().get() : nullptr; }
  MoeImpl* moe() const { return dynamic_cast<MoeImpl*>(mlp_.get()); }

 private:
  // forward() with the activations that its backward pass needs.
  torch::Tensor keep(const torch::Tensor& x, const Pass& pass, const MemoryRows* rows, torch::Tensor* gates) {
    auto memory = [&](const torch::Tensor& input) {
      torch::Tensor streams =
          input.view({pass.attention.batch, pass.attention.length, engram_->gated_streams(), hidden_size_});
      return engram_->forward(streams, *rows, pass.reach, gates).reshape(input.sizes());
    };
    const auto part = [this, context = pass.attention](const std::vector<torch::Tensor>& inputs) {
      return self_attn_->forward(input_layernorm_(inputs[0]), context);
    };
    auto attention = [&](const torch::Tensor& input) {
      if (pass.recompute != Recompute::kAttention) return part({input});
      std::vector<torch::Tensor> parameters = self_attn_->parameters();
      parameters.push_back(input_layernorm_->weight);
      return engram::recompute(part, {input}, parameters);
    };
    return run(x, rows != nullptr, memory, attention);
  }

  // The block's order of things, whatever memory and attention read from. Both map rows to rows.
  template <typename MemoryFn, typename AttentionFn>
  torch::Tensor run(torch::Tensor x, bool has_rows, const MemoryFn& memory_fn, const AttentionFn& attention_fn) {
    // The phases are what a training profile is split by; a scope costs nothing while no profiler runs.
    auto memory = [&](const torch::Tensor& input) {
      RECORD_USER_SCOPE("phase:engram");
      return memory_fn(input);
    };
    auto attention = [&](const torch::Tensor& input) {
      RECORD_USER_SCOPE("phase:attention");
      return attention_fn(input);
    };
    const bool remembers = engram_ && has_rows;
    if (remembers && engram_->gated_streams() != streams_) {
      // Without branch gates the memory joins the one stream that attention's pre-mapping makes, and reaches the
      // residual streams through the same post-mapping.
      x = connect(attn_hc_, x, [&](const torch::Tensor& input) {
        const torch::Tensor y = memory(input);
        return y + attention(input + y);
      });
    } else {
      if (remembers) x = x + memory(x);
      x = connect(attn_hc_, x, attention);
    }
    return connect(ffn_hc_, x, [&](const torch::Tensor& input) {
      RECORD_USER_SCOPE("phase:ffn");
      return mlp_->forward(post_attention_layernorm_(input));
    });
  }

  // The residual around one sub-layer: x + F(x), or the hyper-connection's mix.
  template <typename SubLayer>
  static torch::Tensor connect(const HyperConnection& hyper, const torch::Tensor& x, SubLayer&& sub_layer) {
    if (!hyper) return x + sub_layer(x);
    RECORD_USER_SCOPE("phase:mhc");
    const HyperMix mix = hyper.ptr()->mix(x);
    return HyperConnectionImpl::merge(mix, x, sub_layer(mix.input_Nd));
  }

  int index_;
  int64_t streams_, hidden_size_;
  int memory_layer_ = -1;
  Engram engram_{nullptr};
  RmsNorm input_layernorm_{nullptr}, post_attention_layernorm_{nullptr};
  std::shared_ptr<AttentionImpl> self_attn_;
  std::shared_ptr<FeedForwardImpl> mlp_;
  HyperConnection attn_hc_{nullptr}, ffn_hc_{nullptr};
};
TORCH_MODULE(Block);

// The module named `model` in DeepSeek's checkpoints: all but the LM head.
struct DecoderImpl : torch::nn::Module {
  DecoderImpl(const ModelConfig& c, const ExpertRanks* ranks) {
    embed_tokens =
        register_module("embed_tokens", Weights(initial_weight({c.vocab_size, c.hidden_size}, c.initializer_range)));
    if (c.memory_at_input()) over_encoding = register_module("over_encoding", OverEncoding(c));
    torch::nn::ModuleList list;
    for (int i = 0; i < c.num_hidden_layers; ++i) {
      blocks.push_back(Block(c, i, ranks));
      list->push_back(blocks.back());
    }
    register_module("layers", list);
    if (c.has_hyper_connections()) hc_head = register_module("hc_head", HyperHead(c));
    norm = register_module("norm", RmsNorm(c.hidden_size, c.rms_norm_eps));
  }
  Weights embed_tokens{nullptr};
  OverEncoding over_encoding{nullptr};
  std::vector<Block> blocks;
  HyperHead hc_head{nullptr};
  RmsNorm norm{nullptr};
};
TORCH_MODULE(Decoder);

void check_starts(const std::vector<std::vector<int32_t>>& starts, int64_t batch, int64_t length) {
  TORCH_CHECK(starts.empty() || static_cast<int64_t>(starts.size()) == batch, "document starts: got ", starts.size(),
              " sequences, wanted ", batch, " or none");
  for (const auto& row : starts)
    for (size_t i = 0; i < row.size(); ++i)
      TORCH_CHECK(row[i] >= (i == 0 ? 0 : row[i - 1] + 1) && row[i] < length, "document starts: got ", row[i],
                  " at position ", i, ", wanted ascending indices in [0, ", length, ")");
}

// True when some document starts after the first token of its sequence.
bool has_inner_start(const std::vector<std::vector<int32_t>>& starts) {
  return std::any_of(starts.begin(), starts.end(), [](const auto& row) { return !row.empty() && row.back() > 0; });
}

// [B, T] int32: how many older tokens of the same segment a position may look back on; -1 where it is masked.
torch::Tensor segment_reach(const ForwardInput& input, int64_t batch, int64_t length) {
  if (!input.masked.defined() && !has_inner_start(input.starts)) return {};
  torch::Tensor reach = torch::empty({batch, length}, torch::kInt);
  const torch::Tensor masked =
      input.masked.defined() ? input.masked.to(torch::kCPU, torch::kBool).contiguous() : torch::Tensor();
  int32_t* out = reach.data_ptr<int32_t>();
  for (int64_t b = 0; b < batch; ++b) {
    const std::vector<int32_t> none;
    const std::vector<int32_t>& starts = input.starts.empty() ? none : input.starts[static_cast<size_t>(b)];
    size_t next = 0;
    int32_t visible = 0;
    for (int64_t t = 0; t < length; ++t) {
      if (next < starts.size() && starts[next] == t) {
        visible = 0;
        ++next;
      }
      const int64_t at = b * length + t;
      const bool is_masked = masked.defined() && masked.data_ptr<bool>()[at];
      out[at] = is_masked ? -1 : visible;
      visible = is_masked ? 0 : visible + 1;
    }
  }
  return reach.to(input.tokens.device());
}

}  // namespace

struct TransformerImpl::Parts {
  Parts(const ModelConfig& c, const ExpertRanks* ranks)
      : decoder(c, ranks), rotary(rotary_columns(c), c.rope_theta, c.rope_scaling, c.max_position_embeddings) {
    if (!c.tie_word_embeddings) lm_head = Linear(c.hidden_size, c.vocab_size, c.initializer_range);
  }
  const torch::Tensor& head_weight() const { return lm_head ? lm_head->weight : decoder->embed_tokens->weight; }
  // [N] to [N, d]. On the CPU bf16 is for the weights alone.
  torch::Tensor embed(const torch::Tensor& ids) const {
    const torch::Tensor x = at::embedding(decoder->embed_tokens->weight, ids);
    return x.is_cpu() ? at_least_float(x) : x;
  }
  Pass make_pass(const ModelConfig& config, const ForwardInput& input);

  Decoder decoder;
  Linear lm_head{nullptr};  // null: tied to embed_tokens
  RotaryCache rotary;
};

Pass TransformerImpl::Parts::make_pass(const ModelConfig& config, const ForwardInput& input) {
  const torch::Tensor& tokens = input.tokens;
  TORCH_CHECK(tokens.defined() && tokens.dim() == 2 && tokens.scalar_type() == torch::kLong && tokens.numel() > 0,
              "tokens: got ", tokens.sizes(), ' ', tokens.toString(), ", wanted [B, T] int64, not empty");
  const int64_t batch = tokens.size(0), length = tokens.size(1);
  TORCH_CHECK(length <= config.max_position_embeddings, "tokens: got ", length,
              " positions, wanted at most max_position_embeddings ", config.max_position_embeddings);
  TORCH_CHECK(!input.masked.defined() || input.masked.sizes() == tokens.sizes(), "masked: got ", input.masked.sizes(),
              ", wanted ", tokens.sizes());
  const size_t layers = static_cast<size_t>(config.num_memory_layers());
  TORCH_CHECK(input.memory_off || input.memory.size() == layers, "memory rows: got ", input.memory.size(),
              " layers, wanted ", layers);
  check_starts(input.starts, batch, length);

  Pass pass;
  pass.attention.batch = batch;
  pass.attention.length = length;
  const bool is_double = decoder->embed_tokens->weight.scalar_type() == torch::kDouble;
  rotary.fill(pass.attention, tokens.device(), is_double ? torch::kDouble : torch::kFloat);
  if (config.attention_document_mask && has_inner_start(input.starts))
    pass.attention.first_key = document_first_keys(input.starts, batch, length).to(tokens.device());
  if (config.memory_in_blocks() && !input.memory_off) pass.reach = segment_reach(input, batch, length);
  return pass;
}

// The embedding, and weights that only linear_rows() and moe_experts() read: most bytes of a decode step.
static bool has(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }
static bool is_projection(const std::string& name) { return has(name, "_proj.weight") && !has(name, "kv_b_proj."); }
static bool is_read_by_rows(const std::string& name) {
  return has(name, "embed_tokens.") || has(name, "lm_head.") || has(name, ".experts.") || is_projection(name);
}

TransformerImpl::TransformerImpl(const ModelConfig& config, std::optional<ExpertRanks> expert_ranks)
    : config_(config), expert_ranks_(expert_ranks) {
  const Status status = config.validate();
  TORCH_CHECK(status.ok(), status.message());
  parts_ = std::make_unique<Parts>(config, expert_ranks ? &*expert_ranks : nullptr);
  register_module("model", parts_->decoder);
  if (parts_->lm_head) register_module("lm_head", parts_->lm_head);
}

TransformerImpl::~TransformerImpl() = default;

torch::Tensor TransformerImpl::forward(const ForwardInput& input, ForwardTrace* trace) const {
  DecoderImpl& decoder = *parts_->decoder;
  Pass pass = parts_->make_pass(config_, input);
  if (trace == nullptr) pass.recompute = input.recompute;
  const int64_t batch = pass.attention.batch, length = pass.attention.length, d = config_.hidden_size;
  const bool hyper = config_.has_hyper_connections();
  if (trace != nullptr) {
    trace->gates.clear();
    trace->block_outputs.clear();
  }
  const auto collapsed = [&](const torch::Tensor& x) { return hyper ? decoder.hc_head(x) : x; };

  torch::Tensor ids = input.tokens.reshape({-1});
  if (input.masked.defined()) ids = ids.clamp_min(0);  // a masked position may carry -1
  torch::Tensor x = parts_->embed(ids);
  if (decoder.over_encoding) {
    const MemoryRows rows = input.memory_off ? MemoryRows() : input.memory[0];
    x = decoder.over_encoding->forward(x.view({batch, length, d}), rows).view({-1, d});
  }
  if (hyper) x = x.unsqueeze(1).expand({-1, config_.hc_mult, -1}).contiguous();

  for (Block& block : decoder.blocks) {
    const int layer = block->memory_layer();
    const bool reads = layer >= 0 && !input.memory_off;
    torch::Tensor gates;
    x = block->forward(x, pass, reads ? &input.memory[static_cast<size_t>(layer)] : nullptr,
                       trace != nullptr ? &gates : nullptr);
    if (trace != nullptr && reads) trace->gates.push_back(gates.detach().to(torch::kFloat));
    if (trace != nullptr && trace->after_block) {
      trace->after_block(block->index(), x.view({batch, length, hyper ? config_.hc_mult : 1, d}));
    }
    if (trace != nullptr && trace->want_block_outputs) {
      torch::NoGradGuard no_grad;
      trace->block_outputs.push_back(collapsed(x).view({batch, length, d}).detach());
    }
  }
  return decoder.norm(collapsed(x)).view({batch, length, d});
}

torch::Tensor TransformerImpl::step(const StepInput& input) const {
  TORCH_CHECK(input.step != nullptr && input.cache != nullptr && input.tokens.defined() && input.tokens.dim() == 1 &&
                  input.tokens.size(0) == input.step->num_tokens() && input.tokens.scalar_type() == torch::kLong,
              "step: wanted tokens [N] int64 of a step, and a cache");
  const c10::InferenceMode inference;
  DecoderImpl& decoder = *parts_->decoder;
  const bool hyper = config_.has_hyper_connections(), has_memory = !input.step->all_memory_off();
  const torch::Tensor& weight = decoder.embed_tokens->weight;
  const StepContext context =
      parts_->rotary.at(*input.step, config_.max_position_embeddings, weight.device(),
                        weight.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat);
  torch::Tensor x = parts_->embed(input.tokens);
  if (decoder.over_encoding) {
    x = decoder.over_encoding->step(x, has_memory ? input.memory(0) : torch::Tensor(), *input.step);
  }
  if (hyper) x = x.unsqueeze(1).expand({-1, config_.hc_mult, -1}).contiguous();
  if (input.gates != nullptr) input.gates->clear();
  for (Block& block : decoder.blocks) {
    const bool reads = has_memory && block->memory_layer() >= 0;
    torch::Tensor gates, rows = reads ? input.memory(block->memory_layer()) : torch::Tensor();
    x = block->step(x, context, *input.cache, rows, input.gates != nullptr ? &gates : nullptr);
    if (input.gates != nullptr && reads) input.gates->push_back(gates);
    if (input.after_block) {
      input.after_block(block->index(), x.view({x.size(0), hyper ? config_.hc_mult : 1, config_.hidden_size}));
    }
  }
  return decoder.norm(hyper ? decoder.hc_head(x) : x);
}

void TransformerImpl::silence_memory() {
  if (parts_->decoder->over_encoding) parts_->decoder->over_encoding->silence();
  for (Block& block : parts_->decoder->blocks)
    if (EngramImpl* engram = block->engram()) engram->silence();
}

// On the CPU the weights lie side by side on huge pages, where the machine has them: a decode step reads them all, and
// from small pages that takes a quarter longer.
void TransformerImpl::place(torch::Device device, torch::Dtype dtype) {
  const torch::NoGradGuard no_grad;
  constexpr size_t kLine = 64;
  const auto type_of = [&](const std::string& name) {
    return device.is_cpu() && !is_read_by_rows(name) ? torch::kFloat : dtype;
  };
  const auto bytes_of = [&](const std::string& name, const torch::Tensor& weight) {
    const auto bytes = static_cast<size_t>(weight.numel()) * c10::elementSize(type_of(name));
    return (bytes + kLine - 1) / kLine * kLine;
  };
  size_t total = 0, at = 0;
  for (const auto& item : named_parameters()) total += bytes_of(item.key(), item.value());
  Result<HugeMemory> huge = HugeMemory::allocate(device.is_cpu() ? total : 0, "weights");
  const auto memory = std::make_shared<HugeMemory>(huge.ok() ? std::move(huge).value() : HugeMemory());
  for (auto& item : named_parameters()) {
    torch::Tensor& weight = item.value();
    const torch::Dtype type = type_of(item.key());
    if (memory->bytes().empty()) {
      weight.set_data(weight.to(device, type));
      continue;
    }
    const auto space = memory->bytes().subspan(at, bytes_of(item.key(), weight));
    weight.set_data(torch::from_blob(
                        space.data(), weight.sizes(), [memory](void*) {}, type)
                        .copy_(weight));
    at += space.size();
  }
  for (torch::Tensor& buffer : buffers()) buffer.set_data(buffer.to(device));
}

void TransformerImpl::halve_frozen_projections() {
  for (auto& item : named_parameters())
    if (!item.value().requires_grad() && is_projection(item.key()))
      item.value().set_data(item.value().to(torch::kBFloat16));
}

torch::Tensor TransformerImpl::logits(const torch::Tensor& hidden_BTd) const {
  return at_least_float(linear_rows(hidden_BTd, parts_->head_weight()));
}

torch::Tensor TransformerImpl::block_logits(const torch::Tensor& block_output_BTd) const {
  const int64_t d = config_.hidden_size;
  return logits(parts_->decoder->norm(block_output_BTd.reshape({-1, d})).view(block_output_BTd.sizes()));
}

torch::Tensor TransformerImpl::loss(const torch::Tensor& hidden_BTd, const torch::Tensor& targets_BT) const {
  return linear_cross_entropy(hidden_BTd.reshape({-1, config_.hidden_size}), parts_->head_weight(),
                              targets_BT.reshape({-1}));
}

std::pair<double, int64_t> TransformerImpl::loss_sum(const torch::Tensor& hidden_BTd,
                                                     const torch::Tensor& targets_BT) const {
  torch::NoGradGuard no_grad;
  torch::Tensor targets = targets_BT.reshape({-1});
  torch::Tensor sum = linear_cross_entropy(hidden_BTd.reshape({-1, config_.hidden_size}), parts_->head_weight(),
                                           targets, /*reduction_sum=*/true);
  return {sum.item<double>(), targets.ge(0).sum().item<int64_t>()};
}

void TransformerImpl::join_experts() const {
  for (const Block& block : parts_->decoder->blocks)
    if (MoeImpl* moe = expert_ranks_ ? block->moe() : nullptr) moe->forward(torch::empty({0, config_.hidden_size}));
}

void TransformerImpl::update_expert_bias(double u) {
  for (Block& block : parts_->decoder->blocks)
    if (MoeImpl* moe = block->moe()) moe->update_bias(u);
}

std::vector<torch::Tensor> TransformerImpl::expert_loads() const {
  std::vector<torch::Tensor> loads;
  for (const Block& block : parts_->decoder->blocks)
    if (const MoeImpl* moe = block->moe()) loads.push_back(moe->load());
  return loads;
}

std::vector<double> TransformerImpl::expert_load_ratio() const {
  std::vector<double> ratios;
  for (const Block& block : parts_->decoder->blocks)
    if (const MoeImpl* moe = block->moe()) ratios.push_back(moe->load_ratio());
  return ratios;
}

std::vector<double> TransformerImpl::gate_means() const {
  std::vector<double> means;
  for (const Block& block : parts_->decoder->blocks)
    if (const EngramImpl* engram = block->engram()) means.push_back(engram->gate_mean());
  return means;
}

}  // namespace engram
