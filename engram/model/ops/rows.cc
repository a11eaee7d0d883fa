// Operators that work row by row: norm, SwiGLU, rotary embedding, and the gather of table rows.
#include "engram/kernels/rows.h"

#include <ATen/autocast_mode.h>

#include "engram/kernels/gemm.h"
#include "engram/kernels/gemv.h"
#include "engram/kernels/norm.h"
#include "engram/kernels/rope.h"
#include "engram/kernels/swiglu.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/support.h"

namespace engram {
namespace {

using internal::floats;
using internal::halves;
using internal::has_kernel;
using internal::mutable_floats;
using internal::row_grain;
using internal::to_fp32;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

RmsNormShape norm_shape(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  RmsNormShape shape;
  shape.dim = x.size(-1);
  shape.streams = weight.dim() == 2 ? weight.size(0) : 1;
  shape.eps = static_cast<float>(eps);
  return shape;
}

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x_any, const torch::Tensor& weight_any,
                               double eps) {
    torch::Tensor x = to_fp32(x_any), weight = to_fp32(weight_any);
    const RmsNormShape shape = norm_shape(x, weight, eps);
    const int64_t rows = shape.dim == 0 ? 0 : x.numel() / shape.dim;
    torch::Tensor y = torch::empty_like(x), inv_rms = torch::empty({rows}, x.options());
    parallel_ranges(rows, row_grain(shape.dim), [&](int64_t begin, int64_t end) {
      rms_norm_forward(shape, floats(x), floats(weight), begin, end, mutable_floats(y), mutable_floats(inv_rms));
    });
    if (context == nullptr) return y.to(x_any.scalar_type());
    context->save_for_backward({x, weight, inv_rms});
    context->saved_data["eps"] = eps;
    context->saved_data["x_type"] = x_any.scalar_type();
    context->saved_data["weight_type"] = weight_any.scalar_type();
    return y.to(x_any.scalar_type());
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const torch::Tensor &x = saved[0], &weight = saved[1], &inv_rms = saved[2];
    torch::Tensor dy = to_fp32(gradients[0]), dx = torch::empty_like(x);
    const RmsNormShape shape = norm_shape(x, weight, context->saved_data["eps"].toDouble());
    torch::Tensor dweight =
        internal::sum_over_rows(inv_rms.numel(), weight.numel(), [&](int64_t begin, int64_t end, float* partial) {
          rms_norm_backward(shape, floats(x), floats(weight), floats(inv_rms), floats(dy), begin, end,
                            mutable_floats(dx), partial);
        });
    return {dx.to(context->saved_data["x_type"].toScalarType()),
            dweight.view(weight.sizes()).to(context->saved_data["weight_type"].toScalarType()), torch::Tensor()};
  }
};

bool is_half(const torch::Tensor& x) { return x.scalar_type() == torch::kBFloat16 && x.is_contiguous(); }
uint16_t* mutable_halves(const torch::Tensor& x) {
  return reinterpret_cast<uint16_t*>(x.mutable_data_ptr<at::BFloat16>());
}

// bf16 in and out goes without an fp32 copy of what is the widest tensor of a block.
struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& gate_up_any) {
    const bool half = is_half(gate_up_any);
    torch::Tensor gate_up = half ? gate_up_any : to_fp32(gate_up_any);
    auto sizes = gate_up.sizes().vec();
    const int64_t width = sizes.back() /= 2;
    torch::Tensor y = torch::empty(sizes, gate_up.options());
    parallel_ranges(width == 0 ? 0 : y.numel() / width, row_grain(8 * width), [&](int64_t begin, int64_t end) {
      if (half) {
        swiglu_forward(halves(gate_up), width, begin, end, mutable_halves(y));
      } else {
        swiglu_forward(floats(gate_up), width, begin, end, mutable_floats(y));
      }
    });
    if (context != nullptr) context->save_for_backward({gate_up_any});
    return y.to(gate_up_any.scalar_type());
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const torch::Tensor saved = context->get_saved_variables()[0];
    const bool half = is_half(saved) && is_half(gradients[0]);
    torch::Tensor gate_up = half ? saved : to_fp32(saved), dy = half ? gradients[0] : to_fp32(gradients[0]);
    torch::Tensor dgate_up = torch::empty_like(gate_up);
    const int64_t width = dy.size(-1);
    parallel_ranges(width == 0 ? 0 : dy.numel() / width, row_grain(8 * width), [&](int64_t begin, int64_t end) {
      if (half) {
        swiglu_backward(halves(gate_up), halves(dy), width, begin, end, mutable_halves(dgate_up));
      } else {
        swiglu_backward(floats(gate_up), floats(dy), width, begin, end, mutable_floats(dgate_up));
      }
    });
    return {dgate_up.to(saved.scalar_type())};
  }
};

torch::Tensor turn(const torch::Tensor& x_any, const torch::Tensor& cos, const torch::Tensor& sin, bool interleaved,
                   bool inverse) {
  torch::Tensor x = to_fp32(x_any), y = torch::empty_like(x);
  RopeShape shape;
  shape.length = x.size(1);
  shape.heads = x.size(2);
  shape.half = x.size(3) / 2;
  shape.interleaved = interleaved;
  shape.inverse = inverse;
  parallel_ranges(x.size(0) * x.size(1) * x.size(2), row_grain(x.size(3)), [&](int64_t begin, int64_t end) {
    rope(shape, floats(x), floats(cos), floats(sin), begin, end, mutable_floats(y));
  });
  return y.to(x_any.scalar_type());
}

struct RopeFunction : torch::autograd::Function<RopeFunction> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x, const torch::Tensor& cos_any,
                               const torch::Tensor& sin_any, bool interleaved) {
    torch::Tensor cos = to_fp32(cos_any), sin = to_fp32(sin_any);
    if (context != nullptr) {
      context->save_for_backward({cos, sin});
      context->saved_data["interleaved"] = interleaved;
    }
    return turn(x, cos, sin, interleaved, /*inverse=*/false);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    torch::Tensor dx = turn(gradients[0], saved[0], saved[1], context->saved_data["interleaved"].toBool(),
                            /*inverse=*/true);
    return {dx, torch::Tensor(), torch::Tensor(), torch::Tensor()};
  }
};

void check_index(const torch::Tensor& index, int64_t rows) {
  const int64_t* ids = index.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < index.numel(); ++i) {
    TORCH_CHECK(ids[i] >= 0 && ids[i] < rows, "gather_rows: index ", i, ": got row ", ids[i], ", wanted 0 to ",
                rows - 1);
  }
}

// out[index[i]] += gradient[i]: each thread has its own range of rows, and adds in ascending order of i. Which
// positions those are is found once, each thread looking through a part of the index.
void scatter_add(const torch::Tensor& gradient, const torch::Tensor& index, torch::Tensor& out) {
  const int64_t rows = out.size(0), width = out.size(1), size = index.numel(), tasks = parallel_threads();
  const int64_t* ids = index.const_data_ptr<int64_t>();
  if (tasks == 1 || size < 4096) {
    scatter_add_rows(floats(gradient), width, ids, nullptr, size, mutable_floats(out));
    return;
  }
  const int64_t rows_of_task = std::max<int64_t>(1, (rows + tasks - 1) / tasks);
  std::vector<std::vector<int64_t>> positions(static_cast<size_t>(tasks * tasks));  // [parts of the index][tasks]
  parallel_tasks(tasks, [&](int64_t part) {
    const auto lists = positions.begin() + part * tasks;
    for (int64_t i = size * part / tasks; i < size * (part + 1) / tasks; ++i) lists[ids[i] / rows_of_task].push_back(i);
  });
  parallel_tasks(tasks, [&](int64_t task) {
    for (int64_t part = 0; part < tasks; ++part) {
      const auto& own = positions[static_cast<size_t>(part * tasks + task)];
      scatter_add_rows(floats(gradient), width, ids, own.data(), std::ssize(own), mutable_floats(out));
    }
  });
}

struct GatherFunction : torch::autograd::Function<GatherFunction> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& rows_any,
                               const torch::Tensor& index_any) {
    torch::Tensor rows = to_fp32(rows_any), index = index_any.contiguous();
    check_index(index, rows.size(0));
    const int64_t width = rows.size(1);
    torch::Tensor out = torch::empty({index.size(0), index.size(1), index.size(2) * width}, rows.options());
    parallel_ranges(index.numel(), row_grain(width), [&](int64_t begin, int64_t end) {
      gather_rows(floats(rows), width, index.const_data_ptr<int64_t>(), begin, end, mutable_floats(out));
    });
    context->save_for_backward({index});
    context->saved_data["rows"] = rows.size(0);
    context->saved_data["type"] = rows_any.scalar_type();
    return out.to(rows_any.scalar_type());
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const torch::Tensor index = context->get_saved_variables()[0];
    const int64_t rows = context->saved_data["rows"].toInt(), size = index.numel();
    torch::Tensor gradient = to_fp32(gradients[0]);
    const int64_t width = size == 0 ? 0 : gradient.numel() / size;
    torch::Tensor out = torch::zeros({rows, width}, gradient.options());
    scatter_add(gradient, index, out);
    return {out.to(context->saved_data["type"].toScalarType()), torch::Tensor()};
  }
};

}  // namespace

torch::Tensor linear_rows(const torch::Tensor& x_any, const torch::Tensor& weight) {
  const int64_t k = weight.size(1), n = weight.size(0), rows = k == 0 ? 0 : x_any.numel() / k;
  // fp32 x and bf16 weights, which are kept for their size. Where a model trains, autocast makes x bf16 too.
  const bool half = !at::autocast::is_autocast_enabled(at::kCPU) && weight.is_cpu() &&
                    weight.scalar_type() == torch::kBFloat16 && x_any.scalar_type() == torch::kFloat;
  const torch::Tensor x = half ? x_any.contiguous() : x_any;
  const bool has_gemv =
      half || (c10::InferenceMode::is_enabled() && x.is_cpu() && internal::is_plain(x) && internal::is_plain(weight));
  if (!has_gemv || x.size(-1) != k || rows == 0 || rows > (half ? kGemvRows : kFewRows)) {
    return half ? at::linear(x.to(torch::kBFloat16), weight).to(torch::kFloat) : at::linear(x, weight);
  }
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = n;
  torch::Tensor y = torch::empty(shape, x.options());
  torch::Tensor columns;  // x stays in the cache, whichever way it lies
  if (!half && takes_columns(rows, k)) {
    columns = torch::empty({k, rows}, x.options());
    transpose(floats(x), rows, k, mutable_floats(columns), rows);
  }
  const int64_t grain = internal::output_grain(half ? 1 : rows, k);
  const float *from = floats(x), *turned = floats(columns);
  float* to = mutable_floats(y);
  parallel_tasks((n + grain - 1) / grain, [&](int64_t i) {
    const int64_t begin = i * grain, end = std::min(n, begin + grain);
    if (half) {
      gemv(rows, n, k, from, halves(weight), begin, end, to);
    } else {
      few_rows_product(rows, n, k, from, turned, floats(weight), begin, end, to);
    }
  });
  return y;
}

torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  TORCH_CHECK(
      x.dim() >= 1 && (weight.dim() == 1 || (weight.dim() == 2 && x.dim() >= 2 && weight.size(0) == x.size(-2))) &&
          weight.size(-1) == x.size(-1),
      "rms_norm: got x ", x.sizes(), ", weight ", weight.sizes(), ", wanted [.., d] and [d], or [.., M, d] and [M, d]");
  if (x.is_cuda() && weight.dim() == 1 && x.scalar_type() != torch::kDouble) {  // one launch instead of eight
    return at::rms_norm(x, {x.size(-1)}, weight.to(x.scalar_type()), eps).to(x.scalar_type());
  }
  return has_kernel(x) ? internal::apply_function<RmsNormFunction>(x, weight, eps) : rms_norm_plain(x, weight, eps);
}

torch::Tensor swiglu(const torch::Tensor& gate_up) {
  TORCH_CHECK(gate_up.dim() >= 1 && gate_up.size(-1) % 2 == 0, "swiglu: got ", gate_up.sizes(), ", wanted [.., 2f]");
  return has_kernel(gate_up) ? internal::apply_function<SwigluFunction>(gate_up) : swiglu_plain(gate_up);
}

torch::Tensor apply_rope(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin, bool interleaved) {
  TORCH_CHECK(x.dim() == 4 && x.size(3) % 2 == 0 && cos.dim() == 2 && cos.size(0) == x.size(1) &&
                  cos.size(1) * 2 == x.size(3) && sin.sizes() == cos.sizes(),
              "apply_rope: got x ", x.sizes(), ", cos ", cos.sizes(), ", sin ", sin.sizes(),
              ", wanted [B, T, H, r], [T, r/2], [T, r/2]");
  return has_kernel(x) ? internal::apply_function<RopeFunction>(x, cos, sin, interleaved)
                       : apply_rope_plain(x, cos, sin, interleaved);
}

void turn_heads(torch::Tensor& x, int64_t heads, const torch::Tensor& cos, const torch::Tensor& sin, bool interleaved) {
  if (!x.is_cpu() || x.scalar_type() != torch::kFloat) {
    torch::Tensor front = x.narrow(1, 0, heads);
    front.copy_(apply_rope(front.unsqueeze(0), cos, sin, interleaved).squeeze(0));
    return;
  }
  RopeShape shape;
  shape.length = x.size(0);
  shape.heads = x.size(1);
  shape.half = x.size(2) / 2;
  shape.interleaved = interleaved;
  for (int64_t row = 0; row < x.size(0) * shape.heads; row += shape.heads) {
    rope(shape, floats(x), floats(cos), floats(sin), row, row + heads, mutable_floats(x));
  }
}

torch::Tensor gather_rows(const torch::Tensor& unique_rows, const torch::Tensor& index) {
  TORCH_CHECK(unique_rows.dim() == 2 && index.dim() == 3 && index.scalar_type() == torch::kLong,
              "gather_rows: got rows ", unique_rows.sizes(), ", index ", index.sizes(), ' ', index.scalar_type(),
              ", wanted [U, r], [B, T, R] int64");
  return has_kernel(unique_rows) ? GatherFunction::apply(unique_rows, index) : gather_rows_plain(unique_rows, index);
}

}  // namespace engram
