#include "engram/train/row_sparse_adam.h"

#include <span>

#include "engram/dist/partition.h"
#include "engram/kernels/row_adam.h"
#include "engram/model/ops/parallel.h"

namespace engram {

namespace {

// core/mix.h and kernels/row_adam.h in tensor operators, on int64: products wrap, and shifts must not bring down the
// sign.
torch::Tensor shifted(const torch::Tensor& x, int bits) {
  return x.bitwise_right_shift(bits).bitwise_and_((int64_t{1} << (64 - bits)) - 1);
}
torch::Tensor splitmix64(torch::Tensor x) {
  x = x + static_cast<int64_t>(0x9E3779B97F4A7C15u);
  x = (x ^ shifted(x, 30)) * static_cast<int64_t>(0xBF58476D1CE4E5B9u);
  x = (x ^ shifted(x, 27)) * static_cast<int64_t>(0x94D049BB133111EBu);
  return x ^ shifted(x, 31);
}
constexpr int64_t kWord = 0xFFFFFFFF;
torch::Tensor mix_word(torch::Tensor x) {  // of the low 32 bits
  x = x & kWord;
  x = ((x ^ shifted(x, 16)) * int64_t{0x7FEB352D}) & kWord;
  x = ((x ^ shifted(x, 15)) * int64_t{0x846CA68B}) & kWord;
  return x ^ shifted(x, 16);
}

// `random`: int64, 16 bits of each number.
torch::Tensor rounded_to_bf16(const torch::Tensor& values, const torch::Tensor& random) {
  const torch::Tensor bits = values.contiguous().view(torch::kInt32).to(torch::kInt64) + random;
  const torch::Tensor rounded = bits.bitwise_right_shift(16).to(torch::kInt16).view(torch::kBFloat16);
  return torch::where(values.isnan(), values.to(torch::kBFloat16), rounded);
}

}  // namespace

RowSparseAdam::RowSparseAdam(const torch::Tensor& table, const RowSparseAdamOptions& options) : options_(options) {
  const torch::NoGradGuard no_grad;
  TORCH_CHECK(table.dim() == 2 && table.is_contiguous() &&
                  (table.scalar_type() == torch::kFloat32 || table.scalar_type() == torch::kBFloat16),
              "trainable table: got ", table.scalar_type(), " ", table.sizes(),
              ", wanted contiguous fp32 or bf16 rows");
  const auto fp32 = table.options().dtype(torch::kFloat32);
  if (options.momentum == TableMomentum::kNone) {
    options_.beta1 = 0;
  } else {
    const bool half = options.momentum == TableMomentum::kBf16;
    exp_avg_ = torch::zeros(table.sizes(), half ? fp32.dtype(torch::kBFloat16) : fp32);
  }
  exp_avg_sq_ = torch::zeros(options.row_wise ? table.sizes().slice(0, 1) : table.sizes(), fp32);
  steps_ = torch::zeros({table.size(0)}, fp32.dtype(torch::kInt32));
}

// The rows' numbers in the whole table.
torch::Tensor RowSparseAdam::numbers(const torch::Tensor& row_ids) const {
  if (options_.ranks == 1) return row_ids;
  const RowPartition partition(/*rows=*/0, options_.ranks);
  torch::Tensor numbers = row_ids.clone();
  for (int64_t& number : std::span(numbers.mutable_data_ptr<int64_t>(), static_cast<size_t>(numbers.numel())))
    number = partition.global(options_.rank, number);
  return numbers;
}

void RowSparseAdam::update(torch::Tensor& table, const torch::Tensor& row_ids, const torch::Tensor& gradient,
                           double lr) {
  TORCH_CHECK(gradient.dim() == 2 && gradient.size(0) == row_ids.numel() && gradient.size(1) == table.size(1),
              "row gradient: got ", gradient.sizes(), ", wanted [", row_ids.numel(), ", ", table.size(1), "]");
  if (!table.device().is_cpu()) return update_plain(table, row_ids, gradient, lr);
  const auto fp32 = [](const torch::Tensor& t) {
    return t.defined() && t.scalar_type() == torch::kFloat32 ? t.data_ptr<float>() : nullptr;
  };
  const auto bf16 = [](const torch::Tensor& t) {
    return t.defined() && t.scalar_type() == torch::kBFloat16 ? static_cast<uint16_t*>(t.data_ptr()) : nullptr;
  };
  RowAdamState state;
  state.table = fp32(table);
  state.table_bf16 = bf16(table);
  state.m = fp32(exp_avg_);
  state.m_bf16 = bf16(exp_avg_);
  state.v = exp_avg_sq_.data_ptr<float>();
  state.steps = reinterpret_cast<uint32_t*>(steps_.data_ptr<int32_t>());
  state.dim = table.size(1);
  RowAdamOptions options;
  options.lr = static_cast<float>(lr);
  options.beta1 = static_cast<float>(options_.beta1);
  options.beta2 = static_cast<float>(options_.beta2);
  options.eps = static_cast<float>(options_.eps);
  options.row_wise = options_.row_wise;
  options.noise_key = options_.noise_key;
  const torch::Tensor dense = gradient.contiguous(), whole = numbers(row_ids);
  const int64_t *ids = row_ids.const_data_ptr<int64_t>(), *first = whole.const_data_ptr<int64_t>();
  const float* grad = dense.const_data_ptr<float>();
  parallel_ranges(row_ids.numel(), /*grain=*/512, [&](int64_t begin, int64_t end) {
    row_adam(state, ids + begin, grad + begin * state.dim, end - begin, options, first + begin);
  });
}

// [U, columns] int64: kernels/row_adam.h's 32 bits of each number.
torch::Tensor RowSparseAdam::noise(const torch::Tensor& row_ids, const torch::Tensor& steps, int64_t columns) const {
  const torch::Tensor start = numbers(row_ids) + static_cast<int64_t>(options_.noise_key);
  const torch::Tensor rows = splitmix64(splitmix64(start) + (steps.to(torch::kInt64) & kWord));
  return mix_word(rows.unsqueeze(1) + torch::arange(columns, rows.options()) * int64_t{kNoiseStride});
}

void RowSparseAdam::update_plain(torch::Tensor& table, const torch::Tensor& row_ids, const torch::Tensor& gradient,
                                 double lr) {
  const torch::NoGradGuard no_grad;
  const double beta1 = options_.beta1, beta2 = options_.beta2;
  const torch::Tensor steps = steps_.index_select(0, row_ids) + 1;
  steps_.index_copy_(0, row_ids, steps);
  const torch::Tensor t = steps.to(torch::kFloat64);
  const torch::Tensor step_size = (lr / (1 - at::pow(beta1, t))).to(torch::kFloat32).unsqueeze(1);
  const torch::Tensor v_scale = (1 - at::pow(beta2, t)).rsqrt().to(torch::kFloat32).unsqueeze(1);
  const auto rows_of = [&](const torch::Tensor& all) { return all.index_select(0, row_ids).to(torch::kFloat32); };
  // Bits [low, low + 16) of the noise round what is kept in bf16.
  const auto put = [&](torch::Tensor& all, const torch::Tensor& rows, int low) {
    const bool half = all.scalar_type() == torch::kBFloat16;
    all.index_copy_(
        0, row_ids,
        half ? rounded_to_bf16(rows, noise(row_ids, steps, rows.size(1)).bitwise_right_shift(low) & 0xFFFF) : rows);
  };

  torch::Tensor m = gradient;
  if (exp_avg_.defined()) {
    m = rows_of(exp_avg_).mul_(beta1).add_(gradient, 1 - beta1);
    put(exp_avg_, m, 0);
  }
  torch::Tensor square = gradient * gradient;
  if (options_.row_wise) square = square.mean(1);
  torch::Tensor v = exp_avg_sq_.index_select(0, row_ids).mul_(beta2).add_(square, 1 - beta2);
  exp_avg_sq_.index_copy_(0, row_ids, v);
  if (options_.row_wise) v = v.unsqueeze(1);
  put(table, rows_of(table) - m / (v.sqrt() * v_scale + options_.eps) * step_size, 16);
}

std::vector<std::pair<std::string, torch::Tensor>> RowSparseAdam::state() const {
  std::vector<std::pair<std::string, torch::Tensor>> state = {{"exp_avg_sq", exp_avg_sq_}, {"steps", steps_}};
  if (exp_avg_.defined()) state.insert(state.begin(), {"exp_avg", exp_avg_});
  return state;
}

}  // namespace engram
