// Root-mean-square norm over the channels of a voxel, scalar; r = 1 / sqrt(mean(x^2) + eps).
//   pre  = x r w + b,  y = relu ? max(pre, 0) : pre
//   g    = relu && pre <= 0 ? 0 : d / d y
//   d/dw = sum g x r,  d/db = sum g,  d/dx = r (g w - x r mean_c(g w x r))
#pragma once

#include "elementary.h"

namespace hagan3d::rms_norm {

template <typename T>
HOST_DEVICE T inverse_rms(T square_sum, T channels, T eps) {
  return T(1) / std::sqrt(square_sum / channels + eps);
}

template <typename T>
HOST_DEVICE T value(T normed, T w, T b, bool relu) {  // normed = x r
  const T pre = normed * w + b;
  return relu && pre <= T(0) ? T(0) : pre;  // NaN passes, as through torch's ReLU
}

template <typename T>
HOST_DEVICE T gated(T grad, T normed, T w, T b, bool relu) {
  return relu && normed * w + b <= T(0) ? T(0) : grad;
}

template <typename T>
HOST_DEVICE T input_gradient(T gated_grad, T normed, T w, T r, T mean_dot) {
  return r * (gated_grad * w - normed * mean_dot);
}

}  // namespace hagan3d::rms_norm
