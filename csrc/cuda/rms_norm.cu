// Root-mean-square norm on CUDA. Contiguous (channels first): one thread per voxel, of types of two bytes per group of
// voxels, neighbouring threads on neighbouring groups. Channels last: one warp per voxel, lanes over channels. The
// second read of x hits the cache.
#include "rms_norm.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/launch.h"

namespace hagan3d::rms_norm {
namespace {

using torch::stable::empty_like;
using torch::stable::new_empty;

constexpr int64_t kSumBlocks = 512;      // of the backward pass, one partial sum over voxels each
constexpr int kSharedBytes = 32 * 1024;  // for the sums of the warps of a block

template <typename T>
constexpr int kVoxels = sizeof(T) == 2 ? 4 : 1;  // per thread, where rows of voxels allow it: loads of eight bytes

template <typename T>
struct Call {
  const T *x, *grad;
  const Math<T>*weight, *bias;
  T* out;
  Math<T>* sums;  // [blocks, 2, channels]
  int64_t samples, spatial;
  int channels;
  bool relu;
  Math<T> eps;
};

template <typename M>
__device__ M warp_sum(M value) {  // in every lane
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Offset of channel 0 of the i-th group of N voxels
template <int N, typename T>
__device__ int64_t group_offset(const Call<T>& call, int64_t i) {
  const int64_t groups = call.spatial / N;
  return i / groups * call.channels * call.spatial + i % groups * N;
}

// Inverse RMS of N neighbouring voxels, whose channel 0 is at `base`
template <int N, typename T>
__device__ Group<Math<T>, N> inverse_rms_of(const Call<T>& call, int64_t base) {
  using M = Math<T>;
  Group<M, N> r = {};
  for (int c = 0; c < call.channels; ++c) {
    const Group<T, N> x = load<N>(call.x + base + c * call.spatial);
    for (int j = 0; j < N; ++j) r.at[j] += static_cast<M>(x.at[j]) * static_cast<M>(x.at[j]);
  }
  for (int j = 0; j < N; ++j) r.at[j] = inverse_rms(r.at[j], M(call.channels), call.eps);
  return r;
}

template <int N, typename T>
__global__ void forward_planes(Call<T> call) {
  using M = Math<T>;
  for (int64_t i = grid_thread(); i < call.samples * call.spatial / N; i += grid_threads()) {
    const int64_t base = group_offset<N>(call, i);
    const Group<M, N> r = inverse_rms_of<N>(call, base);
    for (int c = 0; c < call.channels; ++c) {
      const int64_t at = base + c * call.spatial;
      const Group<T, N> x = load<N>(call.x + at);
      Group<T, N> y;
      for (int j = 0; j < N; ++j)
        y.at[j] = static_cast<T>(value(static_cast<M>(x.at[j]) * r.at[j], call.weight[c], call.bias[c], call.relu));
      store(y, call.out + at);
    }
  }
}

template <typename T>
__global__ void forward_rows(Call<T> call) {
  using M = Math<T>;
  const int lane = threadIdx.x % 32;
  for (int64_t i = grid_thread() / 32; i < call.samples * call.spatial; i += grid_threads() / 32) {
    const T* x = call.x + i * call.channels;
    M squares = 0;
    for (int c = lane; c < call.channels; c += 32) squares += static_cast<M>(x[c]) * static_cast<M>(x[c]);
    const M r = inverse_rms(warp_sum(squares), M(call.channels), call.eps);
    for (int c = lane; c < call.channels; c += 32)
      call.out[i * call.channels + c] =
          static_cast<T>(value(static_cast<M>(x[c]) * r, call.weight[c], call.bias[c], call.relu));
  }
}

// Reduce the sums of the warps of this block, [warps, 2, channels] in shared memory, into call.sums.
template <typename T>
__device__ void write_sums(const Call<T>& call, const Math<T>* shared) {
  __syncthreads();
  const int width = 2 * call.channels, warps = blockDim.x / 32;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    Math<T> total = 0;
    for (int warp = 0; warp < warps; ++warp) total += shared[warp * width + i];
    call.sums[int64_t(blockIdx.x) * width + i] = total;
  }
}

template <typename M>
__device__ void zero_sums(M* own, int width) {
  for (int i = threadIdx.x % 32; i < width; i += 32) own[i] = 0;
  __syncwarp();
}

template <int N, typename T>
__global__ void backward_planes(Call<T> call) {
  using M = Math<T>;
  extern __shared__ __align__(16) unsigned char raw[];
  M* own = reinterpret_cast<M*>(raw) + threadIdx.x / 32 * 2 * call.channels;
  zero_sums(own, 2 * call.channels);
  const int64_t total = call.samples * call.spatial / N;
  // Warp sums need all lanes: the loop bound depends on the first group of the block alone.
  for (int64_t first = int64_t(blockIdx.x) * blockDim.x; first < total; first += grid_threads()) {
    const int64_t i = first + threadIdx.x;
    const bool inside = i < total;
    const int64_t base = inside ? group_offset<N>(call, i) : 0;
    const Group<M, N> r = inverse_rms_of<N>(call, base);
    Group<M, N> dot = {};
    for (int c = 0; c < call.channels; ++c) {
      const Group<T, N> x = load<N>(call.x + base + c * call.spatial);
      const Group<T, N> grad = load<N>(call.grad + base + c * call.spatial);
      M sum_w = 0, sum_b = 0;
      for (int j = 0; j < N; ++j) {
        const M normed = static_cast<M>(x.at[j]) * r.at[j];
        const M g = inside ? gated(static_cast<M>(grad.at[j]), normed, call.weight[c], call.bias[c], call.relu) : M(0);
        dot.at[j] += g * normed * call.weight[c];
        sum_w += g * normed, sum_b += g;
      }
      sum_w = warp_sum(sum_w), sum_b = warp_sum(sum_b);
      if (threadIdx.x % 32 == 0) own[c] += sum_w, own[call.channels + c] += sum_b;
    }
    if (!inside) continue;
    for (int c = 0; c < call.channels; ++c) {
      const int64_t at = base + c * call.spatial;
      const Group<T, N> x = load<N>(call.x + at), grad = load<N>(call.grad + at);
      Group<T, N> out;
      for (int j = 0; j < N; ++j) {
        const M normed = static_cast<M>(x.at[j]) * r.at[j], mean_dot = dot.at[j] / call.channels;
        const M g = gated(static_cast<M>(grad.at[j]), normed, call.weight[c], call.bias[c], call.relu);
        out.at[j] = static_cast<T>(input_gradient(g, normed, call.weight[c], r.at[j], mean_dot));
      }
      store(out, call.out + at);
    }
  }
  write_sums(call, reinterpret_cast<M*>(raw));
}

template <typename T>
__global__ void backward_rows(Call<T> call) {
  using M = Math<T>;
  extern __shared__ __align__(16) unsigned char raw[];
  M* own = reinterpret_cast<M*>(raw) + threadIdx.x / 32 * 2 * call.channels;
  zero_sums(own, 2 * call.channels);
  const int lane = threadIdx.x % 32;
  for (int64_t i = grid_thread() / 32; i < call.samples * call.spatial; i += grid_threads() / 32) {
    const T *x = call.x + i * call.channels, *grad = call.grad + i * call.channels;
    M squares = 0, dot = 0;
    for (int c = lane; c < call.channels; c += 32) squares += static_cast<M>(x[c]) * static_cast<M>(x[c]);
    const M r = inverse_rms(warp_sum(squares), M(call.channels), call.eps);
    for (int c = lane; c < call.channels; c += 32) {
      const M normed = static_cast<M>(x[c]) * r;
      const M g = gated(static_cast<M>(grad[c]), normed, call.weight[c], call.bias[c], call.relu);
      dot += g * normed * call.weight[c];
      own[c] += g * normed;
      own[call.channels + c] += g;
    }
    dot = warp_sum(dot) / call.channels;
    for (int c = lane; c < call.channels; c += 32) {
      const M normed = static_cast<M>(x[c]) * r;
      const M g = gated(static_cast<M>(grad[c]), normed, call.weight[c], call.bias[c], call.relu);
      call.out[i * call.channels + c] = static_cast<T>(input_gradient(g, normed, call.weight[c], r, dot));
    }
  }
  write_sums(call, reinterpret_cast<M*>(raw));
}

// gw and gb [channels] from the sums of all blocks [blocks, 2, channels], in fixed order; one warp per channel of each
template <typename M>
__global__ void sum_blocks(const M* sums, int64_t blocks, int channels, M* gw, M* gb) {
  const int lane = threadIdx.x % 32;
  for (int64_t i = grid_thread() / 32; i < 2 * channels; i += grid_threads() / 32) {
    double total = 0;
    for (int64_t block = lane; block < blocks; block += 32) total += sums[block * 2 * channels + i];
    total = warp_sum(total);
    if (lane == 0) (i < channels ? gw[i] : gb[i - channels]) = static_cast<M>(total);
  }
}

template <typename T>
Call<T> make_call(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out, bool relu, double eps) {
  Call<T> call = {};
  call.x = data<T>(x), call.out = mutable_data<T>(out);
  call.weight = data<Math<T>>(weight), call.bias = data<Math<T>>(bias);
  call.samples = x.size(0), call.spatial = voxels(x), call.channels = static_cast<int>(x.size(1));
  call.relu = relu, call.eps = static_cast<Math<T>>(eps);
  return call;
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu, double eps) {
  const DeviceGuard guard(x.get_device_index());
  Tensor y = empty_like(x);
  if (y.numel() == 0) return y;
  dispatch_floating(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int N = kVoxels<T>;
    const Call<T> call = make_call<T>(x, weight, bias, y, relu, eps);
    const int64_t items = call.samples * call.spatial;
    if (x.is_contiguous() && groups_align(call.spatial, N, x, y))
      forward_planes<N><<<blocks_for(items / N), kThreads, 0, current_stream(x)>>>(call);
    else if (x.is_contiguous())
      forward_planes<1><<<blocks_for(items), kThreads, 0, current_stream(x)>>>(call);
    else
      forward_rows<<<blocks_for(items * 32), kThreads, 0, current_stream(x)>>>(call);
    check_launch();
  });
  return y;
}

// `voxels`: per thread, 0 for channels last
template <typename T>
void launch_backward(Call<T> call, int voxels, const Tensor& gw, const Tensor& gb, cudaStream_t stream) {
  using M = Math<T>;
  constexpr int N = kVoxels<T>;
  const int64_t per_warp = 2 * call.channels * static_cast<int64_t>(sizeof(M));
  STD_TORCH_CHECK(per_warp <= kSharedBytes, "rms_norm: too many channels for its backward: ", call.channels);
  const int warps = static_cast<int>(std::clamp<int64_t>(kSharedBytes / per_warp, 1, kWarps));
  const int64_t items = voxels ? call.samples * call.spatial / voxels : call.samples * call.spatial * 32;
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(items / (warps * 32), 1, kSumBlocks));
  const Tensor sums = new_empty(gw, {static_cast<int64_t>(blocks), 2 * call.channels});
  call.sums = mutable_data<M>(sums);
  if (voxels == N)
    backward_planes<N><<<blocks, warps * 32, warps * per_warp, stream>>>(call);
  else if (voxels)
    backward_planes<1><<<blocks, warps * 32, warps * per_warp, stream>>>(call);
  else
    backward_rows<<<blocks, warps * 32, warps * per_warp, stream>>>(call);
  check_launch();
  sum_blocks<<<blocks_for(2 * call.channels * 32), kThreads, 0, stream>>>(call.sums, blocks, call.channels,
                                                                          mutable_data<M>(gw), mutable_data<M>(gb));
  check_launch();
}

std::tuple<Tensor, Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                     const Tensor& bias, bool relu, double eps) {
  const DeviceGuard guard(x.get_device_index());
  Tensor gx = empty_like(x), gw = empty_like(weight), gb = empty_like(bias);
  if (x.numel() == 0) return {gx, torch::stable::zero_(gw), torch::stable::zero_(gb)};
  dispatch_floating(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Call<T> call = make_call<T>(x, weight, bias, gx, relu, eps);
    call.grad = data<T>(grad);
    const int voxels = groups_align(call.spatial, kVoxels<T>, x, grad, gx) ? kVoxels<T> : 1;
    launch_backward(call, x.is_contiguous() ? voxels : 0, gw, gb, current_stream(x));
  });
  return {gx, gw, gb};
}

}  // namespace
}  // namespace hagan3d::rms_norm

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CUDA, m) {
  m.impl("rms_norm", TORCH_BOX(&hagan3d::rms_norm::rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&hagan3d::rms_norm::rms_norm_backward));
}
