#include "engram/model/paged/paged_ops.h"

#include <algorithm>
#include <cmath>

#include "engram/kernels/paged_attention.h"
#include "engram/model/ops/support.h"

namespace engram {
namespace {

using internal::floats;
using internal::mutable_floats;

// One piece of parallel work: columns of one key-value head of one sequence.
struct AttendTask {
  size_t sequence;
  int64_t kv_head, begin, end;
};

std::vector<AttendTask> attend_tasks(const PagedStep& step, const PagedHeads& heads) {
  std::vector<AttendTask> tasks;
  for (size_t i = 0; i < step.sequences().size(); ++i) {
    const int64_t columns = step.sequences()[i].count * (heads.heads / heads.kv_heads);
    for (int64_t head = 0; head < heads.kv_heads; ++head) {
      for (int64_t begin = 0; begin < columns; begin += kPagedColumns) {
        tasks.push_back({i, head, begin, std::min(columns, begin + kPagedColumns)});
      }
    }
  }
  return tasks;
}

void check_attend(const torch::Tensor& query, const torch::Tensor& cache, const PagedStep& step,
                  const PagedHeads& heads) {
  TORCH_CHECK(query.sizes() == torch::IntArrayRef({step.num_tokens(), heads.heads * heads.key_width}),
              "attend_paged: got query ", query.sizes(), ", wanted [", step.num_tokens(), ", ",
              heads.heads * heads.key_width, "]");
  TORCH_CHECK(cache.dim() == 2 && heads.key_at + heads.kv_heads * heads.key_width <= cache.size(1) &&
                  heads.value_at + heads.kv_heads * heads.value_width <= cache.size(1),
              "attend_paged: the heads do not fit cached rows of ", cache.sizes());
}

// What FlashAttention takes: halves on a GPU, heads of one width up to 256 in steps of 8. MLA's value is the front of
// its one key: read as wide as the key, its columns beyond the value are dropped afterwards.
bool can_flash(const torch::Tensor& query, const torch::Tensor& cache, const PagedStep& step, const PagedHeads& heads) {
  const bool half = query.scalar_type() == torch::kBFloat16 || query.scalar_type() == torch::kHalf;
  const int64_t width = heads.key_width;
  const bool one_width = heads.value_width == width || (heads.kv_heads == 1 && heads.value_width < width);
  return query.is_cuda() && step.keys().slots.defined() && half && cache.scalar_type() == query.scalar_type() &&
         one_width && width % 8 == 0 && width <= 256 && heads.value_at + heads.kv_heads * width <= cache.size(1);
}

// The keys of all sequences are gathered back to back; one call attends to each sequence's own, the newest aligned.
torch::Tensor attend_paged_flash(const torch::Tensor& query, const torch::Tensor& cache, const PagedStep& step,
                                 const PagedHeads& heads) {
  const PagedKeys& keys = step.keys();
  const int64_t width = heads.key_width, columns = heads.kv_heads * width;
  const torch::Tensor rows = cache.index_select(0, keys.slots);
  const auto head_rows = [&](int64_t at) { return rows.narrow(1, at, columns).unflatten(1, {heads.kv_heads, width}); };
  const torch::Tensor out = std::get<0>(at::_flash_attention_forward(
      query.view({-1, heads.heads, width}), head_rows(heads.key_at), head_rows(heads.value_at), keys.query_ends,
      keys.key_ends, keys.longest_query, keys.longest_key, /*dropout_p=*/0.0, /*is_causal=*/true,
      /*return_debug_mask=*/false, heads.scale));
  return out.narrow(2, 0, heads.value_width).reshape({query.size(0), -1});
}

}  // namespace

torch::Tensor attend_paged(const torch::Tensor& query, const torch::Tensor& cache, const PagedStep& step,
                           const PagedHeads& heads) {
  check_attend(query, cache, step, heads);
  if (can_flash(query, cache, step, heads)) return attend_paged_flash(query, cache, step, heads);
  if (!internal::has_kernel(query)) return attend_paged_plain(query, cache, step, heads);
  const torch::Tensor q = internal::to_fp32(query);
  const int64_t group = heads.heads / heads.kv_heads, out_row = heads.heads * heads.value_width;
  torch::Tensor out = torch::empty({step.num_tokens(), out_row}, q.options());
  const PagedAttentionShape shape{group, heads.key_width, heads.value_width, static_cast<float>(heads.scale)};
  const std::vector<AttendTask> tasks = attend_tasks(step, heads);
  parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const AttendTask& task = tasks[static_cast<size_t>(i)];
    const StepSequence& s = step.sequences()[task.sequence];
    const PagedSequence sequence{s.blocks.data(), step.block_size(), s.position, s.count};
    const int64_t token = step.first_token(task.sequence), first = task.kv_head * group;
    const QueryRows rows{floats(q) + token * q.size(1) + first * heads.key_width, q.size(1), heads.key_width};
    paged_attention(shape, sequence, rows,
                    {floats(cache) + heads.key_at + task.kv_head * heads.key_width, cache.size(1)},
                    {floats(cache) + heads.value_at + task.kv_head * heads.value_width, cache.size(1)}, task.begin,
                    task.end, mutable_floats(out) + token * out_row + first * heads.value_width, out_row);
  });
  return out.to(query.scalar_type());
}

torch::Tensor attend_paged_plain(const torch::Tensor& query, const torch::Tensor& cache, const PagedStep& step,
                                 const PagedHeads& heads) {
  check_attend(query, cache, step, heads);
  const int64_t group = heads.heads / heads.kv_heads;
  std::vector<torch::Tensor> out;
  for (size_t i = 0; i < step.sequences().size(); ++i) {
    const StepSequence& s = step.sequences()[i];
    const int64_t length = s.position + s.count;
    torch::Tensor slots = torch::empty({length}, torch::kLong);
    for (int64_t t = 0; t < length; ++t) slots.mutable_data_ptr<int64_t>()[t] = step.slot_of(i, t);
    const torch::Tensor rows = cache.index_select(0, slots.to(cache.device())).to(query.scalar_type());
    const auto head_rows = [&](int64_t at, int64_t width) {  // [heads, L, width]
      return rows.narrow(1, at, heads.kv_heads * width)
          .view({length, heads.kv_heads, width})
          .repeat_interleave(group, 1)
          .transpose(0, 1);
    };
    torch::Tensor q = query.narrow(0, step.first_token(i), s.count).view({s.count, heads.heads, heads.key_width});
    torch::Tensor scores = at::matmul(q.transpose(0, 1), head_rows(heads.key_at, heads.key_width).transpose(1, 2));
    const torch::Tensor key = torch::arange(length, slots.options());
    const torch::Tensor own = torch::arange(s.position, length, slots.options());
    const torch::Tensor hidden = (key.unsqueeze(0) > own.unsqueeze(1)).to(query.device());
    scores = (scores * heads.scale).masked_fill(hidden, -INFINITY).softmax(-1);
    out.push_back(
        at::matmul(scores, head_rows(heads.value_at, heads.value_width)).transpose(0, 1).reshape({s.count, -1}));
  }
  return at::cat(out, 0);
}

std::pair<torch::Tensor, torch::Tensor> engram_fuse_paged_plain(
    const torch::Tensor& hidden, const torch::Tensor& projected, const torch::Tensor& query_norm,
    const torch::Tensor& key_norm, const torch::Tensor& conv_norm, const torch::Tensor& conv_weight,
    const PagedStep& step, torch::Tensor& cache, const EngramFuseOptions& options) {
  const int64_t n = hidden.size(0), streams = hidden.size(1), dim = hidden.size(2);
  const torch::Tensor wide = projected.to(cache.scalar_type());
  torch::Tensor value = wide.narrow(1, streams * dim, dim);  // [N, d]
  torch::Tensor gates = torch::ones({n, streams}, wide.options());
  if (options.gate) {
    torch::Tensor key =
        rms_norm_plain(wide.narrow(1, 0, streams * dim).view({n, streams, dim}), key_norm, options.gate_norm_eps);
    torch::Tensor query = rms_norm_plain(hidden.to(cache.scalar_type()), query_norm, options.gate_norm_eps);
    torch::Tensor score = (key * query).sum(-1) / std::sqrt(static_cast<double>(dim));
    gates = (score.sign() * score.abs().clamp_min(1e-6).sqrt()).sigmoid();
  }
  torch::Tensor square = value.square().mean(-1, /*keepdim=*/true);
  torch::Tensor inv_value = (gates.square() * square + options.conv_norm_eps).rsqrt();
  const internal::PagedRow paged = internal::page_rows(wide, gates, inv_value, step.memory_off(), dim);
  cache.index_copy_(0, step.slots(), paged.row);
  torch::Tensor y = paged.gates.unsqueeze(-1) * value.unsqueeze(1);
  if (conv_weight.defined()) {
    const int64_t taps = conv_weight.size(1);
    const torch::Tensor slots = step.tap_slots(taps, options.dilation);
    torch::Tensor rows = cache.index_select(0, slots.clamp_min(0).flatten()).view({n, taps, -1});
    torch::Tensor weight = rows.narrow(2, dim + streams, streams).masked_fill((slots < 0).unsqueeze(-1), 0.0);
    torch::Tensor normal = rows.narrow(2, 0, dim).unsqueeze(2) * weight.unsqueeze(-1);      // [N, taps, G, d]
    torch::Tensor tap = conv_weight.flip(1).t().reshape({taps, streams, dim}) * conv_norm;  // newest first
    torch::Tensor z = (normal * tap).sum(1);
    y = y + z * z.sigmoid();
  }
  return {y.to(hidden.scalar_type()), paged.gates};
}

}  // namespace engram
