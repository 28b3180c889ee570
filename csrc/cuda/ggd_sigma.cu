// Standard deviation of the generalized Gaussian, its mean per sample, and the uncertainty guide, on CUDA.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/launch.h"
#include "ggd.h"
#include "ggd_host.h"

namespace hagan3d::ggd {
namespace {

using torch::stable::contiguous;
using torch::stable::empty_like;
using torch::stable::new_empty;

constexpr int kGroup = 4;

template <typename T, int N>
__global__ void sigma_kernel(const T* a, const T* lb, int64_t groups, bool log, T* out) {
  using M = Math<T>;
  for (int64_t i = grid_thread(); i < groups; i += grid_threads()) {
    const Group<T, N> in_a = load<N>(a + i * N), in_lb = load<N>(lb + i * N);
    Group<T, N> sigma;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const M value = log_sigma(static_cast<M>(in_a.at[j]), static_cast<M>(in_lb.at[j]));
      sigma.at[j] = static_cast<T>(log ? value : math::exp(value));
    }
    store(sigma, out + i * N);
  }
}

// From the gradient of ln sigma to those of the raw parameters
template <typename T>
__device__ void write_parameter_gradients(Math<T> grad, T raw_a, T raw_lb, T* ga, T* glb) {
  using M = Math<T>;
  const M a = static_cast<M>(raw_a), lb = static_cast<M>(raw_lb), grad_lb = grad * log_sigma_slope(lb);
  *ga = static_cast<T>(pass_scale(a, grad, grad));
  *glb = static_cast<T>(pass_shape(lb, grad_lb, grad_lb));
}

template <typename T>
__global__ void sigma_backward_kernel(const T* grad, const T* a, const T* lb, int64_t numel, bool log, T* ga, T* glb) {
  using M = Math<T>;
  for (int64_t i = grid_thread(); i < numel; i += grid_threads()) {
    M g = static_cast<M>(grad[i]);
    if (!log) g *= math::exp(log_sigma(static_cast<M>(a[i]), static_cast<M>(lb[i])));
    write_parameter_gradients(g, a[i], lb[i], ga + i, glb + i);
  }
}

// Grid (x, sample): one partial sum of sigma per block.
template <typename T>
__global__ void sigma_sum_kernel(const T* a, const T* lb, int64_t per_sample, double* partials) {
  using M = Math<T>;
  const int64_t base = blockIdx.y * per_sample;
  double total = 0;
  for (int64_t i = grid_thread(); i < per_sample; i += grid_threads())
    total += math::exp(log_sigma(static_cast<M>(a[base + i]), static_cast<M>(lb[base + i])));
  total = block_sum(total);
  if (threadIdx.x == 0) partials[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

// Contiguous: value [samples, groups, channels, spatial], a and lb [samples, groups, spatial], mean [samples]
template <typename T>
struct Call {
  const T *value, *a, *lb, *grad;
  const Math<T>* mean;
  T *guide, *gv, *ga, *glb;
  double* partials;
  int64_t groups, channels, spatial;
  Math<T> limit;
};

template <typename T, int N>
__global__ void guide_kernel(Call<T> call) {
  using M = Math<T>;
  const M per_mean = 1 / call.mean[blockIdx.y];
  for (int64_t group = blockIdx.y * call.groups; group < (blockIdx.y + 1) * call.groups; ++group)
    for (int64_t first = grid_thread() * N; first < call.spatial; first += grid_threads() * N) {
      const Group<T, N> a = load<N>(call.a + group * call.spatial + first);
      const Group<T, N> lb = load<N>(call.lb + group * call.spatial + first);
      M relative[N];
#pragma unroll
      for (int j = 0; j < N; ++j)
        relative[j] = math::exp(log_sigma(static_cast<M>(a.at[j]), static_cast<M>(lb.at[j]))) * per_mean;
      for (int64_t k = 0; k < call.channels; ++k) {
        const int64_t at = (group * call.channels + k) * call.spatial + first;
        Group<T, N> value = load<N>(call.value + at);
#pragma unroll
        for (int j = 0; j < N; ++j)
          value.at[j] = static_cast<T>(clamp(static_cast<M>(value.at[j]) * relative[j], -call.limit, call.limit));
        store(value, call.guide + at);
      }
    }
}

// Partial sums: -grad x value x sigma / mean^2, the gradient of the mean
template <typename T>
__global__ void guide_backward_kernel(Call<T> call) {
  using M = Math<T>;
  const M per_mean = 1 / call.mean[blockIdx.y];
  double total = 0;
  for (int64_t group = blockIdx.y * call.groups; group < (blockIdx.y + 1) * call.groups; ++group)
    for (int64_t first = grid_thread(); first < call.spatial; first += grid_threads()) {
      const int64_t at_group = group * call.spatial + first;
      const T a = call.a[at_group], lb = call.lb[at_group];
      const M relative = math::exp(log_sigma(static_cast<M>(a), static_cast<M>(lb))) * per_mean;
      M grad_log_sigma = 0;
      for (int64_t k = 0; k < call.channels; ++k) {
        const int64_t at = (group * call.channels + k) * call.spatial + first;
        const M guide = static_cast<M>(call.value[at]) * relative;
        const M g = guide > call.limit || guide < -call.limit ? M(0) : static_cast<M>(call.grad[at]);
        grad_log_sigma += g * guide;
        call.gv[at] = static_cast<T>(g * relative);
      }
      total -= grad_log_sigma * per_mean;
      write_parameter_gradients(grad_log_sigma, a, lb, call.ga + at_group, call.glb + at_group);
    }
  total = block_sum(total);
  if (threadIdx.x == 0) call.partials[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

// A grid (x, samples) with at most kMaxPartials blocks per sample
dim3 grid_of_samples(int64_t items_per_sample, int64_t samples) {
  return dim3(blocks_for(items_per_sample, kMaxPartials), static_cast<unsigned>(samples));
}

Tensor ggd_sigma(const Tensor& log_scale, const Tensor& log_shape, bool log) {
  const DeviceGuard guard(log_scale.get_device_index());
  const Tensor a = contiguous(log_scale), lb = contiguous(log_shape);
  Tensor sigma = empty_like(a);
  const int64_t numel = a.numel();
  if (numel == 0) return sigma;
  dispatch_floating(a.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const cudaStream_t stream = current_stream(a);
    if (groups_align(numel, kGroup, a, lb))
      sigma_kernel<T, kGroup><<<blocks_for(numel / kGroup), kThreads, 0, stream>>>(
          data<T>(a), data<T>(lb), numel / kGroup, log, mutable_data<T>(sigma));
    else
      sigma_kernel<T, 1>
          <<<blocks_for(numel), kThreads, 0, stream>>>(data<T>(a), data<T>(lb), numel, log, mutable_data<T>(sigma));
    check_launch();
  });
  return sigma;
}

std::tuple<Tensor, Tensor> ggd_sigma_backward(const Tensor& grad, const Tensor& log_scale, const Tensor& log_shape,
                                              bool log) {
  const DeviceGuard guard(log_scale.get_device_index());
  const Tensor a = contiguous(log_scale), lb = contiguous(log_shape), g = contiguous(grad);
  Tensor ga = empty_like(a), glb = empty_like(a);
  if (a.numel() == 0) return {ga, glb};
  dispatch_floating(a.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    sigma_backward_kernel<<<blocks_for(a.numel()), kThreads, 0, current_stream(a)>>>(
        data<T>(g), data<T>(a), data<T>(lb), a.numel(), log, mutable_data<T>(ga), mutable_data<T>(glb));
    check_launch();
  });
  return {ga, glb};
}

Tensor ggd_sigma_mean(const Tensor& log_scale, const Tensor& log_shape) {
  const DeviceGuard guard(log_scale.get_device_index());
  const Tensor a = contiguous(log_scale), lb = contiguous(log_shape);
  Tensor mean = new_per_sample(a);
  if (a.numel() == 0) return mean;
  const int64_t samples = a.size(0), per_sample = a.numel() / samples;
  const dim3 grid = grid_of_samples(per_sample, samples);
  Tensor partials = new_empty(a, {samples * grid.x}, ScalarType::Double);
  dispatch_floating(a.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using M = Math<T>;
    const cudaStream_t stream = current_stream(a);
    sigma_sum_kernel<<<grid, kThreads, 0, stream>>>(data<T>(a), data<T>(lb), per_sample,
                                                    mutable_data<double>(partials));
    check_launch();
    sum_partials<M><<<static_cast<unsigned>(samples), kThreads, 0, stream>>>(
        data<double>(partials), grid.x, 1.0 / per_sample, nullptr, mutable_data<M>(mean));
    check_launch();
  });
  return mean;
}

template <typename T>
Call<T> make_call(const Inputs& in, const Tensor& mean, double limit) {
  Call<T> call = {};
  call.value = data<T>(in.e), call.a = data<T>(in.a), call.lb = data<T>(in.lb), call.mean = data<Math<T>>(mean);
  call.groups = in.a.size(1), call.channels = in.channels, call.spatial = in.spatial;
  call.limit = static_cast<Math<T>>(limit);
  return call;
}

Tensor ggd_guide(const Tensor& value, const Tensor& log_scale, const Tensor& log_shape, const Tensor& mean,
                 double limit) {
  const DeviceGuard guard(value.get_device_index());
  const Inputs in(value, log_scale, log_shape);
  const Tensor &v = in.e, m = contiguous(mean);
  Tensor guide = empty_like(v);
  if (guide.numel() == 0) return guide;
  dispatch_floating(v.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Call<T> call = make_call<T>(in, m, limit);
    call.guide = mutable_data<T>(guide);
    if (groups_align(call.spatial, kGroup, v, in.a, in.lb))
      guide_kernel<T, kGroup>
          <<<grid_of_samples(call.spatial / kGroup, v.size(0)), kThreads, 0, current_stream(v)>>>(call);
    else
      guide_kernel<T, 1><<<grid_of_samples(call.spatial, v.size(0)), kThreads, 0, current_stream(v)>>>(call);
    check_launch();
  });
  return guide;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ggd_guide_backward(const Tensor& grad, const Tensor& value,
                                                              const Tensor& log_scale, const Tensor& log_shape,
                                                              const Tensor& mean, double limit) {
  const DeviceGuard guard(value.get_device_index());
  const Inputs in(value, log_scale, log_shape);
  const Tensor &v = in.e, m = contiguous(mean), g = contiguous(grad);
  const Gradients grads(in);
  Tensor gm = empty_like(m);
  if (v.numel() == 0) return {grads.e, grads.a, grads.lb, torch::stable::zero_(gm)};
  const dim3 grid = grid_of_samples(in.spatial, v.size(0));
  Tensor partials = new_empty(v, {v.size(0) * grid.x}, ScalarType::Double);
  dispatch_floating(v.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using M = Math<T>;
    Call<T> call = make_call<T>(in, m, limit);
    call.grad = data<T>(g), call.partials = mutable_data<double>(partials);
    call.gv = mutable_data<T>(grads.e), call.ga = mutable_data<T>(grads.a), call.glb = mutable_data<T>(grads.lb);
    const cudaStream_t stream = current_stream(v);
    guide_backward_kernel<<<grid, kThreads, 0, stream>>>(call);
    check_launch();
    sum_partials<M><<<grid.y, kThreads, 0, stream>>>(call.partials, grid.x, 1.0, nullptr, mutable_data<M>(gm));
    check_launch();
  });
  return {grads.e, grads.a, grads.lb, gm};
}

}  // namespace
}  // namespace hagan3d::ggd

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CUDA, m) {
  m.impl("ggd_sigma", TORCH_BOX(&hagan3d::ggd::ggd_sigma));
  m.impl("ggd_sigma_backward", TORCH_BOX(&hagan3d::ggd::ggd_sigma_backward));
  m.impl("ggd_sigma_mean", TORCH_BOX(&hagan3d::ggd::ggd_sigma_mean));
  m.impl("ggd_guide", TORCH_BOX(&hagan3d::ggd::ggd_guide));
  m.impl("ggd_guide_backward", TORCH_BOX(&hagan3d::ggd::ggd_guide_backward));
}
