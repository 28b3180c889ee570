// Sub-volume selection on CUDA: neighbouring threads write neighbouring groups of voxels along W.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.h"
#include "select_subvolume.h"

namespace hagan3d::subvolume {
namespace {

// y in groups of N voxels of one row. Loads are grouped too where `aligned`: groups of x start at multiples of N.
template <typename In, typename Out, typename T, int N>
__global__ void select_kernel(Plan plan, const In* x, const int64_t* start, Out* y, T scale, int64_t groups,
                              bool aligned) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < groups; i += step) {
    int64_t at[5], rest = i;
    const int64_t row_groups = plan.size[4] / N;
    at[4] = rest % row_groups * N, rest /= row_groups;
#pragma unroll
    for (int k = 3; k >= 0; --k) at[k] = rest % plan.size[k], rest /= plan.size[k];
    int64_t slice = first_slice(plan, start[at[0]]), offset = 0;
#pragma unroll
    for (int k = 2; k < 5; ++k)
      if (k == plan.dim) slice = at[k] += slice;
#pragma unroll
    for (int k = 0; k < 5; ++k) offset += at[k] * plan.stride[k];

    Group<Out, N> out;
    const bool row_inside = plan.dim == 4 || (slice >= 0 && slice < plan.length);
    if (aligned && row_inside) {
      const Group<In, N> in = load<N>(x + offset);
#pragma unroll
      for (int k = 0; k < N; ++k) out.at[k] = convert<In, Out>(in.at[k], scale);
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const bool inside = row_inside && (plan.dim != 4 || (at[4] + k >= 0 && at[4] + k < plan.length));
        out.at[k] = inside ? convert<In, Out>(x[offset + k * plan.stride[4]], scale) : Out(0);
      }
    }
    store(out, y + i * N);
  }
}

// Whether every group of N voxels of x that starts at a multiple of N along W can be loaded as one.
template <typename In>
bool loads_align(const Plan& plan, const In* x, int n) {
  bool aligned = plan.dim != 4 && plan.stride[4] == 1 && reinterpret_cast<uintptr_t>(x) % (sizeof(In) * n) == 0;
  for (int k = 0; k < 4; ++k) aligned = aligned && plan.stride[k] % n == 0;
  return aligned;
}

template <typename In, typename Out>
void launch(const Plan& plan, const In* x, const int64_t* start, Out* y, double scale, int64_t numel,
            cudaStream_t stream) {
  using T = std::conditional_t<std::is_same_v<Math<In>, double>, double, Math<Out>>;
  constexpr int kGroup = 4;
  if (plan.size[4] % kGroup == 0) {
    select_kernel<In, Out, T, kGroup><<<blocks_for(numel / kGroup), kThreads, 0, stream>>>(
        plan, x, start, y, T(scale), numel / kGroup, loads_align(plan, x, kGroup));
  } else {
    select_kernel<In, Out, T, 1><<<blocks_for(numel), kThreads, 0, stream>>>(plan, x, start, y, T(scale), numel, false);
  }
  check_launch();
}

Tensor select_subvolume(const Tensor& x, const Tensor& start, int64_t length, int64_t axis, int64_t halo, bool adjoint,
                        ScalarType dtype, double scale) {
  const DeviceGuard guard(x.get_device_index());
  const Plan plan = make_plan(x, length, axis, halo, adjoint);
  Tensor y = torch::stable::new_empty(x, {plan.size, 5}, dtype);
  if (y.numel() == 0) return y;
  const Tensor begin = torch::stable::contiguous(start);
  dispatch_stored(x.scalar_type(), [&](auto in) {
    dispatch_floating(dtype, [&](auto out) {
      using In = typename decltype(in)::type;
      using Out = typename decltype(out)::type;
      launch(plan, static_cast<const In*>(x.const_data_ptr()), static_cast<const int64_t*>(begin.const_data_ptr()),
             static_cast<Out*>(y.mutable_data_ptr()), scale, y.numel(), current_stream(x));
    });
  });
  return y;
}

}  // namespace
}  // namespace hagan3d::subvolume

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CUDA, m) {
  m.impl("select_subvolume", TORCH_BOX(&hagan3d::subvolume::select_subvolume));
}
