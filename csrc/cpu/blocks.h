// Blocks of voxels that fit the L1 cache: loaded and converted to the math type, computed with SIMD, stored.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "tensor.h"

// Function multi-versioning: compiled for several instruction sets, the best one is selected when the library is
// loaded. Everything it calls must be inline, or the callee is compiled for the baseline.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

namespace hagan3d {

constexpr int kBlock = 512;  // voxels
constexpr int kLanes = 16;   // partial sums of one block

template <typename M>
struct Buffer {
  alignas(64) M at[kBlock];
};

template <typename T, typename M>
void load(const T* from, int n, Buffer<M>& to) {
  for (int i = 0; i < n; ++i) to.at[i] = static_cast<M>(from[i]);
}

template <typename M, typename T>
void store(const Buffer<M>& from, int n, T* to) {
  for (int i = 0; i < n; ++i) to[i] = static_cast<T>(from.at[i]);
}

template <typename M>
void fill(Buffer<M>& buffer, int n, M value) {
  std::fill_n(buffer.at, n, value);
}

template <typename M>
double sum(const Buffer<M>& buffer, int n) {
  M lanes[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) lanes[k] += buffer.at[i + k];
  double total = 0;
  for (; i < n; ++i) total += buffer.at[i];
  for (const M lane : lanes) total += lane;
  return total;
}

// x [groups, spatial] in blocks: every block lies in one group.
struct Blocks {
  int64_t groups, spatial, per_group;

  Blocks(int64_t groups, int64_t spatial) : groups(groups), spatial(spatial), per_group(ceil_div(spatial, kBlock)) {}

  int64_t count() const { return groups * per_group; }

  // f(block number, group, first voxel in the group, number of voxels), in parallel over blocks.
  template <typename F>
  void run(const F& f) const {
    torch::stable::parallel_for(0, count(), 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % per_group * kBlock;
        f(i, i / per_group, first, static_cast<int>(std::min<int64_t>(kBlock, spatial - first)));
      }
    });
  }
};

}  // namespace hagan3d
