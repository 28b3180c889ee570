// Inputs and outputs of the generalized Gaussian operators on the host, shared by CPU and CUDA.
#pragma once

#include <algorithm>
#include <optional>

#include "tensor.h"

namespace hagan3d::ggd {
namespace {  // tensors have hidden visibility

// Contiguous: e [groups, channels, spatial], a and lb [groups, spatial]. With one pair of parameters per channel,
// groups = B C and channels = 1; with parameters shared by the channels, groups = B and channels = C.
struct Inputs {
  Tensor e, a, lb;
  std::optional<Tensor> weight;
  int64_t groups, channels, spatial;
  int64_t weight_repeats;  // channels of e per channel of the weight

  Inputs(const Tensor& error, const Tensor& log_scale, const Tensor& log_shape,
         const std::optional<Tensor>& mask = std::nullopt)
      : e(torch::stable::contiguous(error)),
        a(torch::stable::contiguous(log_scale)),
        lb(torch::stable::contiguous(log_shape)),
        weight(mask ? std::optional<Tensor>(torch::stable::contiguous(*mask)) : std::nullopt),
        groups(a.size(0) * a.size(1)),
        channels(e.size(1) / std::max<int64_t>(1, a.size(1))),
        spatial(voxels(a)),
        weight_repeats(mask ? e.size(1) / std::max<int64_t>(1, mask->size(1)) : 1) {}
};

// Gradients in e, a and lb; empty unless `needed`.
struct Gradients {
  Tensor e, a, lb;

  explicit Gradients(const Inputs& in, bool needed = true)
      : e(make(in.e, needed)), a(make(in.a, needed)), lb(make(in.a, needed)) {}

 private:
  static Tensor make(const Tensor& x, bool needed) {
    return needed ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  }
};

// One value per sample [B], in at least float32
inline Tensor new_per_sample(const Tensor& like) {
  const bool is_double = like.scalar_type() == ScalarType::Double;
  return torch::stable::new_empty(like, {like.size(0)}, is_double ? ScalarType::Double : ScalarType::Float);
}

}  // namespace
}  // namespace hagan3d::ggd
