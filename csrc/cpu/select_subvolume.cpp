// Sub-volume selection on the CPU: rows along W are copied, converted or zeroed.
#include "select_subvolume.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace hagan3d::subvolume {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements per task
constexpr int64_t kRowsAhead = 8;    // to prefetch

template <typename In, typename Out, typename T>
void copy_row(const In* x, int64_t stride, Out* y, int64_t count, T scale) {
  if (stride == 1 && std::is_same_v<In, Out> && scale == T(1)) {
    std::copy_n(reinterpret_cast<const Out*>(x), count, y);
  } else if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) y[i] = static_cast<Out>(static_cast<T>(x[i]) * scale);
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = static_cast<Out>(static_cast<T>(x[i * stride]) * scale);
  }
}

// Short pieces of long rows are more than the hardware foresees.
template <typename In>
void prefetch(const In* x, int64_t count) {
  const char* byte = reinterpret_cast<const char*>(x);
  for (int64_t i = 0; i < count * int64_t(sizeof(In)) + 63; i += 64) __builtin_prefetch(byte + i);
}

// One row [w] of y: zeros, or the part of x's row that lies inside.
template <typename In, typename Out, typename T>
void make_row(const Plan& plan, const In* x, int64_t first, const int64_t (&at)[4], Out* y, T scale) {
  const int64_t width = plan.size[4];
  int64_t slice = plan.dim == 4 ? 0 : at[plan.dim] + first;
  if (plan.dim != 4 && (slice < 0 || slice >= plan.length)) {
    std::fill_n(y, width, Out(0));
    return;
  }
  const In* row = x;
  for (int i = 0; i < 4; ++i) row += (i == plan.dim ? slice : at[i]) * plan.stride[i];
  const int64_t shift = plan.dim == 4 ? first : 0;
  const int64_t source_width = plan.dim == 4 ? plan.length : width;
  const int64_t begin = std::clamp<int64_t>(-shift, 0, width);
  const int64_t end = std::clamp<int64_t>(source_width - shift, begin, width);
  const In* inside = row + (begin + shift) * plan.stride[4];
  if (plan.dim == 4) prefetch(inside + kRowsAhead * plan.stride[3], (end - begin) * plan.stride[4]);
  std::fill_n(y, begin, Out(0));
  copy_row(inside, plan.stride[4], y + begin, end - begin, scale);
  std::fill_n(y + end, width - end, Out(0));
}

template <typename In, typename Out>
void make_rows(const Plan& plan, const In* x, const int64_t* start, Out* y, double scale) {
  using T = std::conditional_t<std::is_same_v<Math<In>, double>, double, Math<Out>>;
  const int64_t rows = plan.size[0] * plan.size[1] * plan.size[2] * plan.size[3];
  const int64_t grain = std::max<int64_t>(1, kGrain / plan.size[4]);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    int64_t at[4], rest = begin;
    for (int i = 3; i >= 0; --i) at[i] = rest % plan.size[i], rest /= plan.size[i];
    for (int64_t row = begin; row < end; ++row) {
      make_row<In, Out, T>(plan, x, first_slice(plan, start[at[0]]), at, y + row * plan.size[4], T(scale));
      for (int i = 3; i >= 0 && ++at[i] == plan.size[i] && i > 0; --i) at[i] = 0;
    }
  });
}

Tensor select_subvolume(const Tensor& x, const Tensor& start, int64_t length, int64_t axis, int64_t halo, bool adjoint,
                        ScalarType dtype, double scale) {
  const Plan plan = make_plan(x, length, axis, halo, adjoint);
  Tensor y = torch::stable::new_empty(x, {plan.size, 5}, dtype);
  if (y.numel() == 0) return y;
  const Tensor begin = torch::stable::contiguous(start);
  dispatch_stored(x.scalar_type(), [&](auto in) {
    dispatch_floating(dtype, [&](auto out) {
      using In = typename decltype(in)::type;
      using Out = typename decltype(out)::type;
      make_rows(plan, static_cast<const In*>(x.const_data_ptr()), static_cast<const int64_t*>(begin.const_data_ptr()),
                static_cast<Out*>(y.mutable_data_ptr()), scale);
    });
  });
  return y;
}

}  // namespace
}  // namespace hagan3d::subvolume

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("select_subvolume", TORCH_BOX(&hagan3d::subvolume::select_subvolume));
}
