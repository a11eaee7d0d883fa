// Table rows, pages and sampling. Most of this libtorch has no call for: the rivals are the best compositions found.
#include <cmath>
#include <memory>

#include "bench/ops_cases.h"
#include "engram/core/status.h"
#include "engram/kernels/row_codec.h"
#include "engram/model/decode/sampler.h"
#include "engram/model/ops/parallel.h"
#include "engram/model/paged/paged_ops.h"
#include "engram/train/row_sparse_adam.h"

namespace engram::bench {
namespace {

constexpr double kBf16 = 3e-2;
constexpr double kRandom = -1;  // a tolerance: nothing to compare

void rows_cases(const OpsShape& s, OpsCases& cases) {
  const int64_t unique = s.table_row_ids() / 2;
  const Tensor index = torch::randint(0, unique, {s.batch, s.length, s.rows_per_token}, torch::kLong);
  const auto ids = static_cast<double>(index.numel()), bytes = 4.0 * static_cast<double>(s.row_dim);
  add_passes(cases, "", {leaf({unique, s.row_dim})}, {"", [=](const Tensors& t) { return gather_rows(t[0], index); }},
             {{"index_select, index_add", [=](const Tensors& t) { return gather_rows_plain(t[0], index); }},
              {"embedding", [=](const Tensors& t) { return at::embedding(t[0], index).flatten(2); }}},
             {.bytes = ids * (2 * bytes + 8)}, {.bytes = ids * (5 * bytes + 16)});
}

// The rows that a step touched, gathered for libtorch's fused AdamW and written back. It has one step count for all.
struct GatheredAdamW {
  Tensor table, m, v, step;
  Tensor update(const Tensor& ids, const Tensor& gradient, double lr) {
    const Tensor rows = table.index_select(0, ids), own_m = m.index_select(0, ids), own_v = v.index_select(0, ids);
    step.add_(1);
    at::_fused_adamw_({rows}, {gradient}, {own_m}, {own_v}, {}, {step}, lr, 0.9, 0.95, /*weight_decay=*/0.0, 1e-8,
                      /*amsgrad=*/false, /*maximize=*/false);
    m.index_copy_(0, ids, own_m);
    v.index_copy_(0, ids, own_v);
    return table.index_copy_(0, ids, rows);
  }
};

void row_adam_cases(const OpsShape& s, OpsCases& cases) {
  constexpr double kRate = 1e-3;
  const Tensor start = torch::randn({s.table_rows, s.row_dim});
  const int64_t touched = std::min(s.table_row_ids(), s.table_rows) / 2;
  const Tensor ids = std::get<0>(torch::randperm(s.table_rows, torch::kLong).narrow(0, 0, touched).sort());
  const Tensor gradient = torch::randn({touched, s.row_dim});
  const auto ours = [&](auto update) {
    const auto adam = std::make_shared<RowSparseAdam>(start, RowSparseAdamOptions());
    return [=, table = start.clone()]() mutable -> Tensors {
      (*adam.*update)(table, ids, gradient, kRate);
      return {table};
    };
  };
  const auto gathered = std::make_shared<GatheredAdamW>(
      GatheredAdamW{start.clone(), torch::zeros_like(start), torch::zeros_like(start), torch::zeros({})});
  // Row, m and v read and written; gradient, id and step read.
  cases.push_back({fmt::format("{} rows of {}", touched, s.row_dim),
                   ours(&RowSparseAdam::update),
                   {{"index_select, _fused_adamw_, index_copy_",
                     [=]() -> Tensors { return {gathered->update(ids, gradient, kRate)}; }},
                    {"composed, a step count per row", ours(&RowSparseAdam::update_plain)}},
                   {.bytes = static_cast<double>(touched) * (28.0 * static_cast<double>(s.row_dim) + 16)}});
}

// [count, row_bytes] to fp32, as a person with torch alone would.
Tensor decode_composed(const RowFormat& format, const Tensor& rows) {
  const int64_t width = format.width, count = rows.size(0), code_bytes = format.code_bytes();
  const Tensor codes = rows.narrow(1, 0, code_bytes),
               scale_bytes = rows.narrow(1, code_bytes, rows.size(1) - code_bytes);
  Tensor values, scales;
  if (format.type == RowType::kFP8) {
    values = codes.view(torch::kFloat8_e4m3fn).to(torch::kFloat);
    scales = scale_bytes.view(torch::kFloat8_e8m0fnu).to(torch::kFloat);
  } else {
    scales = scale_bytes.contiguous().view(torch::kFloat);
    values = format.type == RowType::kInt8 ? codes.view(torch::kChar).to(torch::kFloat)
                                           : at::stack({codes.bitwise_left_shift(4), codes}, -1)
                                                 .view(torch::kChar)
                                                 .bitwise_right_shift(4)
                                                 .to(torch::kFloat);
  }
  return (values.view({count, format.num_scales(), -1}) * scales.unsqueeze(-1)).view({count, width});
}

// fp8 codes through a table of their 256 values.
Tensor decode_fp8_by_table(const RowFormat& format, const Tensor& rows, const Tensor& table) {
  const Tensor values = table.index_select(0, rows.narrow(1, 0, format.width).reshape({-1}).to(torch::kInt));
  const Tensor scales =
      rows.narrow(1, format.width, format.num_scales()).view(torch::kFloat8_e8m0fnu).to(torch::kFloat);
  return (values.view({rows.size(0), format.num_scales(), -1}) * scales.unsqueeze(-1))
      .view({rows.size(0), format.width});
}

Tensor encode_composed(const RowFormat& format, const Tensor& values) {
  const int64_t count = values.size(0), blocks = format.num_scales();
  const Tensor wide = values.view({count, blocks, -1}), most = at::amax(wide.abs(), -1, true);
  if (format.type == RowType::kInt8) {
    const Tensor scale = most / 127;
    const Tensor codes = (wide / scale).round().to(torch::kChar).view(torch::kByte).view({count, -1});
    return at::cat({codes, scale.view({count, blocks}).view(torch::kByte)}, 1);
  }
  const Tensor scale = at::exp2(at::ceil(at::log2(most / 448)));
  const Tensor codes = (wide / scale).to(torch::kFloat8_e4m3fn).view(torch::kByte).view({count, -1});
  return at::cat({codes, scale.to(torch::kFloat8_e8m0fnu).view(torch::kByte).view({count, blocks})}, 1);
}

// Rows shared out to the threads, as callers do.
void each_rows(int64_t count, const std::function<void(int64_t begin, int64_t count)>& work) {
  parallel_ranges(count, /*grain=*/256, [&](int64_t begin, int64_t end) { work(begin, end - begin); });
}

Tensor encoded(const RowFormat& format, const Tensor& values) {
  Tensor rows = torch::empty({values.size(0), format.row_bytes()}, torch::kByte);
  auto* to = reinterpret_cast<std::byte*>(rows.mutable_data_ptr<uint8_t>());
  each_rows(values.size(0), [&](int64_t begin, int64_t count) {
    const Status status = encode_rows(format, values.const_data_ptr<float>() + begin * format.width, count,
                                      to + begin * format.row_bytes());
    TORCH_CHECK(status.ok(), status.message());
  });
  return rows;
}

void row_codec_cases(const OpsShape& s, OpsCases& cases) {
  const Tensor values = torch::randn({s.table_row_ids() / 2, s.row_dim});
  for (const RowType type : {RowType::kFP8, RowType::kInt8, RowType::kInt4}) {
    const RowFormat format = default_row_format(type, s.row_dim);
    const Tensor rows = encoded(format, values);
    const auto* bytes = reinterpret_cast<const std::byte*>(rows.const_data_ptr<uint8_t>());
    const auto stride = static_cast<size_t>(format.row_bytes());
    const Tensor out = torch::empty_like(values), narrow = torch::empty_like(values, torch::kBFloat16);
    OpsCase c{fmt::format("{} to fp32", row_type_name(type)),
              [=]() -> Tensors {
                each_rows(rows.size(0), [&](int64_t begin, int64_t count) {
                  decode_rows(format, bytes + begin * format.row_bytes(), stride, count,
                              out.mutable_data_ptr<float>() + begin * format.width);
                });
                return {out};
              },
              {{"composed", inference([=] { return decode_composed(format, rows); }), 1e-6}},
              {.bytes = static_cast<double>(rows.numel() + 4 * out.numel())}};
    if (type == RowType::kFP8) {
      const Tensor all = torch::arange(256, torch::kInt).to(torch::kByte).view(torch::kFloat8_e4m3fn).to(torch::kFloat);
      c.rivals.push_back(
          {"composed, a table of codes", inference([=] { return decode_fp8_by_table(format, rows, all); }), 1e-6});
      cases.push_back(
          {"fp8 to bf16",
           [=]() -> Tensors {
             each_rows(rows.size(0), [&](int64_t begin, int64_t count) {
               decode_rows_bf16(format, bytes + begin * format.row_bytes(), stride, count,
                                static_cast<uint16_t*>(narrow.mutable_data_ptr()) + begin * format.width);
             });
             return {narrow};
           },
           {{"composed", inference([=] { return decode_composed(format, rows).to(torch::kBFloat16); }), 1e-6}},
           {.bytes = static_cast<double>(rows.numel() + 2 * out.numel())}});
    }
    cases.push_back(std::move(c));
  }
}

void row_encode_cases(const OpsShape& s, OpsCases& cases) {
  const Tensor values = torch::randn({s.table_row_ids() / 2, s.row_dim});
  for (const RowType type : {RowType::kFP8, RowType::kInt8}) {
    const RowFormat format = default_row_format(type, s.row_dim);
    cases.push_back({fmt::format("fp32 to {}", row_type_name(type)),
                     inference([=] { return encoded(format, values); }),
                     {{"composed", inference([=] { return encode_composed(format, values); }), 1e-2}},
                     {.bytes = static_cast<double>(4 * values.numel() + values.size(0) * format.row_bytes())}});
  }
}

// A step of `sequences`, each with `count` new tokens that end a context of `length`, in pages of its own.
PagedStep paged_step(int64_t sequences, int64_t count, int64_t length) {
  std::vector<StepSequence> list(static_cast<size_t>(sequences));
  int32_t block = 0;
  for (StepSequence& sequence : list) {
    sequence.position = length - count;
    sequence.count = count;
    for (int64_t at = 0; at < length; at += kBlockSize) sequence.blocks.push_back(block++);
  }
  return PagedStep(std::move(list), kBlockSize);
}

// All contexts have one length here: the keys are gathered, and one call sees the heads as queries of one key. mask:
// for several new tokens.
Tensor gathered_sdpa(const Tensor& query, const Tensor& cache, const Tensor& slots, const Tensor& mask,
                     int64_t sequences, const PagedHeads& heads) {
  const Tensor keys = cache.index_select(0, slots).view({sequences, 1, -1, heads.key_width});
  const Tensor out =
      at::scaled_dot_product_attention(query.view({sequences, 1, -1, heads.key_width}), keys, keys,
                                       mask.defined() ? std::optional(mask) : std::nullopt, 0.0, false, heads.scale);
  return out.narrow(-1, 0, heads.value_width).reshape({query.size(0), -1});
}

// MLA with absorbed projections: one key for all heads, whose front is the value.
void paged_attention_cases(const OpsShape& s, OpsCases& cases) {
  PagedHeads heads;
  heads.heads = s.heads;
  heads.key_width = s.latent + s.rope;
  heads.value_width = s.latent;
  heads.scale = 1 / std::sqrt(static_cast<double>(s.nope + s.rope));
  const auto add = [&](const std::string& work, int64_t sequences, int64_t count) {
    const auto step = std::make_shared<PagedStep>(paged_step(sequences, count, s.length));
    const Tensor cache = torch::randn({sequences * s.length, heads.key_width}), slots = step->key_slots();
    const Tensor query = torch::randn({sequences * count, s.heads * heads.key_width});
    Tensor mask;
    if (count > 1) {  // query row t * heads + h sees the keys up to its token
      const Tensor token = torch::arange(count).repeat_interleave(s.heads).unsqueeze(1) + (s.length - count);
      mask = torch::zeros({count * s.heads, s.length})
                 .masked_fill(torch::arange(s.length).unsqueeze(0) > token, -INFINITY);
    }
    const auto pairs = static_cast<double>(sequences * count * s.heads * s.length);
    cases.push_back(
        {work,
         inference([=] { return attend_paged(query, cache, *step, heads); }),
         {{"composed, gather and sdpa",
           inference([=] { return gathered_sdpa(query, cache, slots, mask, sequences, heads); })},
          {"composed, by sequence", inference([=] { return attend_paged_plain(query, cache, *step, heads); })}},
         {.bytes = 4.0 * static_cast<double>(cache.numel()),
          .flops = 2 * pairs * static_cast<double>(heads.key_width + heads.value_width)}});
  };
  add("8 sequences, 1 new token", kSequences, 1);
  add("1 sequence, 64 new tokens", 1, 64);
}

void paged_engram_cases(const OpsShape& s, OpsCases& cases) {
  constexpr int64_t kTaps = 4;
  const auto step = std::make_shared<PagedStep>(paged_step(kSequences, 1, s.length));
  const Tensor hidden = torch::randn({kSequences, 1, s.dim}), projected = torch::randn({kSequences, 2 * s.dim});
  const Tensor query = torch::rand({1, s.dim}), key = torch::rand({1, s.dim}), norm = torch::rand({1, s.dim});
  const Tensor taps = torch::randn({s.dim, kTaps}) * 0.1, folded = fold_taps(norm, taps);
  Tensor cache = torch::randn({kSequences * s.length, s.dim + 2}), cache2 = cache.clone();
  cases.push_back(
      {"8 sequences, 1 new token",
       inference([=]() mutable {
         return engram_fuse_paged(hidden, projected, query, key, norm, taps, folded, *step, cache, {}).first;
       }),
       {{"composed", inference([=]() mutable {
           return engram_fuse_paged_plain(hidden, projected, query, key, norm, taps, *step, cache2, {}).first;
         })}},
       {.bytes = 4.0 * static_cast<double>(kSequences * s.dim * (1 + 2 + kTaps + 2))}});
}

// One draw over a vocabulary; logits spread as a trained model's.
void sampling_cases(const OpsShape& s, OpsCases& cases) {
  const Tensor logits = torch::randn({s.vocabulary}) * 2.5;
  const auto ours = [&](const SamplerOptions& options) -> std::function<Tensors()> {
    const auto sampler = std::make_shared<Sampler>(options);
    return [=]() -> Tensors {
      sampler->sample({logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())});
      return {};
    };
  };
  const auto probabilities = [=] { return (logits / 0.8).softmax(-1); };
  const auto nucleus = [](const Tensor& sorted) {  // of probabilities, the largest first
    return at::multinomial(sorted.masked_fill(sorted.cumsum(-1) - sorted >= 0.9, 0.0), 1);
  };
  const OpsCost cost{.bytes = 4.0 * static_cast<double>(s.vocabulary)};
  cases.push_back({"temperature 0.8",
                   ours({.temperature = 0.8}),
                   {{"softmax, multinomial", inference([=] { return at::multinomial(probabilities(), 1); }), kRandom},
                    {"softmax, exponential, argmax", inference([=] {
                       const Tensor p = probabilities();
                       return (p / at::empty_like(p).exponential_()).argmax();
                     }),
                     kRandom}},
                   cost});
  cases.push_back(
      {"top_p 0.9",
       ours({.temperature = 0.8, .top_p = 0.9}),
       {{"softmax, sort, multinomial",
         inference([=] { return nucleus(std::get<0>(probabilities().sort(-1, /*descending=*/true))); }), kRandom},
        {"softmax, topk of 1024, multinomial",
         inference([=] { return nucleus(std::get<0>(probabilities().topk(1024))); }), kRandom}},
       cost});
  cases.push_back({"top_k 40",
                   ours({.temperature = 0.8, .top_k = 40}),
                   {{"topk, softmax, multinomial", inference([=] {
                       const auto [largest, ids] = logits.topk(40);
                       return ids.index_select(0, at::multinomial((largest / 0.8).softmax(-1), 1));
                     }),
                     kRandom}},
                   cost});
}

}  // namespace

std::vector<OpsKernel> row_kernels() {
  return {{"paged_attention", paged_attention_cases},
          {"paged_engram", paged_engram_cases},
          {"row_adam", row_adam_cases},
          {"row_codec", row_codec_cases},
          {"row_encode", row_encode_cases},
          {"rows", rows_cases},
          {"sampling", sampling_cases}};
}

}  // namespace engram::bench
