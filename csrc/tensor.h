// Access to tensors on the host, shared by the CPU and CUDA operators.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "dispatch.h"

namespace hagan3d {

template <typename T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Voxels per channel of x [B, C, D, H, W]
inline int64_t voxels(const Tensor& x) { return x.size(2) * x.size(3) * x.size(4); }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace hagan3d
