// The plain forms: libtorch operators and nothing else, differentiable by autograd on every device and dtype.
// Reduced precision inputs (bf16) are widened to fp32 for norms, gates and sums; results return in the input's dtype.
#include <ATen/autocast_mode.h>

#include <cmath>

#include "engram/model/ops/ops.h"

namespace engram {
namespace {

// fp32 for bf16 and half; fp32 and double stay.
torch::Tensor widen(const torch::Tensor& x) { return x.scalar_type() == torch::kDouble ? x : x.to(torch::kFloat); }

torch::Tensor normalized(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  return at::rms_norm(x, {x.size(-1)}, /*weight=*/std::nullopt, eps) * weight.to(x.scalar_type());
}

// The grouped product takes no double and wants rows of whole 16-byte units.
bool can_group(const torch::Tensor& rows, const torch::Tensor& weight) {
  const int64_t unit = 16 / rows.element_size();
  return rows.scalar_type() != torch::kDouble && weight.size(1) % unit == 0 && weight.size(2) % unit == 0;
}

// Autocast does not know the grouped product: its rows are cast here.
torch::Tensor autocast(const torch::Tensor& x) {
  const c10::DeviceType device = x.device().type();
  return at::autocast::is_autocast_enabled(device) ? x.to(at::autocast::get_autocast_dtype(device)) : x;
}

// Each expert's weight times its slice of the sorted rows.
torch::Tensor expert_products(const torch::Tensor& rows, const torch::Tensor& weight, const torch::Tensor& counts) {
  if (can_group(rows, weight)) {
    return at::_grouped_mm(rows, weight.transpose(1, 2), counts.cumsum(0).to(torch::kInt));
  }
  torch::Tensor host_counts = counts.cpu();
  std::vector<torch::Tensor> parts;
  int64_t begin = 0;
  for (int64_t e = 0; e < weight.size(0); ++e) {
    const int64_t count = host_counts[e].item<int64_t>();
    parts.push_back(rows.narrow(0, begin, count).mm(weight[e].t()));
    begin += count;
  }
  return torch::cat(parts);
}

}  // namespace

torch::Tensor rms_norm_plain(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  return normalized(widen(x), weight, eps).to(x.scalar_type());
}

torch::Tensor swiglu_plain(const torch::Tensor& gate_up) {
  auto halves = gate_up.chunk(2, -1);
  return torch::silu(halves[0]) * halves[1];
}

torch::Tensor apply_rope_plain(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin,
                               bool interleaved) {
  const int64_t half = x.size(-1) / 2;
  torch::Tensor wide = widen(x);
  // [.., r/2, 2] with the pair last, or [.., 2, r/2] with the pair first.
  torch::Tensor pairs = interleaved ? wide.unflatten(-1, {half, 2}) : wide.unflatten(-1, {2, half});
  const int64_t pair_dim = interleaved ? -1 : -2;
  torch::Tensor first = pairs.select(pair_dim, 0), second = pairs.select(pair_dim, 1);
  torch::Tensor c = cos.to(wide.scalar_type()).unsqueeze(1), s = sin.to(wide.scalar_type()).unsqueeze(1);
  const torch::Tensor turned_first = at::addcmul(first * c, second, s, -1),
                      turned_second = at::addcmul(second * c, first, s);
  return torch::stack({turned_first, turned_second}, pair_dim).flatten(-2).to(x.scalar_type());
}

torch::Tensor linear_cross_entropy_plain(const torch::Tensor& hidden, const torch::Tensor& weight,
                                         const torch::Tensor& targets, bool reduction_sum) {
  torch::Tensor logits = widen(hidden.mm(weight.to(hidden.scalar_type()).t()));
  torch::Tensor valid = targets >= 0;
  torch::Tensor picked = torch::log_softmax(logits, -1).gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1);
  torch::Tensor sum = -(picked * valid).sum();
  return reduction_sum ? sum : sum / valid.sum().clamp_min(1);
}

torch::Tensor count_choices(const torch::Tensor& topk_index, int64_t experts) {
  const torch::Tensor flat = topk_index.reshape({-1});
  if (flat.is_cpu()) return at::bincount(flat, {}, experts);
  return torch::zeros({experts}, flat.options()).scatter_add_(0, flat, torch::ones_like(flat));  // bincount would wait
}

torch::Tensor moe_experts_plain(const torch::Tensor& input, const torch::Tensor& gate_up, const torch::Tensor& down,
                                const torch::Tensor& topk_index, const torch::Tensor& topk_weight) {
  const torch::Tensor x = autocast(input);
  const int64_t n = topk_index.size(0), k = topk_index.size(1), experts = gate_up.size(0);
  torch::Tensor flat = topk_index.reshape({-1});
  torch::Tensor order = std::get<1>(flat.sort(/*stable=*/true, /*dim=*/0, /*descending=*/false));
  torch::Tensor rank = torch::empty_like(order).scatter_(0, order, torch::arange(n * k, order.options()));
  torch::Tensor counts = count_choices(flat, experts);
  torch::Tensor rows = x.unsqueeze(1).expand({n, k, x.size(1)}).reshape({n * k, x.size(1)}).index_select(0, order);
  torch::Tensor inner = swiglu_plain(expert_products(rows, gate_up.to(x.scalar_type()), counts));
  torch::Tensor out = expert_products(inner, down.to(x.scalar_type()), counts).index_select(0, rank);
  torch::Tensor wide = widen(out).view({n, k, x.size(1)});
  return (wide * topk_weight.to(wide.scalar_type()).unsqueeze(-1)).sum(1).to(input.scalar_type());
}

torch::Tensor gather_rows_plain(const torch::Tensor& unique_rows, const torch::Tensor& index) {
  return unique_rows.index_select(0, index.reshape({-1})).view({index.size(0), index.size(1), -1});
}

std::pair<torch::Tensor, torch::Tensor> engram_fuse_plain(const torch::Tensor& hidden, const torch::Tensor& projected,
                                                          const torch::Tensor& query_norm,
                                                          const torch::Tensor& key_norm, const torch::Tensor& conv_norm,
                                                          const torch::Tensor& conv_weight, const torch::Tensor& reach,
                                                          const EngramFuseOptions& options) {
  const int64_t batch = hidden.size(0), length = hidden.size(1), streams = hidden.size(2), dim = hidden.size(3);
  torch::Tensor memory = widen(projected);
  torch::Tensor key = memory.narrow(-1, 0, streams * dim).reshape({batch, length, streams, dim});
  torch::Tensor value = memory.narrow(-1, streams * dim, dim).unsqueeze(2);
  torch::Tensor seen = reach.defined()
                           ? reach.to(torch::kLong)
                           : torch::arange(length, hidden.options().dtype(torch::kLong)).expand({batch, length});
  torch::Tensor unmasked = (seen >= 0).to(memory.scalar_type()).unsqueeze(-1);  // [B, T, 1]

  torch::Tensor alpha = unmasked.expand({batch, length, streams});
  if (options.gate) {
    torch::Tensor query = normalized(widen(hidden), query_norm, options.gate_norm_eps);
    torch::Tensor score = (normalized(key, key_norm, options.gate_norm_eps) * query).sum(-1) / std::sqrt(double(dim));
    alpha = torch::sigmoid(score.sign() * score.abs().clamp_min(1e-6).sqrt()) * unmasked;
  }
  torch::Tensor v = alpha.unsqueeze(-1) * value;
  torch::Tensor y = v;
  if (conv_weight.defined()) {
    const int64_t taps = conv_weight.size(1);
    torch::Tensor input = normalized(v, conv_norm, options.conv_norm_eps);
    torch::Tensor weight = conv_weight.to(v.scalar_type()).view({streams, dim, taps});
    torch::Tensor sum = torch::zeros_like(v);
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t offset = (taps - 1 - tap) * options.dilation;
      if (offset >= length) continue;
      torch::Tensor older = torch::constant_pad_nd(input, {0, 0, 0, 0, offset, 0}).narrow(1, 0, length);
      torch::Tensor visible = (seen >= offset).to(v.scalar_type()).unsqueeze(-1).unsqueeze(-1);
      sum = sum + older * visible * weight.select(-1, tap);
    }
    y = v + torch::silu(sum);
  }
  return {y.to(hidden.scalar_type()), alpha.detach()};
}

}  // namespace engram
