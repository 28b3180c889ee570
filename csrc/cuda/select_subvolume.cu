// Sub-volume selection on CUDA: coalesced, vectorized writes along W.
#include <torch/csrc/stable/library.h>

#include <limits>

#include "cuda/launch.h"
#include "select_subvolume.h"

namespace hagan3d::subvolume {
namespace {

constexpr int kGroup = 4;

// Grid (x, plane) over the B C D = `planes` planes [H, W] of y, so that a thread divides by W alone. A thread writes
// groups of N voxels along W; loads are vectorized, too, if `aligned`.
template <typename In, typename Out, typename T, int N>
__global__ void select_kernel(Plan plan, const In* x, const int64_t* start, Out* y, T scale, int64_t planes,
                              bool aligned) {
  const unsigned row = static_cast<unsigned>(plan.size[4] / N), plane_groups = row * unsigned(plan.size[3]);
  for (int64_t plane = blockIdx.y; plane < planes; plane += gridDim.y) {
    const int64_t sample = plane / (plan.size[1] * plan.size[2]), channel = plane / plan.size[2] % plan.size[1];
    const int64_t first = first_slice(plan, start[sample]), d = plane % plan.size[2] + (plan.dim == 2 ? first : 0);
    const int64_t base = sample * plan.stride[0] + channel * plan.stride[1] + d * plan.stride[2];
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < plane_groups; i += gridDim.x * blockDim.x) {
      const int64_t h = i / row + (plan.dim == 3 ? first : 0), w = int64_t(i % row) * N + (plan.dim == 4 ? first : 0);
      const int64_t offset = base + h * plan.stride[3] + w * plan.stride[4], slice = plan.dim == 2 ? d : h;
      const bool row_inside = plan.dim == 4 || (slice >= 0 && slice < plan.length);
      Group<Out, N> out;
      if (aligned && row_inside) {
        const Group<In, N> in = load<N>(x + offset);
#pragma unroll
        for (int k = 0; k < N; ++k) out.at[k] = convert<In, Out>(in.at[k], scale);
      } else {
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const bool inside = row_inside && (plan.dim != 4 || (w + k >= 0 && w + k < plan.length));
          out.at[k] = inside ? convert<In, Out>(x[offset + k * plan.stride[4]], scale) : Out(0);
        }
      }
      store(out, y + (plane * plane_groups + i) * N);
    }
  }
}

// Whether every group of N voxels of x that starts at a multiple of N along W allows a vectorized load.
template <typename In>
bool loads_align(const Plan& plan, const In* x, int n) {
  bool aligned = plan.dim != 4 && plan.stride[4] == 1 && reinterpret_cast<uintptr_t>(x) % (sizeof(In) * n) == 0;
  for (int k = 0; k < 4; ++k) aligned = aligned && plan.stride[k] % n == 0;
  return aligned;
}

template <typename In, typename Out>
void launch(const Plan& plan, const In* x, const int64_t* start, Out* y, double scale, cudaStream_t stream) {
  using T = std::conditional_t<std::is_same_v<Math<In>, double>, double, Math<Out>>;
  const int64_t planes = plan.size[0] * plan.size[1] * plan.size[2], plane = plan.size[3] * plan.size[4];
  STD_TORCH_CHECK(plane <= std::numeric_limits<int32_t>::max(), "select_subvolume: a plane of ", plane, " voxels");
  const auto count = static_cast<unsigned>(std::min(planes, kMaxRows));
  if (plan.size[4] % kGroup == 0)
    select_kernel<In, Out, T, kGroup><<<dim3(blocks_for(plane / kGroup), count), kThreads, 0, stream>>>(
        plan, x, start, y, T(scale), planes, loads_align(plan, x, kGroup));
  else
    select_kernel<In, Out, T, 1>
        <<<dim3(blocks_for(plane), count), kThreads, 0, stream>>>(plan, x, start, y, T(scale), planes, false);
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
      launch(plan, data<In>(x), data<int64_t>(begin), mutable_data<Out>(y), scale, current_stream(x));
    });
  });
  return y;
}

}  // namespace
}  // namespace hagan3d::subvolume

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CUDA, m) {
  m.impl("select_subvolume", TORCH_BOX(&hagan3d::subvolume::select_subvolume));
}
