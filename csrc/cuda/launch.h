// Shared by all kernels: current stream, grid of a grid-stride loop, vectorized loads and stores, block reduction.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>

#include "tensor.h"

namespace hagan3d {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kMaxBlocks = 1 << 16;
constexpr int64_t kMaxRows = 65535;     // CUDA's limit for the second extent of a grid
constexpr int64_t kMaxPartials = 2048;  // blocks of a kernel that writes one partial sum per block

using torch::stable::accelerator::DeviceGuard;

inline cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline unsigned blocks_for(int64_t items, int64_t most = kMaxBlocks) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceil_div(items, kThreads), 1, most));
}

// A grid (x, y) for `rows` of `items` each: y runs over rows, which saves every thread an integer division.
inline dim3 grid_for(int64_t items, int64_t rows, int64_t most) {
  const int64_t y = std::min(rows, std::min<int64_t>(most, kMaxRows));
  return dim3(blocks_for(items, most / y), static_cast<unsigned>(y));
}

inline void check_launch() {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA launch failed: ", cudaGetErrorString(error));
}

// Index of this thread among those with the same blockIdx.y, and their number: start and step of a grid-stride loop
__device__ inline int64_t grid_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t grid_threads() { return int64_t(gridDim.x) * blockDim.x; }

// N elements, one vectorized load or store
template <typename T, int N>
struct alignas(sizeof(T) * N) Group {
  T at[N];
};

template <int N, typename T>
__device__ Group<T, N> load(const T* from) {
  return *reinterpret_cast<const Group<T, N>*>(from);
}

template <typename T, int N>
__device__ void store(const Group<T, N>& group, T* to) {
  *reinterpret_cast<Group<T, N>*>(to) = group;
}

// Whether contiguous tensors, of `row` elements per row, allow vectorized access in groups of n.
template <typename... Tensors>
bool groups_align(int64_t row, int n, const Tensors&... tensors) {
  const auto aligned = [n](const Tensor& x) {
    return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % (x.element_size() * n) == 0;
  };
  return row % n == 0 && (aligned(tensors) && ...);
}

// The sum of one value per thread of a block of kThreads, valid in thread 0; the order of summation is fixed.
__device__ inline double block_sum(double value) {
  __shared__ double warps[kWarps];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0)
    for (const double warp : warps) total += warp;
  __syncthreads();
  return total;
}

// out[b] = factor (x *scale if not null) x the sum of partials [samples, count], one block per sample
template <typename M>
__global__ void sum_partials(const double* partials, int64_t count, double factor, const M* scale, M* out) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) total += partials[blockIdx.x * count + i];
  total = block_sum(total);
  if (threadIdx.x == 0) out[blockIdx.x] = static_cast<M>(total * factor * (scale ? double(*scale) : 1.0));
}

}  // namespace hagan3d
