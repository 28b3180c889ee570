// Generalized Gaussian likelihood on the CPU: value and gradients of a block of voxels in one pass.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "cpu/blocks.h"
#include "ggd.h"
#include "ggd_host.h"

namespace hagan3d::ggd {
namespace {

using torch::stable::contiguous;
using torch::stable::empty_like;

// Parameters may be shared by several channels; their gradients are summed over these.
template <typename M>
struct Block {
  Buffer<M> e, a, lb, weight, grad;              // in
  Buffer<M> nll, de;                             // out, of one channel
  Buffer<M> local_a, local_lb, grad_a, grad_lb;  // out, sums of weight x local and weight x local x grad
};

template <typename M>
HOST_DEVICE void add_channel_body(Block<M>& block, int n) {
  for (int i = 0; i < n; ++i) {
    const Terms<M> terms = evaluate(block.e.at[i], block.a.at[i], block.lb.at[i]);
    const M w = block.weight.at[i], scale = w * block.grad.at[i];
    block.nll.at[i] = w * terms.nll;
    block.de.at[i] = scale * terms.de;
    block.local_a.at[i] += w * terms.da;
    block.local_lb.at[i] += w * terms.dlb;
    block.grad_a.at[i] += scale * terms.da;
    block.grad_lb.at[i] += scale * terms.dlb;
  }
}

FOR_EACH_CPU void add_channel(Block<float>& block, int n) { add_channel_body(block, n); }
FOR_EACH_CPU void add_channel(Block<double>& block, int n) { add_channel_body(block, n); }

template <typename M>
HOST_DEVICE void pass_body(Block<M>& block, int n) {
  for (int i = 0; i < n; ++i) {
    block.grad_a.at[i] = pass_scale(block.a.at[i], block.local_a.at[i], block.grad_a.at[i]);
    block.grad_lb.at[i] = pass_shape(block.lb.at[i], block.local_lb.at[i], block.grad_lb.at[i]);
  }
}

FOR_EACH_CPU void pass(Block<float>& block, int n) { pass_body(block, n); }
FOR_EACH_CPU void pass(Block<double>& block, int n) { pass_body(block, n); }

// Output pointers, null if not needed. `grad` is the incoming gradient per voxel of e; without it, all are `factor`.
template <typename T>
struct Outputs {
  T *nll = nullptr, *ge = nullptr, *ga = nullptr, *glb = nullptr;
  const T* grad = nullptr;
  double factor = 1;
};

template <typename T>
double run_block(const Inputs& in, const Outputs<T>& out, int64_t group, int64_t first, int n) {
  using M = Math<T>;
  Block<M> block;
  const int64_t spatial = in.spatial, at_group = group * spatial + first;
  load(data<T>(in.a) + at_group, n, block.a);
  load(data<T>(in.lb) + at_group, n, block.lb);
  fill(block.weight, n, M(1));
  fill(block.grad, n, M(out.factor));
  for (Buffer<M>* total : {&block.local_a, &block.local_lb, &block.grad_a, &block.grad_lb}) fill(*total, n, M(0));
  double nll = 0;
  for (int64_t k = 0; k < in.channels; ++k) {
    const int64_t channel = group * in.channels + k, at = channel * spatial + first;
    load(data<T>(in.e) + at, n, block.e);
    if (in.weight) load(data<T>(*in.weight) + channel / in.weight_repeats * spatial + first, n, block.weight);
    if (out.grad) load(out.grad + at, n, block.grad);
    add_channel(block, n);
    nll += sum(block.nll, n);
    if (out.nll) store(block.nll, n, out.nll + at);
    if (out.ge) store(block.de, n, out.ge + at);
  }
  if (out.ga) {
    pass(block, n);
    store(block.grad_a, n, out.ga + at_group);
    store(block.grad_lb, n, out.glb + at_group);
  }
  return nll;
}

// One pass over all voxels. Returns the sum of weight x nll, the same for any number of threads.
template <typename T>
double run(const Inputs& in, const Outputs<T>& out) {
  const Blocks blocks(in.groups, in.spatial);
  std::vector<double> sums(blocks.count(), 0.0);
  blocks.run(
      [&](int64_t number, int64_t group, int64_t first, int n) { sums[number] = run_block(in, out, group, first, n); });
  double total = 0;
  for (const double partial : sums) total += partial;
  return total;
}

double scalar(const Tensor& x) {
  double value = 0;
  dispatch_floating(x.scalar_type(), [&](auto tag) { value = *data<typename decltype(tag)::type>(x); });
  return value;
}

Tensor ggd_nll(const Tensor& error, const Tensor& log_scale, const Tensor& log_shape,
               const std::optional<Tensor>& weight) {
  const Inputs in(error, log_scale, log_shape, weight);
  Tensor nll = empty_like(in.e);
  dispatch_floating(in.e.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    run<T>(in, {.nll = mutable_data<T>(nll)});
  });
  return nll;
}

// `grad` has the shape of error, or is a scalar: the gradient of every voxel.
std::tuple<Tensor, Tensor, Tensor> ggd_nll_backward(const Tensor& grad, const Tensor& error, const Tensor& log_scale,
                                                    const Tensor& log_shape, const std::optional<Tensor>& weight) {
  const Inputs in(error, log_scale, log_shape, weight);
  const Tensor g = contiguous(grad);
  const Gradients grads(in);
  dispatch_floating(in.e.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Outputs<T> out{.ge = mutable_data<T>(grads.e), .ga = mutable_data<T>(grads.a), .glb = mutable_data<T>(grads.lb)};
    if (g.dim() == 0) {
      out.factor = scalar(g);
    } else {
      out.grad = data<T>(g);
    }
    run<T>(in, out);
  });
  return {grads.e, grads.a, grads.lb};
}

// The sum of weight x nll times `factor`, and its gradients if `with_gradients`.
std::tuple<Tensor, Tensor, Tensor, Tensor> ggd_nll_mean(const Tensor& error, const Tensor& log_scale,
                                                        const Tensor& log_shape, const std::optional<Tensor>& weight,
                                                        const Tensor& factor, bool with_gradients) {
  const Inputs in(error, log_scale, log_shape, weight);
  const Gradients grads(in, with_gradients);
  Tensor mean = empty_like(factor);
  dispatch_floating(in.e.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Outputs<T> out{.factor = scalar(factor)};
    if (with_gradients) {
      out.ge = mutable_data<T>(grads.e);
      out.ga = mutable_data<T>(grads.a);
      out.glb = mutable_data<T>(grads.lb);
    }
    torch::stable::fill_(mean, run<T>(in, out) * out.factor);
  });
  return {mean, grads.e, grads.a, grads.lb};
}

// Chain rule of the mean: its saved gradients times the incoming one, which is 1 if the mean itself is the loss.
void ggd_scale(Tensor ge, Tensor ga, Tensor glb, const Tensor& factor) {
  const double scale = scalar(factor);
  if (scale == 1) return;
  for (const Tensor* x : {&ge, &ga, &glb})
    dispatch_floating(x->scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* values = mutable_data<T>(*x);
      torch::stable::parallel_for(0, x->numel(), 1 << 15, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) values[i] = static_cast<T>(values[i] * static_cast<Math<T>>(scale));
      });
    });
}

}  // namespace
}  // namespace hagan3d::ggd

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("ggd_nll", TORCH_BOX(&hagan3d::ggd::ggd_nll));
  m.impl("ggd_nll_backward", TORCH_BOX(&hagan3d::ggd::ggd_nll_backward));
  m.impl("ggd_nll_mean", TORCH_BOX(&hagan3d::ggd::ggd_nll_mean));
  m.impl("ggd_scale_", TORCH_BOX(&hagan3d::ggd::ggd_scale));
}
