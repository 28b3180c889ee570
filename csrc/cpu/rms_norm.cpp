// Root-mean-square norm on the CPU: tiles of voxels with all channels, in either memory layout; x is read once.
#include "rms_norm.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cpu/blocks.h"

namespace hagan3d::rms_norm {
namespace {

using torch::stable::empty_like;
using torch::stable::new_empty;

constexpr int64_t kTile = 8192;    // values: x, grad and the result fit the L2 cache
constexpr int64_t kMaxTasks = 64;  // fixed: sums over voxels do not depend on the number of threads

// One tile, in the math type; `channel` is the stride between channels.
template <typename M>
struct Tile {
  int voxels, channels;
  int64_t channel;
  bool relu;
  M eps;
  const M *weight, *bias;
};

// Channels last: the inner loop runs over the channels of one voxel.
template <typename M>
HOST_DEVICE void forward_rows(const Tile<M>& tile, const M* x, M* y) {
  const int C = tile.channels;
  for (int v = 0; v < tile.voxels; ++v, x += C, y += C) {
    M squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int c = 0; c < C; ++c) squares += x[c] * x[c];
    const M r = inverse_rms(squares, M(C), tile.eps);
#pragma omp simd
    for (int c = 0; c < C; ++c) y[c] = value(x[c] * r, tile.weight[c], tile.bias[c], tile.relu);
  }
}

template <typename M>
HOST_DEVICE void backward_rows(const Tile<M>& tile, const M* x, const M* grad, M* gx, M* gw, M* gb) {
  const int C = tile.channels;
  for (int v = 0; v < tile.voxels; ++v, x += C, grad += C, gx += C) {
    M squares = 0, dot = 0;
#pragma omp simd reduction(+ : squares)
    for (int c = 0; c < C; ++c) squares += x[c] * x[c];
    const M r = inverse_rms(squares, M(C), tile.eps);
#pragma omp simd reduction(+ : dot)
    for (int c = 0; c < C; ++c) {
      const M normed = x[c] * r, g = gated(grad[c], normed, tile.weight[c], tile.bias[c], tile.relu);
      gw[c] += g * normed;
      gb[c] += g;
      dot += g * normed * tile.weight[c];
    }
    dot /= C;
#pragma omp simd
    for (int c = 0; c < C; ++c) {
      const M normed = x[c] * r, g = gated(grad[c], normed, tile.weight[c], tile.bias[c], tile.relu);
      gx[c] = input_gradient(g, normed, tile.weight[c], r, dot);
    }
  }
}

// Channels first: the inner loop runs over the voxels of one channel; r and dot are per voxel.
template <typename M>
HOST_DEVICE void inverse_rms_planes(const Tile<M>& tile, const M* x, M* r) {
  const int n = tile.voxels;
  for (int v = 0; v < n; ++v) r[v] = 0;
  for (int c = 0; c < tile.channels; ++c, x += tile.channel)
    for (int v = 0; v < n; ++v) r[v] += x[v] * x[v];
  for (int v = 0; v < n; ++v) r[v] = inverse_rms(r[v], M(tile.channels), tile.eps);
}

template <typename M>
HOST_DEVICE void forward_planes(const Tile<M>& tile, const M* x, M* y) {
  M r[kBlock];
  inverse_rms_planes(tile, x, r);
  for (int c = 0; c < tile.channels; ++c, x += tile.channel, y += tile.channel)
#pragma omp simd
    for (int v = 0; v < tile.voxels; ++v) y[v] = value(x[v] * r[v], tile.weight[c], tile.bias[c], tile.relu);
}

template <typename M>
HOST_DEVICE void backward_planes(const Tile<M>& tile, const M* x, const M* grad, M* gx, M* gw, M* gb) {
  const int n = tile.voxels;
  M r[kBlock], dot[kBlock] = {};
  inverse_rms_planes(tile, x, r);
  for (int c = 0; c < tile.channels; ++c) {
    const M *x_c = x + c * tile.channel, *grad_c = grad + c * tile.channel;
    M sum_w = 0, sum_b = 0;
#pragma omp simd reduction(+ : sum_w, sum_b)
    for (int v = 0; v < n; ++v) {
      const M normed = x_c[v] * r[v], g = gated(grad_c[v], normed, tile.weight[c], tile.bias[c], tile.relu);
      sum_w += g * normed;
      sum_b += g;
      dot[v] += g * normed * tile.weight[c] / tile.channels;
    }
    gw[c] += sum_w;
    gb[c] += sum_b;
  }
  for (int c = 0; c < tile.channels; ++c) {
    const M *x_c = x + c * tile.channel, *grad_c = grad + c * tile.channel;
    M* gx_c = gx + c * tile.channel;
#pragma omp simd
    for (int v = 0; v < n; ++v) {
      const M normed = x_c[v] * r[v], g = gated(grad_c[v], normed, tile.weight[c], tile.bias[c], tile.relu);
      gx_c[v] = input_gradient(g, normed, tile.weight[c], r[v], dot[v]);
    }
  }
}

template <typename M>
HOST_DEVICE void forward_body(const Tile<M>& tile, const M* x, M* y) {
  tile.channel == 1 ? forward_rows(tile, x, y) : forward_planes(tile, x, y);
}

template <typename M>
HOST_DEVICE void backward_body(const Tile<M>& tile, const M* x, const M* grad, M* gx, M* gw, M* gb) {
  tile.channel == 1 ? backward_rows(tile, x, grad, gx, gw, gb) : backward_planes(tile, x, grad, gx, gw, gb);
}

FOR_EACH_CPU void forward(const Tile<float>& t, const float* x, float* y) { forward_body(t, x, y); }
FOR_EACH_CPU void forward(const Tile<double>& t, const double* x, double* y) { forward_body(t, x, y); }
FOR_EACH_CPU void backward(const Tile<float>& t, const float* x, const float* grad, float* gx, float* gw, float* gb) {
  backward_body(t, x, grad, gx, gw, gb);
}
FOR_EACH_CPU void backward(const Tile<double>& t, const double* x, const double* grad, double* gx, double* gw,
                           double* gb) {
  backward_body(t, x, grad, gx, gw, gb);
}

// Tiling of a tensor: groups of voxels that are contiguous per channel (channels last: contiguous rows).
struct Layout {
  int64_t channels, groups, voxels, per_tile, per_group;
  bool channels_last;

  explicit Layout(const Tensor& x) : channels(x.size(1)), channels_last(!x.is_contiguous()) {
    const int64_t spatial = hagan3d::voxels(x);
    groups = channels_last ? 1 : x.size(0);
    voxels = channels_last ? x.size(0) * spatial : spatial;
    per_tile = std::clamp<int64_t>(kTile / std::max<int64_t>(1, channels) / 16 * 16, 16, kBlock);
    per_group = (voxels + per_tile - 1) / per_tile;
  }

  int64_t tiles() const { return groups * per_group; }
  int64_t tasks() const { return std::min(tiles(), kMaxTasks); }

  // f(task, offset of the tile's first value, its voxels) for all tiles
  template <typename F>
  void run(const F& f) const {
    torch::stable::parallel_for(0, tasks(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task)
        for (int64_t tile = tiles() * task / tasks(); tile < tiles() * (task + 1) / tasks(); ++tile) {
          const int64_t first = tile % per_group * per_tile;
          const int n = static_cast<int>(std::min(per_tile, voxels - first));
          f(task, channels_last ? first * channels : tile / per_group * channels * voxels + first, n);
        }
    });
  }
};

// A tile of T as the math type: the tensor itself if that is T, else a converted copy.
template <typename T>
struct View {
  using M = Math<T>;
  const Layout& layout;

  Tile<M> tile(int n, const M* weight, const M* bias, bool relu, double eps) const {
    const int64_t plane = std::is_same_v<T, M> ? layout.voxels : n;
    return {n, static_cast<int>(layout.channels), layout.channels_last ? 1 : plane, relu, M(eps), weight, bias};
  }

  // f(offset in the tensor, offset in the copy, number of values) for the runs of memory of a tile
  template <typename F>
  void for_runs(int n, const F& f) const {
    const int64_t runs = layout.channels_last ? 1 : layout.channels, length = n * layout.channels / runs;
    for (int64_t i = 0; i < runs; ++i) f(i * layout.voxels, i * length, length);
  }

  const M* read(const T* x, int n, std::vector<M>& copy) const {
    if constexpr (std::is_same_v<T, M>) {
      return x;
    } else {
      copy.resize(n * layout.channels);
      for_runs(n, [&](int64_t at, int64_t to, int64_t count) {
        for (int64_t i = 0; i < count; ++i) copy[to + i] = static_cast<M>(x[at + i]);
      });
      return copy.data();
    }
  }

  M* result(T* y, int n, std::vector<M>& copy) const {
    if constexpr (std::is_same_v<T, M>) {
      return y;
    } else {
      copy.resize(n * layout.channels);
      return copy.data();
    }
  }

  void write(const std::vector<M>& copy, int n, T* y) const {
    if constexpr (!std::is_same_v<T, M>)
      for_runs(n, [&](int64_t at, int64_t from, int64_t count) {
        for (int64_t i = 0; i < count; ++i) y[at + i] = static_cast<T>(copy[from + i]);
      });
  }
};

Tensor rms_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu, double eps) {
  Tensor y = empty_like(x);
  const Layout layout(x);
  dispatch_floating(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using M = Math<T>;
    const View<T> view{layout};
    layout.run([&](int64_t, int64_t at, int n) {
      std::vector<M> copy_x, copy_y;
      const M* in = view.read(data<T>(x) + at, n, copy_x);
      M* out = view.result(mutable_data<T>(y) + at, n, copy_y);
      forward(view.tile(n, data<M>(weight), data<M>(bias), relu, eps), in, out);
      view.write(copy_y, n, mutable_data<T>(y) + at);
    });
  });
  return y;
}

// Sums over tasks of [tasks, 2, channels] into the gradients of weight and bias.
template <typename M>
void reduce_tasks(const std::vector<double>& sums, int64_t channels, M* gw, M* gb) {
  for (int64_t c = 0; c < channels; ++c) {
    double w = 0, b = 0;
    for (size_t at = c; at < sums.size(); at += 2 * channels) w += sums[at], b += sums[at + channels];
    gw[c] = static_cast<M>(w), gb[c] = static_cast<M>(b);
  }
}

std::tuple<Tensor, Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                     const Tensor& bias, bool relu, double eps) {
  Tensor gx = empty_like(x), gw = empty_like(weight), gb = empty_like(bias);
  const Layout layout(x);
  const int64_t C = layout.channels;
  std::vector<double> sums(layout.tasks() * 2 * C, 0.0);
  dispatch_floating(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using M = Math<T>;
    const View<T> view{layout};
    layout.run([&](int64_t task, int64_t at, int n) {
      std::vector<M> copy_x, copy_g, copy_gx, tile_sums(2 * C, M(0));
      const M* in = view.read(data<T>(x) + at, n, copy_x);
      const M* in_grad = view.read(data<T>(grad) + at, n, copy_g);
      M* out = view.result(mutable_data<T>(gx) + at, n, copy_gx);
      backward(view.tile(n, data<M>(weight), data<M>(bias), relu, eps), in, in_grad, out, tile_sums.data(),
               tile_sums.data() + C);
      view.write(copy_gx, n, mutable_data<T>(gx) + at);
      for (int64_t i = 0; i < 2 * C; ++i) sums[task * 2 * C + i] += tile_sums[i];
    });
    reduce_tasks(sums, C, mutable_data<M>(gw), mutable_data<M>(gb));
  });
  return {gx, gw, gb};
}

}  // namespace
}  // namespace hagan3d::rms_norm

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&hagan3d::rms_norm::rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&hagan3d::rms_norm::rms_norm_backward));
}
