// Sub-volume selection: geometry of a window, from slices of the window to slices of the source.
//   window:  source = slice + start - halo          adjoint: source = slice - (start - halo)
// The adjoint of cutting a window out of an axis is cutting the whole axis out of the zero-padded window, so one kernel
// serves forward and backward.
#pragma once

#include "tensor.h"

namespace hagan3d::subvolume {

// The geometry of one call: y[b, c, d, h, w] is x at the same index, shifted along one axis, or zero.
struct Plan {
  int64_t size[5];    // of y
  int64_t stride[5];  // of x, in elements
  int64_t length;     // of x along the cut axis
  int64_t shift;      // -halo, or halo for the adjoint
  int dim;            // the cut axis: 2, 3 or 4
  int sign;           // of start: -1 for the adjoint
};

inline Plan make_plan(const Tensor& x, int64_t length, int64_t axis, int64_t halo, bool adjoint) {
  Plan plan;
  plan.dim = static_cast<int>(2 + axis);
  for (int i = 0; i < 5; ++i) {
    plan.size[i] = i == plan.dim ? length : x.size(i);
    plan.stride[i] = x.stride(i);
  }
  plan.length = x.size(plan.dim);
  plan.shift = adjoint ? halo : -halo;
  plan.sign = adjoint ? -1 : 1;
  return plan;
}

HOST_DEVICE int64_t first_slice(const Plan& plan, int64_t start) { return plan.sign * start + plan.shift; }

template <typename In, typename Out, typename T>
HOST_DEVICE Out convert(In value, T scale) {
  if constexpr (std::is_same_v<In, Out>)
    if (scale == T(1)) return value;
  return static_cast<Out>(static_cast<T>(value) * scale);
}

}  // namespace hagan3d::subvolume
