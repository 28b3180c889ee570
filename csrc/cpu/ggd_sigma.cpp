// Standard deviation of the generalized Gaussian, its mean per sample, and the uncertainty guide, on the CPU.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cpu/blocks.h"
#include "ggd.h"
#include "ggd_host.h"

namespace hagan3d::ggd {
namespace {

using torch::stable::contiguous;
using torch::stable::empty_like;

template <typename M>
struct Block {
  Buffer<M> a, lb, value, grad;  // in
  Buffer<M> sigma, ga, glb;      // out; ga and glb accumulate
};

template <typename M>
HOST_DEVICE void sigma_body(Block<M>& block, int n, bool log) {
  for (int i = 0; i < n; ++i) block.sigma.at[i] = log_sigma(block.a.at[i], block.lb.at[i]);
  if (log) return;
  for (int i = 0; i < n; ++i) block.sigma.at[i] = math::exp(block.sigma.at[i]);
}

FOR_EACH_CPU void make_sigma(Block<float>& block, int n, bool log) { sigma_body(block, n, log); }
FOR_EACH_CPU void make_sigma(Block<double>& block, int n, bool log) { sigma_body(block, n, log); }

// From the gradient of ln sigma, in ga, to those of the raw parameters.
template <typename M>
HOST_DEVICE void parameter_gradients_body(Block<M>& block, int n) {
  for (int i = 0; i < n; ++i) {
    const M grad = block.ga.at[i], grad_lb = grad * log_sigma_slope(block.lb.at[i]);
    block.ga.at[i] = pass_scale(block.a.at[i], grad, grad);
    block.glb.at[i] = pass_shape(block.lb.at[i], grad_lb, grad_lb);
  }
}

FOR_EACH_CPU void parameter_gradients(Block<float>& block, int n) { parameter_gradients_body(block, n); }
FOR_EACH_CPU void parameter_gradients(Block<double>& block, int n) { parameter_gradients_body(block, n); }

template <typename T>
void load_sigma(const T* a, const T* lb, int n, bool log, Block<Math<T>>& block) {
  load(a, n, block.a);
  load(lb, n, block.lb);
  make_sigma(block, n, log);
}

// Sums per sample [B], from partial sums of equally many blocks per sample.
Tensor per_sample(const Tensor& like, const std::vector<double>& sums, double factor) {
  Tensor out = new_per_sample(like);
  const bool is_double = out.scalar_type() == ScalarType::Double;
  const int64_t blocks = static_cast<int64_t>(sums.size()) / std::max<int64_t>(1, like.size(0));
  for (int64_t b = 0; b < like.size(0); ++b) {
    double total = 0;
    for (int64_t i = b * blocks; i < (b + 1) * blocks; ++i) total += sums[i];
    is_double ? mutable_data<double>(out)[b] = total * factor : mutable_data<float>(out)[b] = float(total * factor);
  }
  return out;
}

Tensor ggd_sigma(const Tensor& log_scale, const Tensor& log_shape, bool log) {
  const Tensor a = contiguous(log_scale), lb = contiguous(log_shape);
  Tensor sigma = empty_like(a);
  dispatch_floating(a.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Blocks(1, a.numel()).run([&](int64_t, int64_t, int64_t first, int n) {
      Block<Math<T>> block;
      load_sigma(data<T>(a) + first, data<T>(lb) + first, n, log, block);
      store(block.sigma, n, mutable_data<T>(sigma) + first);
    });
  });
  return sigma;
}

std::tuple<Tensor, Tensor> ggd_sigma_backward(const Tensor& grad, const Tensor& log_scale, const Tensor& log_shape,
                                              bool log) {
  const Tensor a = contiguous(log_scale), lb = contiguous(log_shape), g = contiguous(grad);
  Tensor ga = empty_like(a), glb = empty_like(a);
  dispatch_floating(a.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Blocks(1, a.numel()).run([&](int64_t, int64_t, int64_t first, int n) {
      Block<Math<T>> block;
      load_sigma(data<T>(a) + first, data<T>(lb) + first, n, false, block);
      load(data<T>(g) + first, n, block.ga);
      if (!log)
        for (int i = 0; i < n; ++i) block.ga.at[i] *= block.sigma.at[i];
      parameter_gradients(block, n);
      store(block.ga, n, mutable_data<T>(ga) + first);
      store(block.glb, n, mutable_data<T>(glb) + first);
    });
  });
  return {ga, glb};
}

Tensor ggd_sigma_mean(const Tensor& log_scale, const Tensor& log_shape) {
  const Tensor a = contiguous(log_scale), lb = contiguous(log_shape);
  const Blocks blocks(a.size(0), a.size(1) * voxels(a));
  std::vector<double> sums(blocks.count(), 0.0);
  dispatch_floating(a.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    blocks.run([&](int64_t number, int64_t sample, int64_t first, int n) {
      Block<Math<T>> block;
      const int64_t at = sample * blocks.spatial + first;
      load_sigma(data<T>(a) + at, data<T>(lb) + at, n, false, block);
      sums[number] = sum(block.sigma, n);
    });
  });
  return per_sample(a, sums, 1.0 / blocks.spatial);
}

// value [groups, channels, spatial] x sigma [groups, spatial] / mean [samples], clipped to [-limit, limit]
Tensor ggd_guide(const Tensor& value, const Tensor& log_scale, const Tensor& log_shape, const Tensor& mean,
                 double limit) {
  const Inputs in(value, log_scale, log_shape);
  const Tensor m = contiguous(mean);
  Tensor guide = empty_like(in.e);
  const Blocks blocks(in.groups, in.spatial);
  dispatch_floating(in.e.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using M = Math<T>;
    blocks.run([&](int64_t, int64_t group, int64_t first, int n) {
      Block<M> block;
      const int64_t at_group = group * blocks.spatial + first;
      load_sigma(data<T>(in.a) + at_group, data<T>(in.lb) + at_group, n, false, block);
      const M per_mean = 1 / data<M>(m)[group / in.a.size(1)];
      for (int64_t channel = group * in.channels; channel < (group + 1) * in.channels; ++channel) {
        const int64_t at = channel * blocks.spatial + first;
        load(data<T>(in.e) + at, n, block.value);
        for (int i = 0; i < n; ++i)
          block.value.at[i] = clamp(block.value.at[i] * block.sigma.at[i] * per_mean, -limit, limit);
        store(block.value, n, mutable_data<T>(guide) + at);
      }
    });
  });
  return guide;
}

// One block of all channels of a group. Returns its partial sum of grad x value x sigma.
template <typename T>
double guide_backward_block(Block<Math<T>>& block, const T* grad, const T* value, Math<T> per_mean, double limit,
                            int64_t channels, int64_t spatial, int n, T* gv) {
  using M = Math<T>;
  double total = 0;
  fill(block.ga, n, M(0));
  for (int64_t at = 0; at < channels * spatial; at += spatial) {
    load(value + at, n, block.value);
    load(grad + at, n, block.grad);
    for (int i = 0; i < n; ++i) {
      const M guide = block.value.at[i] * block.sigma.at[i] * per_mean;
      const M g = std::abs(guide) > M(limit) ? M(0) : block.grad.at[i];
      block.ga.at[i] += g * guide;
      block.value.at[i] = g * block.value.at[i] * block.sigma.at[i];
      block.grad.at[i] = g * block.sigma.at[i] * per_mean;
    }
    total += sum(block.value, n);
    store(block.grad, n, gv + at);
  }
  return total;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ggd_guide_backward(const Tensor& grad, const Tensor& value,
                                                              const Tensor& log_scale, const Tensor& log_shape,
                                                              const Tensor& mean, double limit) {
  const Inputs in(value, log_scale, log_shape);
  const Tensor m = contiguous(mean), g = contiguous(grad);
  const Gradients grads(in);
  const Blocks blocks(in.groups, in.spatial);
  std::vector<double> sums(blocks.count(), 0.0);
  dispatch_floating(in.e.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    blocks.run([&](int64_t number, int64_t group, int64_t first, int n) {
      Block<Math<T>> block;
      const int64_t at_group = group * blocks.spatial + first, at = group * in.channels * blocks.spatial + first;
      load_sigma(data<T>(in.a) + at_group, data<T>(in.lb) + at_group, n, false, block);
      const auto per_mean = 1 / data<Math<T>>(m)[group / in.a.size(1)];
      const double total = guide_backward_block<T>(block, data<T>(g) + at, data<T>(in.e) + at, per_mean, limit,
                                                   in.channels, blocks.spatial, n, mutable_data<T>(grads.e) + at);
      sums[number] = -total * per_mean * per_mean;
      parameter_gradients(block, n);
      store(block.ga, n, mutable_data<T>(grads.a) + at_group);
      store(block.glb, n, mutable_data<T>(grads.lb) + at_group);
    });
  });
  return {grads.e, grads.a, grads.lb, per_sample(in.e, sums, 1)};
}

}  // namespace
}  // namespace hagan3d::ggd

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("ggd_sigma", TORCH_BOX(&hagan3d::ggd::ggd_sigma));
  m.impl("ggd_sigma_backward", TORCH_BOX(&hagan3d::ggd::ggd_sigma_backward));
  m.impl("ggd_sigma_mean", TORCH_BOX(&hagan3d::ggd::ggd_sigma_mean));
  m.impl("ggd_guide", TORCH_BOX(&hagan3d::ggd::ggd_guide));
  m.impl("ggd_guide_backward", TORCH_BOX(&hagan3d::ggd::ggd_guide_backward));
}
