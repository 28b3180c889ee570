// A 3^3 convolution by minimal filtering along D and H, slab by slab: 48 products for 4 voxels, not 108.
//
// Along one axis two voxels of y are (p0 + p1 + p2, p1 - p2 - p3), where p = [x0 - x2, x1 + x2, x2 - x1, x1 - x3] times
// [w0, (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2, w2], and x0 is the neighbour before the first. A tile is two planes by
// two rows of y; its 4 x 4 filtered rows are kept whole, so that sums run along memory. Along W the three taps are
// three matrix products with the same rows, each a place further on.
//
// Source: Winograd, Arithmetic complexity of computations, SIAM 1980; Lavin and Gray, CVPR 2016, for convolutions.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include "cpu/blocks.h"
#include "cpu/matrix.h"

namespace hagan3d::conv_minimal {
namespace {

constexpr int kFiltered = 16;  // rows of a tile: 4 along D times 4 along H
constexpr int kTaps = 3;       // along W

template <typename T>
struct Rows {
  T* at[4];
};

template <typename T>
HOST_DEVICE void filter_body(const Rows<const T>& x, int64_t n, const Rows<T>& y) {
  const T *a = x.at[0], *b = x.at[1], *c = x.at[2], *d = x.at[3];
  T* __restrict p = y.at[0], * __restrict q = y.at[1], * __restrict r = y.at[2], * __restrict s = y.at[3];
  for (int64_t i = 0; i < n; ++i) {
    p[i] = a[i] - c[i];
    q[i] = b[i] + c[i];
    r[i] = c[i] - b[i];
    s[i] = b[i] - d[i];
  }
}

template <typename T>
HOST_DEVICE void combine_body(const Rows<const T>& x, int64_t n, T bias, T* __restrict even, T* __restrict odd) {
  const T *a = x.at[0], *b = x.at[1], *c = x.at[2], *d = x.at[3];
  for (int64_t i = 0; i < n; ++i) {
    even[i] = a[i] + b[i] + c[i] + bias;
    odd[i] = b[i] - c[i] - d[i] + bias;
  }
}

// the adjoint of `combine`
template <typename T>
HOST_DEVICE void part_body(const T* even, const T* odd, int64_t n, const Rows<T>& y) {
  T* __restrict p = y.at[0], * __restrict q = y.at[1], * __restrict r = y.at[2], * __restrict s = y.at[3];
  for (int64_t i = 0; i < n; ++i) {
    p[i] = even[i];
    q[i] = even[i] + odd[i];
    r[i] = even[i] - odd[i];
    s[i] = -odd[i];
  }
}

#define FOR_BOTH(T)                                                                                       \
  FOR_EACH_CPU void filter(const Rows<const T>& x, int64_t n, const Rows<T>& y) { filter_body(x, n, y); } \
  FOR_EACH_CPU void combine(const Rows<const T>& x, int64_t n, T bias, T* even, T* odd) {                 \
    combine_body(x, n, bias, even, odd);                                                                  \
  }                                                                                                       \
  FOR_EACH_CPU void part(const T* even, const T* odd, int64_t n, const Rows<T>& y) { part_body(even, odd, n, y); }
FOR_BOTH(float)
FOR_BOTH(double)
#undef FOR_BOTH

// Tiles of one sample: some planes of them, some rows of each plane.
struct Slab {
  int64_t sample, plane, planes, row, rows;
};

// x [B, C_in, D, H, W], y [B, C_out, depth, H, W], and how the tiles of y are cut into slabs
struct Grid {
  int64_t B, D, H, W, depth, padding, stride, tile_planes, tile_rows, planes, rows;

  Grid(const Tensor& x, int64_t c_out, int64_t padding, int64_t bytes)
      : B(x.size(0)),
        D(x.size(2)),
        H(x.size(3)),
        W(x.size(4)),
        depth(D + 2 * padding - 2),
        padding(padding),
        stride(W + 2),
        tile_planes(parts(depth, 2)),
        tile_rows(parts(H, 2)) {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t per_row = kFiltered * (x.size(1) + c_out) * stride * static_cast<int64_t>(x.element_size());
    const int64_t room = std::max<int64_t>(1, bytes / per_row);
    rows = even(tile_rows, std::max<int64_t>(1, std::lround(std::sqrt(room))), 1);  // with the fewest neighbours
    planes = even(tile_planes, room / rows, threads / std::gcd(threads, B * parts(tile_rows, rows)));
  }

  int64_t count() const { return B * parts(tile_planes, planes) * parts(tile_rows, rows); }

  Slab at(int64_t i) const {
    const int64_t row = i % parts(tile_rows, rows) * rows, rest = i / parts(tile_rows, rows);
    const int64_t plane = rest % parts(tile_planes, planes) * planes, sample = rest / parts(tile_planes, planes);
    return {sample, plane, std::min(planes, tile_planes - plane), row, std::min(rows, tile_rows - row)};
  }

  int64_t places(const Slab& s) const { return s.planes * s.rows * stride; }
};

// Matrix `i` of the 16 of [16, channels, places]; the last two places of a slab lie beyond its last row.
template <typename T>
Matrix<T> filtered(T* first, const Grid& g, const Slab& s, int64_t channels, int64_t i, int64_t tap = 0) {
  const int64_t n = g.places(s);
  return {first + i * channels * n + tap, channels, n - 2, n};
}

template <typename T>
Matrix<T> weights(T* first, int64_t c_out, int64_t c_in, int64_t i, int64_t tap) {
  return {first + (i * kTaps + tap) * c_out * c_in, c_out, c_in, c_in};
}

// The four matrices along D of filter `h` along H, at one channel and one plane of tiles
template <typename T>
Rows<T> along_d(T* first, const Grid& g, const Slab& s, int64_t channels, int64_t h, int64_t c, int64_t p) {
  Rows<T> rows;
  for (int64_t d = 0; d < 4; ++d)
    rows.at[d] = first + ((4 * d + h) * channels + c) * g.places(s) + p * s.rows * g.stride;
  return rows;
}

template <typename T>
Rows<T> four(T* first, int64_t step) {
  return {{first, first + step, first + 2 * step, first + 3 * step}};
}

template <typename F>
void for_channels(int64_t channels, const F& f) {
  torch::stable::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) f(c);
  });
}

// out [16, C, places] = the rows of x, filtered along H and D
template <typename T>
void filter_slab(const Grid& g, const Slab& s, const T* x, int64_t C, T* out) {
  for_channels(C, [&](int64_t c) {
    const int64_t run = s.rows * g.stride, lines = 2 * s.rows + 2;
    std::vector<T> padded(lines * g.stride, T(0)), along_h((2 * s.planes + 2) * 4 * run);
    const T* volume = x + (s.sample * C + c) * g.D * g.H * g.W;
    for (int64_t z = 0; z < 2 * s.planes + 2; ++z) {
      const int64_t plane = 2 * s.plane + z - g.padding;
      for (int64_t line = 0; line < lines; ++line) {
        const int64_t row = 2 * s.row + line - 1;
        T* to = padded.data() + line * g.stride + 1;
        if (plane < 0 || plane >= g.D || row < 0 || row >= g.H)
          std::fill_n(to, g.W, T(0));
        else
          std::copy_n(volume + (plane * g.H + row) * g.W, g.W, to);
      }
      for (int64_t r = 0; r < s.rows; ++r)
        filter(four<const T>(padded.data() + 2 * r * g.stride, g.stride), g.stride,
               four(along_h.data() + z * 4 * run + r * g.stride, run));
    }
    for (int64_t p = 0; p < s.planes; ++p)
      for (int64_t h = 0; h < 4; ++h)
        filter(four<const T>(along_h.data() + (8 * p + h) * run, 4 * run), run, along_d(out, g, s, C, h, c, p));
  });
}

// y = the products [16, C, places], combined along D and H
template <typename T>
void combine_slab(const Grid& g, const Slab& s, const T* products, const T* bias, int64_t C, T* y) {
  for_channels(C, [&](int64_t c) {
    const int64_t run = s.rows * g.stride;
    std::vector<T> planes(8 * run), nowhere(g.W);
    T* volume = y + (s.sample * C + c) * g.depth * g.H * g.W;
    for (int64_t p = 0; p < s.planes; ++p) {
      for (int64_t h = 0; h < 4; ++h)
        combine(along_d(products, g, s, C, h, c, p), run - 2, T(0), planes.data() + h * run,
                planes.data() + (4 + h) * run);
      for (int64_t z = 2 * (s.plane + p), odd = 0; odd < 2 && z + odd < g.depth; ++odd)
        for (int64_t r = 0; r < s.rows; ++r) {
          const int64_t row = 2 * (s.row + r);
          T* to = volume + ((z + odd) * g.H + row) * g.W;
          combine(four<const T>(planes.data() + odd * 4 * run + r * g.stride, run), g.W, bias ? bias[c] : T(0), to,
                  row + 1 < g.H ? to + g.W : nowhere.data());
        }
    }
  });
}

// out [16, C, places] = the adjoint of `combine_slab` of the gradient in y
template <typename T>
void part_slab(const Grid& g, const Slab& s, const T* grad, int64_t C, T* out) {
  for_channels(C, [&](int64_t c) {
    const int64_t run = s.rows * g.stride;
    std::vector<T> pair(2 * g.stride, T(0)), along_h(8 * run);
    const T* volume = grad + (s.sample * C + c) * g.depth * g.H * g.W;
    for (int64_t p = 0; p < s.planes; ++p) {
      for (int64_t odd = 0; odd < 2; ++odd)
        for (int64_t r = 0; r < s.rows; ++r) {
          for (int64_t i = 0; i < 2; ++i) {
            const int64_t z = 2 * (s.plane + p) + odd, row = 2 * (s.row + r) + i;
            T* to = pair.data() + i * g.stride;
            if (z < g.depth && row < g.H)
              std::copy_n(volume + (z * g.H + row) * g.W, g.W, to);
            else
              std::fill_n(to, g.W, T(0));
          }
          part(pair.data(), pair.data() + g.stride, g.stride, four(along_h.data() + odd * 4 * run + r * g.stride, run));
        }
      for (int64_t h = 0; h < 4; ++h)
        part(along_h.data() + h * run, along_h.data() + (4 + h) * run, run, along_d(out, g, s, C, h, c, p));
    }
  });
}

// What one thread works with.
template <typename T>
struct Bench {
  Memory<T> x, y;
};

Tensor conv_minimal(const Tensor& x, const Tensor& folded, const std::optional<Tensor>& bias, int64_t padding,
                    int64_t slab_bytes) {
  const int64_t c_in = x.size(1), c_out = folded.size(0) / (kFiltered * kTaps);
  const Grid grid(x, c_out, padding, slab_bytes);
  const Tensor y = torch::stable::new_empty(x, {grid.B, c_out, grid.depth, grid.H, grid.W});
  dispatch_precise(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<Bench<T>> benches(workers_for(grid.count()));
    const auto work = [&](int64_t worker, int64_t i) {
      const Slab s = grid.at(i);
      T* from = benches[worker].x.get(kFiltered * c_in * grid.places(s));
      T* to = benches[worker].y.get(kFiltered * c_out * grid.places(s));
      filter_slab(grid, s, data<T>(x), c_in, from);
      for (int k = 0; k < kFiltered; ++k) {
        const auto a = weights(data<T>(folded), c_out, c_in, k, 0);
        const auto b = filtered<const T>(from, grid, s, c_in, k);
        const auto c = filtered(to, grid, s, c_out, k);
        multiply(Product<T>{a.at, c_in, 1, c_out * c_in, b.at, b.stride, c.at, c.stride, c_out, c.columns, c_in, kTaps,
                            false});
      }
      combine_slab<T>(grid, s, to, bias ? data<T>(*bias) : nullptr, c_out, mutable_data<T>(y));
    };
    run_slabs(grid.count(), benches.size(), work);
  });
  return y;
}

// The sums of products with the gradient in y [48 C_out, C_in]: the gradient in the folded weights
Tensor conv_minimal_products(const Tensor& grad, const Tensor& x, int64_t padding, int64_t slab_bytes) {
  const int64_t c_in = x.size(1), c_out = grad.size(1), size = kFiltered * kTaps * c_out * c_in;
  const Tensor sums = torch::stable::new_zeros(x, {kFiltered * kTaps * c_out, c_in});
  const Grid grid(x, c_out, padding, slab_bytes);
  dispatch_precise(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t workers = size > kMostSums ? 1 : workers_for(grid.count());
    std::vector<T> partial((workers - 1) * size, T(0));
    std::vector<Bench<T>> benches(workers);
    const auto work = [&](int64_t worker, int64_t i) {
      const Slab s = grid.at(i);
      T* from = benches[worker].x.get(kFiltered * c_in * grid.places(s));
      T* to = benches[worker].y.get(kFiltered * c_out * grid.places(s));
      T* sum = worker ? partial.data() + (worker - 1) * size : mutable_data<T>(sums);
      filter_slab(grid, s, data<T>(x), c_in, from);
      part_slab(grid, s, data<T>(grad), c_out, to);
      for (int k = 0; k < kFiltered; ++k)
        for (int tap = 0; tap < kTaps; ++tap)
          add_outer(filtered(to, grid, s, c_out, k), filtered(from, grid, s, c_in, k, tap),
                    weights(sum, c_out, c_in, k, tap));
    };
    run_slabs(grid.count(), workers, work);
    for (size_t i = 0; i < partial.size(); ++i) mutable_data<T>(sums)[i % size] += partial[i];
  });
  return sums;
}

}  // namespace
}  // namespace hagan3d::conv_minimal

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("conv_minimal", TORCH_BOX(&hagan3d::conv_minimal::conv_minimal));
  m.impl("conv_minimal_products", TORCH_BOX(&hagan3d::conv_minimal::conv_minimal_products));
}
