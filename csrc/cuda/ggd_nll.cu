// Generalized Gaussian likelihood on CUDA: value and gradients of every voxel in one pass.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "cuda/launch.h"
#include "ggd.h"
#include "ggd_host.h"

namespace hagan3d::ggd {
namespace {

using torch::stable::contiguous;
using torch::stable::empty_like;
using torch::stable::new_empty;

// Arguments of a kernel, laid out as `Inputs`; null pointers are not read or written.
template <typename T>
struct Call {
  const T *e, *a, *lb, *weight, *grad;
  const Math<T>* factor;  // of all gradients
  T *nll, *ge, *ga, *glb;
  double* partials;  // sum of weight x nll per block
  int64_t groups, channels, spatial;
  int64_t weight_repeats;  // channels of e per channel of the weight
};

// One thread: N neighbouring voxels with all their channels. kPlain: neither weight nor grad is given.
template <typename T, int N, bool kPlain>
__device__ double process_voxels(const Call<T>& call, int64_t group, int64_t first, Math<T> factor) {
  using M = Math<T>;
  const int64_t at_group = group * call.spatial + first;
  const Group<T, N> a = load<N>(call.a + at_group), lb = load<N>(call.lb + at_group);
  M local_a[N] = {}, local_lb[N] = {}, grad_a[N] = {}, grad_lb[N] = {};
  M total = 0;
  for (int64_t k = 0; k < call.channels; ++k) {
    const int64_t channel = group * call.channels + k, at = channel * call.spatial + first;
    const Group<T, N> e = load<N>(call.e + at);
    Group<T, N> weight, grad, nll, ge;
    if (!kPlain && call.weight) weight = load<N>(call.weight + channel / call.weight_repeats * call.spatial + first);
    if (!kPlain && call.grad) grad = load<N>(call.grad + at);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const Terms<M> terms = evaluate(static_cast<M>(e.at[j]), static_cast<M>(a.at[j]), static_cast<M>(lb.at[j]));
      const M w = !kPlain && call.weight ? static_cast<M>(weight.at[j]) : M(1);
      const M scale = w * (!kPlain && call.grad ? static_cast<M>(grad.at[j]) : factor);
      total += w * terms.nll;
      nll.at[j] = static_cast<T>(w * terms.nll);
      ge.at[j] = static_cast<T>(scale * terms.de);
      local_a[j] += w * terms.da;
      local_lb[j] += w * terms.dlb;
      if (!kPlain) grad_a[j] += scale * terms.da, grad_lb[j] += scale * terms.dlb;
    }
    if (call.nll) store(nll, call.nll + at);
    if (call.ge) store(ge, call.ge + at);
  }
  if (call.ga) {
    Group<T, N> ga, glb;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const M all_a = kPlain ? factor * local_a[j] : grad_a[j], all_lb = kPlain ? factor * local_lb[j] : grad_lb[j];
      ga.at[j] = static_cast<T>(pass_scale(static_cast<M>(a.at[j]), local_a[j], all_a));
      glb.at[j] = static_cast<T>(pass_shape(static_cast<M>(lb.at[j]), local_lb[j], all_lb));
    }
    store(ga, call.ga + at_group);
    store(glb, call.glb + at_group);
  }
  return total;
}

template <typename T, int N, bool kPlain>
__global__ void __launch_bounds__(kThreads, sizeof(T) < 8 ? 3 : 1) nll_kernel(Call<T> call) {
  const Math<T> factor = call.factor ? *call.factor : Math<T>(1);
  const int64_t row = call.spatial / N;
  double total = 0;
  for (int64_t group = blockIdx.y; group < call.groups; group += gridDim.y)
    for (int64_t i = grid_thread(); i < row; i += grid_threads())
      total += process_voxels<T, N, kPlain>(call, group, i * N, factor);
  if (!call.partials) return;
  total = block_sum(total);
  if (threadIdx.x == 0) call.partials[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

template <typename T>
Call<T> make_call(const Inputs& in) {
  Call<T> call = {};
  call.e = data<T>(in.e), call.a = data<T>(in.a), call.lb = data<T>(in.lb);
  call.weight = in.weight ? data<T>(*in.weight) : nullptr;
  call.groups = in.groups, call.channels = in.channels, call.spatial = in.spatial;
  call.weight_repeats = in.weight_repeats;
  return call;
}

template <typename T>
void write_to(const Gradients& grads, Call<T>& call) {
  call.ge = mutable_data<T>(grads.e), call.ga = mutable_data<T>(grads.a), call.glb = mutable_data<T>(grads.lb);
}

// Outputs come from the allocator and are aligned; inputs are checked. Returns the number of blocks.
template <typename T>
unsigned launch(const Inputs& in, const std::optional<Tensor>& grad, const Call<T>& call, int64_t most,
                cudaStream_t stream) {
  constexpr int kGroup = 4;
  const bool grouped =
      groups_align(call.spatial, kGroup, in.e, in.a, in.lb, in.weight ? *in.weight : in.e, grad ? *grad : in.e);
  const dim3 grid = grid_for(call.spatial / (grouped ? kGroup : 1), call.groups, most);
  if (!grouped)
    nll_kernel<T, 1, false><<<grid, kThreads, 0, stream>>>(call);
  else if (call.weight || call.grad)
    nll_kernel<T, kGroup, false><<<grid, kThreads, 0, stream>>>(call);
  else
    nll_kernel<T, kGroup, true><<<grid, kThreads, 0, stream>>>(call);
  check_launch();
  return grid.x * grid.y;
}

Tensor ggd_nll(const Tensor& error, const Tensor& log_scale, const Tensor& log_shape,
               const std::optional<Tensor>& weight) {
  const DeviceGuard guard(error.get_device_index());
  const Inputs in(error, log_scale, log_shape, weight);
  Tensor nll = empty_like(in.e);
  if (nll.numel() == 0) return nll;
  dispatch_floating(in.e.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Call<T> call = make_call<T>(in);
    call.nll = mutable_data<T>(nll);
    launch(in, std::nullopt, call, kMaxBlocks, current_stream(error));
  });
  return nll;
}

// `grad` has the shape of error, or is a scalar in the math type: the gradient of every voxel.
std::tuple<Tensor, Tensor, Tensor> ggd_nll_backward(const Tensor& grad, const Tensor& error, const Tensor& log_scale,
                                                    const Tensor& log_shape, const std::optional<Tensor>& weight) {
  const DeviceGuard guard(error.get_device_index());
  const Inputs in(error, log_scale, log_shape, weight);
  const Tensor g = contiguous(grad);
  const Gradients grads(in);
  if (in.e.numel() == 0) return {grads.e, grads.a, grads.lb};
  dispatch_floating(in.e.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Call<T> call = make_call<T>(in);
    write_to(grads, call);
    const bool is_scalar = g.dim() == 0;
    if (is_scalar)
      call.factor = data<Math<T>>(g);
    else
      call.grad = data<T>(g);
    launch(in, is_scalar ? std::nullopt : std::optional<Tensor>(g), call, kMaxBlocks, current_stream(error));
  });
  return {grads.e, grads.a, grads.lb};
}

// The sum of weight x nll times `factor`, and its gradients if `with_gradients`.
std::tuple<Tensor, Tensor, Tensor, Tensor> ggd_nll_mean(const Tensor& error, const Tensor& log_scale,
                                                        const Tensor& log_shape, const std::optional<Tensor>& weight,
                                                        const Tensor& factor, bool with_gradients) {
  const DeviceGuard guard(error.get_device_index());
  const Inputs in(error, log_scale, log_shape, weight);
  const Gradients grads(in, with_gradients);
  Tensor mean = empty_like(factor);
  if (in.e.numel() == 0) return {torch::stable::zero_(mean), grads.e, grads.a, grads.lb};
  Tensor partials = new_empty(in.e, {kMaxPartials}, ScalarType::Double);
  dispatch_floating(in.e.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Call<T> call = make_call<T>(in);
    call.factor = data<Math<T>>(factor), call.partials = mutable_data<double>(partials);
    if (with_gradients) write_to(grads, call);
    const cudaStream_t stream = current_stream(error);
    const unsigned blocks = launch(in, std::nullopt, call, kMaxPartials, stream);
    sum_partials<<<1, kThreads, 0, stream>>>(call.partials, blocks, 1.0, call.factor, mutable_data<Math<T>>(mean));
    check_launch();
  });
  return {mean, grads.e, grads.a, grads.lb};
}

// The factor is read on the device, so the host does not wait. It is 1 if the mean itself is the loss: nothing to do.
template <typename T>
__global__ void scale_kernel(T* x, int64_t numel, const Math<T>* factor) {
  const Math<T> scale = *factor;
  if (scale == Math<T>(1)) return;
  for (int64_t i = grid_thread(); i < numel; i += grid_threads())
    x[i] = static_cast<T>(static_cast<Math<T>>(x[i]) * scale);
}

void ggd_scale(Tensor ge, Tensor ga, Tensor glb, const Tensor& factor) {
  const DeviceGuard guard(ge.get_device_index());
  for (const Tensor* x : {&ge, &ga, &glb}) {
    if (x->numel() == 0) continue;
    dispatch_floating(x->scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      scale_kernel<<<blocks_for(x->numel()), kThreads, 0, current_stream(ge)>>>(mutable_data<T>(*x), x->numel(),
                                                                                data<Math<T>>(factor));
      check_launch();
    });
  }
}

}  // namespace
}  // namespace hagan3d::ggd

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CUDA, m) {
  m.impl("ggd_nll", TORCH_BOX(&hagan3d::ggd::ggd_nll));
  m.impl("ggd_nll_backward", TORCH_BOX(&hagan3d::ggd::ggd_nll_backward));
  m.impl("ggd_nll_mean", TORCH_BOX(&hagan3d::ggd::ggd_nll_mean));
  m.impl("ggd_scale_", TORCH_BOX(&hagan3d::ggd::ggd_scale));
}
