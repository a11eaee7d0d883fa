// Blocks of the model, forward and backward, and what libtorch makes of them.
#include <cmath>

#include "bench/ops_cases.h"
#include "engram/core/status.h"
#include "engram/kernels/moe.h"
#include "engram/model/layers/attention.h"
#include "engram/model/layers/hyper_connection.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/parallel.h"

namespace engram::bench {
namespace {

constexpr double kEps = 1e-6, kBf16 = 3e-2;  // kBf16: tolerance where a side rounds to bf16

// Rotary pairs as complex numbers, one product. x [B, T, H, r], turn [T, 1, r / 2] complex.
Tensor complex_rope(const Tensor& x, const Tensor& turn) {
  const Tensor pairs = at::view_as_complex(x.unflatten(-1, {-1, 2}));
  return at::view_as_real(pairs * turn).flatten(-2);
}

Tensor complex_turn(const Tensor& cos, const Tensor& sin) { return at::complex(cos, sin).unsqueeze(1); }

// scaled_dot_product_attention in `dtype`, with padded heads as attend_plain has them: one width takes the flash form.
Tensor sdpa_attention(const Tensors& t, const AttentionContext& context, const AttentionHeads& h, torch::Dtype dtype,
                      const Tensor& turn) {
  const int64_t b = context.batch, length = context.length, width = h.nope + h.rope;
  const auto turned = [&](const Tensor& x) { return complex_rope(x.to(torch::kFloat), turn).to(dtype); };
  const auto q = t[0].view({b, length, h.heads, width}).split_with_sizes({h.nope, h.rope}, -1);
  const auto kv = t[1].view({b, length, h.heads, h.nope + h.value}).split_with_sizes({h.nope, h.value}, -1);
  const Tensor k_rope = turned(t[2].view({b, length, 1, h.rope})).expand({b, length, h.heads, h.rope});
  const Tensor out = at::scaled_dot_product_attention(
      at::cat({q[0].to(dtype), turned(q[1])}, -1).transpose(1, 2),
      at::cat({kv[0].to(dtype), k_rope}, -1).transpose(1, 2),
      at::constant_pad_nd(kv[1].to(dtype), {0, width - h.value}).transpose(1, 2), std::nullopt, 0.0, /*is_causal=*/true,
      1 / std::sqrt(static_cast<double>(width)));
  return out.transpose(1, 2).narrow(-1, 0, h.value).reshape({b * length, h.heads * h.value}).to(t[0].scalar_type());
}

void attention_cases(const OpsShape& s, OpsCases& cases) {
  const Tensor angle = torch::randn({s.length, s.rope / 2});
  AttentionContext context;
  context.batch = s.batch;
  context.length = s.length;
  context.cos = angle.cos();
  context.sin = angle.sin();
  const Tensor turn = complex_turn(context.cos, context.sin);
  const AttentionHeads h{s.heads, s.heads, s.nope, s.rope, s.value, /*interleaved=*/true, /*shared_rope_key=*/true};
  const Tensors leaves{leaf({s.tokens(), s.heads * (s.nope + s.rope)}, 1, s.dtype()),
                       leaf({s.tokens(), s.heads * (s.nope + s.value)}, 1, s.dtype()),
                       leaf({s.tokens(), s.rope}, 1, s.dtype())};
  const double tolerance = s.bf16 ? kBf16 : 1e-3;
  std::vector<OpsWay> rivals{
      {"sdpa, rotation by pairs", [=](const Tensors& t) { return attend_plain(t[0], t[1], t[2], context, h); },
       tolerance},
      {"sdpa", [=](const Tensors& t) { return sdpa_attention(t, context, h, s.dtype(), turn); }, tolerance}};
  if (s.bf16) {
    rivals.push_back(
        {"sdpa in fp32", [=](const Tensors& t) { return sdpa_attention(t, context, h, torch::kFloat, turn); }, kBf16});
  }
  const auto pairs = static_cast<double>(s.batch * s.heads * s.length * (s.length + 1) / 2);
  const double flops = 2 * pairs * static_cast<double>(s.nope + s.rope + s.value);
  add_passes(cases, "", leaves, {"", [=](const Tensors& t) { return attend(t[0], t[1], t[2], context, h); }}, rivals,
             {.flops = flops}, {.flops = 3.5 * flops});  // the backward pass makes the scores again
}

// Loss and gradients chunk by chunk, logits turned into their gradient in place: {loss, dhidden, dweight}.
Tensors chunked_loss(const Tensors& t, const Tensor& targets, int64_t rows, torch::Dtype dtype, bool gradients) {
  const at::NoGradGuard no_grad;
  const Tensor hidden = t[0].to(dtype), weight = t[1].to(dtype);
  const int64_t tokens = hidden.size(0);
  Tensor loss = torch::zeros({}), dhidden = torch::empty_like(hidden), dweight = torch::zeros_like(t[1]);
  for (int64_t begin = 0; begin < tokens; begin += rows) {
    const int64_t count = std::min(rows, tokens - begin);
    const Tensor chunk = hidden.narrow(0, begin, count), ids = targets.narrow(0, begin, count).unsqueeze(1);
    Tensor log_p = at::log_softmax(at::linear(chunk, weight).to(torch::kFloat), -1);
    loss -= log_p.gather(1, ids).sum();
    if (!gradients) continue;
    log_p.exp_().scatter_add_(1, ids, torch::full({count, 1}, -1.0f)).mul_(1.0 / static_cast<double>(tokens));
    const Tensor dlogits = log_p.to(dtype);
    Tensor to = dhidden.narrow(0, begin, count);
    at::mm_out(to, dlogits, weight);
    dtype == torch::kFloat ? dweight.addmm_(dlogits.t(), chunk) : dweight.add_(dlogits.t().mm(chunk));
  }
  loss /= static_cast<double>(tokens);
  return gradients ? Tensors{loss, dhidden, dweight} : Tensors{loss};
}

void cross_entropy_cases(const OpsShape& s, OpsCases& cases) {
  const Tensor targets = torch::randint(0, s.vocabulary, {s.tokens()}, torch::kLong);
  const Tensors leaves{leaf({s.tokens(), s.dim}), leaf({s.vocabulary, s.dim}, 0.1)};
  const auto whole = [=](const Tensors& t) {
    return at::cross_entropy_loss(at::linear(t[0].to(s.dtype()), t[1].to(s.dtype())).to(torch::kFloat), targets);
  };
  std::vector<OpsWay> rivals{{"linear, cross_entropy", whole, s.bf16 ? kBf16 : 1e-3}};
  if (s.bf16) {
    rivals.push_back({"linear, cross_entropy of bf16 logits",
                      [=](const Tensors& t) {
                        const Tensor logits = at::linear(t[0].to(s.dtype()), t[1].to(s.dtype()));
                        return at::cross_entropy_loss(logits, targets).to(torch::kFloat);
                      },
                      kBf16});
  }
  const double flops = 2.0 * static_cast<double>(s.tokens() * s.dim * s.vocabulary);
  add_passes(cases, "", leaves,
             {"", [=](const Tensors& t) { return linear_cross_entropy(t[0].to(s.dtype()), t[1], targets, false); }},
             rivals, {.flops = flops, .bf16 = s.bf16}, {.flops = 3 * flops, .bf16 = s.bf16});
  for (size_t i = 0; i < 2; ++i) {
    for (const int64_t rows : {128, 512}) {
      cases[i].rivals.push_back({fmt::format("linear, log_softmax in chunks of {}", rows),
                                 [=] { return chunked_loss(leaves, targets, rows, s.dtype(), i == 1); },
                                 s.bf16 ? kBf16 : 1e-3});
    }
  }
}

// engram_fuse with its convolution as a depthwise conv1d, which cannot see document starts.
Tensor conv1d_fuse(const Tensors& t, const EngramFuseOptions& options) {
  const int64_t batch = t[0].size(0), length = t[0].size(1), streams = t[0].size(2), dim = t[0].size(3);
  const Tensor memory = t[1].to(torch::kFloat);
  const Tensor key = memory.narrow(-1, 0, streams * dim).unflatten(-1, {streams, dim});
  const Tensor value = memory.narrow(-1, streams * dim, dim).unsqueeze(2);
  const auto normal = [&](const Tensor& x, const Tensor& weight, double eps) {
    return at::rms_norm(x, {dim}, std::nullopt, eps) * weight;
  };
  const Tensor score =
      (normal(key, t[3], options.gate_norm_eps) * normal(t[0], t[2], options.gate_norm_eps)).sum(-1, true) /
      std::sqrt(static_cast<double>(dim));
  const Tensor v = (score.sign() * score.abs().clamp_min(1e-6).sqrt()).sigmoid() * value;
  const int64_t taps = t[5].size(1);
  const Tensor input = at::constant_pad_nd(normal(v, t[4], options.conv_norm_eps).flatten(2).transpose(1, 2),
                                           {(taps - 1) * options.dilation, 0});
  const Tensor z = at::conv1d(input, t[5].unsqueeze(1), {}, 1, at::IntArrayRef{0}, options.dilation, streams * dim);
  return v + at::silu(z.transpose(1, 2)).reshape({batch, length, streams, dim});
}

void engram_fuse_cases(const OpsShape& s, OpsCases& cases) {
  constexpr int64_t kTaps = 4;
  const int64_t d = s.dim;
  const Tensors leaves{leaf({s.batch, s.length, 1, d}),
                       leaf({s.batch, s.length, 2 * d}, 1, s.dtype()),
                       leaf({1, d}),
                       leaf({1, d}),
                       leaf({1, d}),
                       leaf({d, kTaps}, 0.1)};
  const Tensor reach = torch::arange(s.length, torch::kInt).expand({s.batch, s.length}).contiguous();
  const auto fuse = [=](auto op) {
    return [=](const Tensors& t) { return op(t[0], t[1], t[2], t[3], t[4], t[5], reach, EngramFuseOptions()).first; };
  };
  const double tolerance = s.bf16 ? kBf16 : 1e-3;
  const auto floats = static_cast<double>(s.tokens() * d);
  const double projected = s.bf16 ? 2 : 4;
  add_passes(cases, "", leaves, {"", fuse(engram_fuse)},
             {{"composed, a product per tap", fuse(engram_fuse_plain), tolerance},
              {"composed, depthwise conv1d", [](const Tensors& t) { return conv1d_fuse(t, {}); }, tolerance}},
             {.bytes = floats * (8 + 2 * projected)}, {.bytes = floats * (8 + 2 * projected + 12 + 4 * projected)});
}

// mix and merge with the tokens last while Sinkhorn runs, so that its sums run across them.
Tensor hyper_tokens_last(const Tensors& t, const HyperOptions& o) {
  const int64_t n = o.streams;
  const Tensor flat = t[0].flatten(1);
  const Tensor mixed = at::mm(t[1], flat.t()) * at::rsqrt(flat.square().mean(-1) + o.norm_eps);  // [K, N]
  const auto part = [&](int64_t at, int64_t size, int64_t scale) {
    return mixed.narrow(0, at, size) * t[3].select(0, scale) + t[2].narrow(0, at, size).unsqueeze(1);
  };
  const Tensor pre = part(0, n, 0).sigmoid() + o.eps, post = part(n, n, 1).sigmoid() * 2;
  Tensor comb = part(2 * n, n * n, 2).view({n, n, -1}).softmax(1) + o.eps;  // [old, new, N]
  comb = comb / (comb.sum(0, true) + o.eps);
  for (int i = 1; i < o.iterations; ++i) {
    comb = comb / (comb.sum(1, true) + o.eps);
    comb = comb / (comb.sum(0, true) + o.eps);
  }
  const Tensor input = at::bmm(pre.t().unsqueeze(1), t[0]);  // [N, 1, d]
  return at::baddbmm(post.t().unsqueeze(2) * input, comb.permute({2, 1, 0}), t[0]);
}

void hyper_cases(const OpsShape& s, OpsCases& cases) {
  constexpr int64_t kMixes = (2 + kStreams) * kStreams;
  HyperOptions options;
  options.streams = kStreams;
  const Tensors leaves{leaf({s.tokens(), kStreams, s.dim}), leaf({kMixes, kStreams * s.dim}, 0.05), leaf({kMixes}),
                       leaf({3})};
  const auto with = [=](auto mix, auto merge) {
    return [=](const Tensors& t) {
      const HyperMix mixed = mix(t[0], t[1], t[2], t[3], options);
      return merge(mixed.coefficients_NK, t[0], mixed.input_Nd);
    };
  };
  const auto floats = static_cast<double>(s.tokens() * kStreams * s.dim);
  add_passes(cases, "mix and merge, ", leaves, {"", with(hyper_mix, hyper_merge)},
             {{"composed", with(hyper_mix_plain, hyper_merge_plain)},
              {"composed, tokens last", [=](const Tensors& t) { return hyper_tokens_last(t, options); }, 5e-3}},
             {.bytes = 8 * floats}, {.bytes = 8 * floats + 12 * floats});
}

// Every expert's rows padded to those of the fullest: two batched products.
Tensor padded_experts(const Tensors& t, const Tensor& choice, torch::Dtype dtype) {
  const int64_t experts = t[1].size(0), dim = t[0].size(1), tokens = choice.size(0);
  const Tensor flat = choice.reshape({-1}), order = std::get<1>(flat.sort(/*stable=*/true, 0, false));
  const Tensor counts = at::bincount(flat, {}, experts), begins = counts.cumsum(0) - counts;
  const int64_t most = counts.max().item<int64_t>();
  const Tensor place = torch::arange(flat.size(0), torch::kLong);
  const Tensor rank = torch::empty_like(order).scatter_(0, order, place);
  const Tensor slot = flat * most + (rank - begins.index_select(0, flat));
  const Tensor rows = t[0].to(dtype).index_select(0, place.div(kChoices, "floor"));
  const Tensor padded = torch::zeros({experts * most, dim}, dtype).index_copy(0, slot, rows).view({experts, most, dim});
  const Tensor inner = swiglu_plain(at::bmm(padded, t[1].to(dtype).transpose(1, 2)));
  const Tensor out = at::bmm(inner, t[2].to(dtype).transpose(1, 2)).flatten(0, 1).index_select(0, slot);
  return (out.view({tokens, kChoices, dim}).to(torch::kFloat) * t[3].unsqueeze(-1)).sum(1);
}

Tensors expert_leaves(const OpsShape& s, int64_t tokens) {
  return {leaf({tokens, s.dim}), leaf({s.experts, 2 * s.width, s.dim}, 0.1), leaf({s.experts, s.dim, s.width}, 0.1),
          torch::rand({tokens, kChoices}).set_requires_grad(true)};
}

std::vector<OpsWay> expert_rivals(const OpsShape& s, const Tensor& choice) {
  std::vector<OpsWay> rivals;
  for (const torch::Dtype dtype : {torch::kFloat, torch::kBFloat16}) {
    if (dtype == torch::kBFloat16 && !s.bf16) continue;
    const std::string suffix = dtype == torch::kFloat ? "" : ", bf16";
    const double tolerance = dtype == torch::kFloat ? 1e-3 : kBf16;
    rivals.push_back(
        {"_grouped_mm" + suffix,
         [=](const Tensors& t) {
           return moe_experts_plain(t[0].to(dtype), t[1].to(dtype), t[2].to(dtype), choice, t[3]).to(torch::kFloat);
         },
         tolerance});
    rivals.push_back(
        {"padded bmm" + suffix, [=](const Tensors& t) { return padded_experts(t, choice, dtype); }, tolerance});
  }
  return rivals;
}

void moe_cases(const OpsShape& s, OpsCases& cases) {
  const auto choose = [&](int64_t tokens) { return std::get<1>(torch::rand({tokens, s.experts}).topk(kChoices, 1)); };
  const Tensor choice = choose(s.tokens()), few = choose(kSequences);
  const auto ours = [](const Tensor& index) {
    return [=](const Tensors& t) { return moe_experts(t[0], t[1], t[2], index, t[3]); };
  };
  const double flops = 6.0 * static_cast<double>(s.tokens() * kChoices * s.dim * s.width);
  add_passes(cases, "", expert_leaves(s, s.tokens()), {"", ours(choice)}, expert_rivals(s, choice), {.flops = flops},
             {.flops = 3 * flops});

  const Tensors leaves = expert_leaves(s, kSequences);
  const auto used = static_cast<double>(std::get<0>(at::_unique(few)).numel());
  OpsCase decode{"8 tokens, forward",
                 inference([=] { return ours(few)(leaves); }),
                 {},
                 {.bytes = 12.0 * used * static_cast<double>(s.dim * s.width)}};
  for (const OpsWay& rival : expert_rivals(s, few)) {
    decode.rivals.push_back({rival.name, inference([=] { return rival.op(leaves); }), rival.tolerance});
  }
  cases.push_back(decode);

  const Tensor scores = torch::rand({s.tokens(), s.experts}),
               index = torch::empty({s.tokens(), kChoices}, torch::kLong);
  const auto topk = [=](bool sorted) {
    return inference([=] { return std::get<1>(scores.topk(kChoices, 1, true, sorted)); });
  };
  cases.push_back({"choice of experts",
                   [=]() -> Tensors {
                     parallel_ranges(scores.size(0), /*grain=*/256, [&](int64_t begin, int64_t end) {
                       choose_largest(scores.const_data_ptr<float>() + begin * scores.size(1), end - begin,
                                      scores.size(1), kChoices, index.mutable_data_ptr<int64_t>() + begin * kChoices);
                     });
                     return {index};
                   },
                   {{"topk", topk(true), 0}, {"topk, unsorted", topk(false), -1}},
                   {.bytes = 4.0 * static_cast<double>(scores.numel() + 2 * index.numel())}});
}

void norm_cases(const OpsShape& s, OpsCases& cases) {
  const Tensors leaves{leaf({s.tokens(), s.dim}), leaf({s.dim})};
  const auto floats = static_cast<double>(s.tokens() * s.dim);
  add_passes(cases, "", leaves, {"", [](const Tensors& t) { return rms_norm(t[0], t[1], kEps); }},
             {{"rms_norm", [=](const Tensors& t) { return at::rms_norm(t[0], {s.dim}, t[1], kEps); }},
              {"composed, mean of squares",
               [](const Tensors& t) { return t[0] * at::rsqrt(t[0].square().mean(-1, true) + kEps) * t[1]; }},
              {"composed, linalg_vector_norm",
               [=](const Tensors& t) {
                 const Tensor norm = at::linalg_vector_norm(t[0], 2, at::IntArrayRef{-1}, /*keepdim=*/true);
                 return t[0] * at::rsqrt(norm.square() / static_cast<double>(s.dim) + kEps) * t[1];
               }}},
             {.bytes = 8 * floats}, {.bytes = 20 * floats});
}

void rope_cases(const OpsShape& s, OpsCases& cases) {
  const auto add = [&](int64_t batch, int64_t length, bool backward, const std::string& prefix) {
    const Tensor angle = torch::randn({length, s.rope / 2}), cos = angle.cos(), sin = angle.sin();
    const Tensor turn = complex_turn(cos, sin);
    const Tensors leaves{leaf({batch, length, s.heads, s.rope})};
    const auto bytes = 8.0 * static_cast<double>(leaves[0].numel());
    add_passes(
        cases, prefix, leaves, {"", [=](const Tensors& t) { return apply_rope(t[0], cos, sin, true); }},
        {{"composed, complex product", [=](const Tensors& t) { return complex_rope(t[0], turn); }},
         {"composed, addcmul of pairs", [=](const Tensors& t) { return apply_rope_plain(t[0], cos, sin, true); }}},
        {.bytes = bytes}, {.bytes = 2 * bytes});
    if (!backward) cases.pop_back();
  };
  add(s.batch, s.length, true, "");
  add(1, kSequences, false, "8 tokens, ");
}

void swiglu_cases(const OpsShape& s, OpsCases& cases) {
  const Tensors leaves{leaf({s.tokens(), 2 * s.width}, 1, s.dtype())};
  const auto bytes = static_cast<double>(s.tokens() * s.width) * (s.bf16 ? 2 : 4);
  const double tolerance = s.bf16 ? kBf16 : 1e-3;
  add_passes(cases, "", leaves, {"", [](const Tensors& t) { return swiglu(t[0]); }},
             {{"composed, silu of a view", [](const Tensors& t) { return swiglu_plain(t[0]); }, tolerance},
              {"composed, silu of a copy",
               [=](const Tensors& t) {
                 return at::silu(t[0].narrow(1, 0, s.width).contiguous()) * t[0].narrow(1, s.width, s.width);
               },
               tolerance}},
             {.bytes = 3 * bytes}, {.bytes = 8 * bytes});
}

}  // namespace

std::vector<OpsKernel> layer_kernels() {
  return {{"attention", attention_cases},
          {"cross_entropy", cross_entropy_cases},
          {"engram_fuse", engram_fuse_cases},
          {"hyper", hyper_cases},
          {"moe", moe_cases},
          {"norm", norm_cases},
          {"rope", rope_cases},
          {"swiglu", swiglu_cases}};
}

}  // namespace engram::bench
