#include "engram/model/parameters.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

namespace engram {
namespace {

// Sizes of a hostile config.json stay below 2^24 each, but not their products.
using Wide = __int128;

constexpr double kMostParameters = 1e18;

Wide attention_parameters(const ModelConfig& c) {
  const Wide d = c.hidden_size, heads = c.num_attention_heads;
  if (c.attention == AttentionKind::kGqa) {
    const Wide columns = (heads + 2 * c.num_key_value_heads) * c.head_dim;
    return columns * (d + (c.qkv_bias ? 1 : 0)) + d * heads * c.head_dim + (c.qk_norm ? 2 * c.head_dim : 0);
  }
  const Wide query_out = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  const Wide rank = c.q_lora_rank;
  const Wide query = rank == 0 ? d * query_out : d * rank + rank + rank * query_out;
  const Wide latent = d * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank;
  const Wide up = c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim);
  return query + latent + up + heads * c.v_head_dim * d;
}

// One hyper-connection per sub-layer: mapping, biases, three scales. One stream is a plain residual, without any.
Wide connection_parameters(const ModelConfig& c) {
  const Wide n = c.hc_mult, mix = 2 * n + n * n;
  return c.has_hyper_connections() ? mix * n * c.hidden_size + mix + 3 : 0;
}

// The gated sum that collapses the streams before the final norm.
Wide stream_head_parameters(const ModelConfig& c) {
  const Wide n = c.hc_mult;
  return c.has_hyper_connections() ? n * n * c.hidden_size + n + 1 : 0;
}

Wide engram_parameters(const ModelConfig& c) {
  const Wide d = c.hidden_size, gated = c.engram_branch_gates ? c.hc_mult : 1;
  const Wide out = (gated + 1) * d;
  Wide total = out * c.engram.memory_dim() + 2 * gated * d;
  if (c.engram_proj_bias) total += out;
  if (c.engram_conv) total += gated * d + gated * d * c.engram_kernel_size;
  return total;
}

// What memory adds without its tables: every token uses all of it.
Wide memory_module_parameters(const ModelConfig& c) {
  if (c.memory_at_input()) return Wide{c.hidden_size} * c.engram.memory_dim();
  return c.num_memory_layers() * engram_parameters(c);
}

int64_t moe_blocks(const ModelConfig& c) {
  int64_t blocks = 0;
  for (int block = 0; block < c.num_hidden_layers; ++block) blocks += c.is_moe_block(block);
  return blocks;
}

// Everything but the tables, which every form of the count adds itself.
struct BackboneCount {
  Wide shared_by_all = 0;  // what every token uses
  Wide routed = 0, routed_active = 0;
};

BackboneCount count_backbone(const ModelConfig& c) {
  const Wide d = c.hidden_size, blocks = c.num_hidden_layers, moe = moe_blocks(c);
  const Wide expert = 3 * d * c.moe_intermediate_size;
  BackboneCount count;
  count.shared_by_all = d + stream_head_parameters(c);  // d: the final norm
  count.shared_by_all += blocks * (attention_parameters(c) + 2 * d + 2 * connection_parameters(c));
  count.shared_by_all += (blocks - moe) * 3 * d * c.intermediate_size;
  count.shared_by_all += moe * (d * c.n_routed_experts + 3 * d * c.shared_expert_intermediate_size);
  count.shared_by_all += memory_module_parameters(c);
  count.routed = moe * c.n_routed_experts * expert;
  count.routed_active = moe * c.num_experts_per_tok * expert;
  return count;
}

ParameterCount count_with_table(const ModelConfig& c, int64_t table) {
  const BackboneCount backbone = count_backbone(c);
  const int64_t active_rows = c.memory == MemoryKind::kNone ? 0 : c.num_memory_layers() * c.engram.memory_dim();
  ParameterCount count;
  count.vocabulary = int64_t{c.vocab_size} * c.hidden_size * (c.tie_word_embeddings ? 1 : 2);
  count.table = table;
  count.routed = static_cast<int64_t>(backbone.routed);
  count.p_tot = static_cast<int64_t>(backbone.shared_by_all + backbone.routed) + table;
  count.p_act = static_cast<int64_t>(backbone.shared_by_all + backbone.routed_active) + active_rows;
  count.p_sparse = count.p_tot - count.p_act;
  const double sparse_experts = static_cast<double>(backbone.routed - backbone.routed_active);
  if (count.p_sparse > 0) count.rho = sparse_experts / static_cast<double>(count.p_sparse);
  return count;
}

Status check_countable(const ModelConfig& c) {
  const BackboneCount backbone = count_backbone(c);
  const double total = static_cast<double>(backbone.shared_by_all + backbone.routed);
  if (total <= kMostParameters) return Status();
  return invalid_argument("the configuration has {:.3g} parameters, wanted at most {:.0g}", total, kMostParameters);
}

Result<int64_t> total_rows(const EngramConfig& engram) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int64_t> rows, count_rows(engram));
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

double relative(int64_t got, int64_t wanted) {
  return std::abs(static_cast<double>(got - wanted)) / static_cast<double>(wanted);
}

// Narrows the shared expert until P_act is as near to the base's as steps of 1 allow.
Status pay_active_parameters(const ParameterCount& base, double rho, ModelConfig& config) {
  const int64_t step = moe_blocks(config) * 3 * int64_t{config.hidden_size};
  const int64_t excess = count_with_table(config, 0).p_act - base.p_act;
  const int64_t narrower = std::llround(static_cast<double>(excess) / static_cast<double>(step));
  const int64_t width = config.shared_expert_intermediate_size - narrower;
  if (width < 1) {
    return invalid_argument(
        "rho = {}: the memory adds {} active parameters (projections, norms, convolution, rows; smaller routers "
        "deducted), and the shared experts can give at most {} = {} MoE blocks x 3 x {} x ({} - 1); wanted P_act = {}. "
        "Use fewer memory layers, heads or columns, fewer residual streams, or a wider shared expert",
        rho, excess, step * std::max(config.shared_expert_intermediate_size - 1, 0), moe_blocks(config),
        config.hidden_size, config.shared_expert_intermediate_size, base.p_act);
  }
  config.shared_expert_intermediate_size = static_cast<int>(width);
  const int64_t active = count_with_table(config, 0).p_act;
  if (relative(active, base.p_act) > kActiveTolerance) {
    return invalid_argument("rho = {}: P_act is {} with a shared expert of width {}, wanted {} within {} %", rho,
                            active, width, base.p_act, kActiveTolerance * 100);
  }
  return Status();
}

// Tables that together have what P_tot leaves.
Status size_tables_at(const ParameterCount& base, double rho, ModelConfig& config) {
  const int64_t without_table = count_with_table(config, 0).p_tot;
  const double wanted_rows = static_cast<double>(base.p_tot - without_table) / config.engram.head_dim;
  const int64_t heads = int64_t{config.num_memory_layers()} * config.engram.rows_per_token();
  if (wanted_rows < 2.0 * static_cast<double>(heads)) {
    return invalid_argument("rho = {}: {:.0f} table rows are left for {} heads, wanted at least 2 each; lower rho", rho,
                            wanted_rows, heads);
  }
  ENGRAM_ASSIGN_OR_RETURN(const int64_t rows, size_tables(wanted_rows, config.engram));
  const int64_t total = without_table + rows * config.engram.head_dim;
  if (relative(total, base.p_tot) > kTotalTolerance) {
    return invalid_argument("rho = {}: the nearest tables have {} rows and P_tot {}, wanted {} within {} %", rho, rows,
                            total, base.p_tot, kTotalTolerance * 100);
  }
  return Status();
}

}  // namespace

Result<ParameterCount> count_parameters(const ModelConfig& config) {
  ENGRAM_RETURN_IF_ERROR(check_countable(config));
  if (config.memory == MemoryKind::kNone) return count_with_table(config, 0);
  ENGRAM_ASSIGN_OR_RETURN(const int64_t rows, total_rows(config.engram));
  if (static_cast<double>(rows) * config.engram.head_dim > kMostParameters) {
    return invalid_argument("the tables have {} rows of {} columns, wanted at most {:.0g} parameters", rows,
                            config.engram.head_dim, kMostParameters);
  }
  return count_with_table(config, rows * config.engram.head_dim);
}

double training_flops_per_token(const ModelConfig& c, const ParameterCount& count, int64_t length) {
  const int64_t rows = c.memory == MemoryKind::kNone ? 0 : c.num_memory_layers() * c.engram.memory_dim();
  const int64_t head = int64_t{c.vocab_size} * c.hidden_size;
  const int64_t columns =
      c.attention == AttentionKind::kGqa ? 2 * c.head_dim : c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim;
  const double attention = static_cast<double>(c.num_hidden_layers) * c.num_attention_heads *
                           static_cast<double>(columns) * static_cast<double>(length);
  return 6 * (static_cast<double>(count.p_act - rows + head) + attention);
}

void set_head_rows(EngramConfig& config, int64_t rows) {
  if (config.rule == HashRule::kLongcat) {  // head i then has rows + 2 i + 1, whichever way the product is rounded
    config.vocab_size_ratio = (static_cast<double>(rows) + .5) / config.compressed_vocab_size;
  } else {
    config.vocab_size.assign(static_cast<size_t>(config.max_ngram_size - 1), rows);
  }
}

Result<int64_t> size_tables(double wanted, EngramConfig& config) {
  const auto heads = static_cast<double>(config.layer_ids.size()) * config.rows_per_token();
  const auto rows_from = [&config](int64_t start) {
    set_head_rows(config, start);
    return total_rows(config);
  };
  int64_t low = 1, high = static_cast<int64_t>(wanted / std::max(heads, 1.0)) + 2;  // heads exceed their start
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    ENGRAM_ASSIGN_OR_RETURN(const int64_t rows, rows_from(middle));
    (static_cast<double>(rows) <= wanted ? low : high) = middle;
  }
  ENGRAM_ASSIGN_OR_RETURN(const int64_t rows_low, rows_from(low));
  ENGRAM_ASSIGN_OR_RETURN(const int64_t rows_high, rows_from(high));
  if (std::abs(static_cast<double>(rows_low) - wanted) > std::abs(static_cast<double>(rows_high) - wanted))
    return rows_high;
  return rows_from(low);
}

BlockParameters active_parameters(const ModelConfig& c, int block) {
  const Wide d = c.hidden_size;
  Wide ffn = 3 * d * c.intermediate_size;
  if (c.is_moe_block(block))
    ffn = d * c.n_routed_experts +
          3 * d * (Wide{c.num_experts_per_tok} * c.moe_intermediate_size + c.shared_expert_intermediate_size);
  const auto& layers = c.engram.layer_ids;
  const bool memory = c.memory != MemoryKind::kNone && std::find(layers.begin(), layers.end(), block) != layers.end();
  const Wide module = memory ? memory_module_parameters(c) / c.num_memory_layers() : 0;
  return {static_cast<int64_t>(attention_parameters(c)), static_cast<int64_t>(ffn), static_cast<int64_t>(module)};
}

int experts_at(int n_routed_experts, int num_experts_per_tok, double rho) {
  return num_experts_per_tok + static_cast<int>(std::lround(rho * (n_routed_experts - num_experts_per_tok)));
}

Result<Allocation> solve_allocation(const ModelConfig& base, double rho) {
  if (!(rho >= 0.0 && rho <= 1.0)) return invalid_argument("rho: got {}, wanted 0 <= rho <= 1", rho);
  Allocation out;
  out.config = base;
  out.config.memory = MemoryKind::kNone;
  ENGRAM_ASSIGN_OR_RETURN(out.base, count_parameters(out.config));
  if (rho == 1.0) {
    out.solved = out.base;
    return out;
  }
  if (base.ffn != FfnKind::kMoe || moe_blocks(base) == 0 || base.n_routed_experts <= base.num_experts_per_tok) {
    return invalid_argument(
        "rho = {}: the base has {} MoE blocks, {} routed experts and {} per token; wanted a mixture with sparse "
        "experts",
        rho, moe_blocks(base), base.n_routed_experts, base.num_experts_per_tok);
  }
  out.config.memory = base.memory == MemoryKind::kOverEncoding ? MemoryKind::kOverEncoding : MemoryKind::kEngram;
  if (out.config.engram.layer_ids.empty()) {
    return invalid_argument("rho = {}: engram.layer_ids is empty, wanted the blocks that get a memory", rho);
  }
  out.config.n_routed_experts = experts_at(base.n_routed_experts, base.num_experts_per_tok, rho);
  ENGRAM_RETURN_IF_ERROR(pay_active_parameters(out.base, rho, out.config));
  ENGRAM_RETURN_IF_ERROR(size_tables_at(out.base, rho, out.config));
  ENGRAM_ASSIGN_OR_RETURN(out.solved, count_parameters(out.config));
  return out;
}

std::string describe(const ParameterCount& count) {
  auto millions = [](int64_t n) { return static_cast<double>(n) / 1e6; };
  return fmt::format(
      "P_tot {:.3f}M, P_act {:.3f}M, P_sparse {:.3f}M (experts {:.3f}M in all, tables {:.3f}M), rho {:.3f}, vocabulary "
      "{:.3f}M",
      millions(count.p_tot), millions(count.p_act), millions(count.p_sparse), millions(count.routed),
      millions(count.table), count.rho, millions(count.vocabulary));
}

}  // namespace engram
