// A 3^3 convolution by minimal filtering along D and H, slab by slab: 48 products for 4 voxels, not 108.
//
// Along one axis two voxels of y are (p0 + p1 + p2, p1 - p2 - p3), where p = [x0 - x2, x1 + x2, x2 - x1, x1 - x3] times
// [w0, (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2, w2], and x0 is the neighbour before the first. A tile is two planes by
// two rows of y; its 4 x 4 filtered rows are kept whole, so that sums run along memory. Along W the three taps are
// three matrix products with the same rows, each a place further on.
//
// Source: Winograd, Arithmetic complexity of computations, SIAM 1980; Lavin and Gray, CVPR 2016, for convolutions.
#include <torch/csrc/stable/library.h>

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
struct Four {
  T at[4];
};

template <typename T>
HOST_DEVICE Four<T> filter(const Four<T>& x) {
  return {x.at[0] - x.at[2], x.at[1] + x.at[2], x.at[2] - x.at[1], x.at[1] - x.at[3]};
}

// the adjoint of `sum` and `difference`
template <typename T>
HOST_DEVICE Four<T> part(T even, T odd) {
  return {even, even + odd, even - odd, -odd};
}

template <typename T>
HOST_DEVICE T sum(const Four<T>& x) {
  return x.at[0] + x.at[1] + x.at[2];
}

template <typename T>
HOST_DEVICE T difference(const Four<T>& x) {
  return x.at[1] - x.at[2] - x.at[3];
}

// Rows of a tile: those of one plane after the other
template <typename T, int N>
struct Rows {
  T* at[N];
};

// y: 16 rows, `step` apart
template <typename T>
HOST_DEVICE void filter_body(const Rows<const T, 16>& x, int64_t n, T* __restrict y, int64_t step) {
  for (int64_t i = 0; i < n; ++i) {
    Four<T> planes[4];
    for (int d = 0; d < 4; ++d)
      planes[d] = filter(Four<T>{x.at[4 * d][i], x.at[4 * d + 1][i], x.at[4 * d + 2][i], x.at[4 * d + 3][i]});
    for (int h = 0; h < 4; ++h) {
      const Four<T> f = filter(Four<T>{planes[0].at[h], planes[1].at[h], planes[2].at[h], planes[3].at[h]});
      for (int d = 0; d < 4; ++d) y[(4 * d + h) * step + i] = f.at[d];
    }
  }
}

template <typename T>
HOST_DEVICE void combine_body(const T* x, int64_t step, int64_t n, T bias, const Rows<T, 4>& y) {
  T* __restrict a = y.at[0], * __restrict b = y.at[1], * __restrict c = y.at[2], * __restrict d = y.at[3];
  for (int64_t i = 0; i < n; ++i) {
    Four<T> low, high;
    for (int h = 0; h < 4; ++h) {
      const Four<T> p{x[h * step + i], x[(4 + h) * step + i], x[(8 + h) * step + i], x[(12 + h) * step + i]};
      low.at[h] = sum(p), high.at[h] = difference(p);
    }
    a[i] = sum(low) + bias, b[i] = difference(low) + bias, c[i] = sum(high) + bias, d[i] = difference(high) + bias;
  }
}

template <typename T>
HOST_DEVICE void part_body(const Rows<const T, 4>& y, int64_t n, T* __restrict x, int64_t step) {
  for (int64_t i = 0; i < n; ++i) {
    const Four<T> low = part(y.at[0][i], y.at[1][i]), high = part(y.at[2][i], y.at[3][i]);
    for (int h = 0; h < 4; ++h) {
      const Four<T> p = part(low.at[h], high.at[h]);
      for (int d = 0; d < 4; ++d) x[(4 * d + h) * step + i] = p.at[d];
    }
  }
}

#define FOR_BOTH(T)                                                                                  \
  FOR_EACH_CPU void filter_tile(const Rows<const T, 16>& x, int64_t n, T* y, int64_t step) {         \
    filter_body(x, n, y, step);                                                                      \
  }                                                                                                  \
  FOR_EACH_CPU void combine_tile(const T* x, int64_t step, int64_t n, T bias, const Rows<T, 4>& y) { \
    combine_body(x, step, n, bias, y);                                                               \
  }                                                                                                  \
  FOR_EACH_CPU void part_tile(const Rows<const T, 4>& y, int64_t n, T* x, int64_t step) { part_body(y, n, x, step); }
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
    rows = even(tile_rows, room, 1);
    planes = even(tile_planes, room / rows, threads / std::gcd(threads, B * parts(tile_rows, rows)));
  }

  int64_t count() const { return B * parts(tile_planes, planes) * parts(tile_rows, rows); }

  Slab at(int64_t i) const {
    const int64_t row = i % parts(tile_rows, rows) * rows, rest = i / parts(tile_rows, rows);
    const int64_t plane = rest % parts(tile_planes, planes) * planes, sample = rest / parts(tile_planes, planes);
    return {sample, plane, std::min(planes, tile_planes - plane), row, std::min(rows, tile_rows - row)};
  }

  int64_t places(const Slab& s) const { return s.planes * s.rows * stride; }

  // From one of 16 matrices [channels, places] to the next: an odd number of cache lines, or all would share a few
  // sets.
  int64_t step(const Slab& s, int64_t channels) const { return (parts(channels * places(s), 32) * 2 + 1) * 16; }
};

// Matrix `i` of the 16 of [16, channels, places]; the last two places of a slab lie beyond its last row.
template <typename T>
Matrix<T> filtered(T* first, const Grid& g, const Slab& s, int64_t channels, int64_t i, int64_t tap = 0) {
  const int64_t n = g.places(s);
  return {first + i * g.step(s, channels) + tap, channels, n - 2, n};
}

template <typename T>
Matrix<T> weights(T* first, int64_t c_out, int64_t c_in, int64_t i, int64_t tap) {
  return {first + (i * kTaps + tap) * c_out * c_in, c_out, c_in, c_in};
}

// f(channel, plane of tiles, row of tiles, where its first row begins in [16, channels, places]); threads share
// channels.
template <typename F>
void for_tiles(const Grid& g, const Slab& s, int64_t channels, const F& f) {
  torch::stable::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      for (int64_t p = 0; p < s.planes; ++p)
        for (int64_t r = 0; r < s.rows; ++r)
          f(c, s.plane + p, s.row + r, c * g.places(s) + (p * s.rows + r) * g.stride);
  });
}

// Row `h` of plane `z` of a volume [D, H, W], or what stands for one outside
template <typename T>
T* row(T* volume, const Grid& g, int64_t D, int64_t z, int64_t h, T* outside) {
  return z < 0 || z >= D || h < 0 || h >= g.H ? outside : volume + (z * g.H + h) * g.W;
}

// out [16, C, places] = the rows of x, filtered along H and D
template <typename T>
void filter_slab(const Grid& g, const Slab& s, const T* x, int64_t C, T* out) {
  const std::vector<T> zeros(g.W, T(0));
  const int64_t step = g.step(s, C);
  for_tiles(g, s, C, [&](int64_t c, int64_t p, int64_t r, int64_t at) {
    const T* volume = x + (s.sample * C + c) * g.D * g.H * g.W;
    Rows<const T, 16> rows;
    for (int64_t i = 0; i < 16; ++i)
      rows.at[i] = row(volume, g, g.D, 2 * p + i / 4 - g.padding, 2 * r + i % 4 - 1, zeros.data());
    filter_tile(rows, g.W, out + at + 1, step);
    for (int64_t k = 0; k < kFiltered; ++k) out[k * step + at] = out[k * step + at + g.W + 1] = 0;
  });
}

// y = the products [16, C, places], combined along D and H
template <typename T>
void combine_slab(const Grid& g, const Slab& s, const T* products, const T* bias, int64_t C, T* y) {
  for_tiles(g, s, C, [&](int64_t c, int64_t p, int64_t r, int64_t at) {
    thread_local std::vector<T> nowhere;
    nowhere.resize(4 * g.W);
    T* volume = y + (s.sample * C + c) * g.depth * g.H * g.W;
    Rows<T, 4> rows;
    for (int64_t i = 0; i < 4; ++i)
      rows.at[i] = row(volume, g, g.depth, 2 * p + i / 2, 2 * r + i % 2, nowhere.data() + i * g.W);
    combine_tile(products + at, g.step(s, C), g.W, bias ? bias[c] : T(0), rows);
  });
}

// out [16, C, places] = the adjoint of `combine_slab` of the gradient in y
template <typename T>
void part_slab(const Grid& g, const Slab& s, const T* grad, int64_t C, T* out) {
  const std::vector<T> zeros(g.W, T(0));
  const int64_t step = g.step(s, C);
  for_tiles(g, s, C, [&](int64_t c, int64_t p, int64_t r, int64_t at) {
    const T* volume = grad + (s.sample * C + c) * g.depth * g.H * g.W;
    Rows<const T, 4> rows;
    for (int64_t i = 0; i < 4; ++i) rows.at[i] = row(volume, g, g.depth, 2 * p + i / 2, 2 * r + i % 2, zeros.data());
    part_tile(rows, g.W, out + at, step);
    for (int64_t k = 0; k < kFiltered; ++k) std::fill_n(out + k * step + at + g.W, 2, T(0));
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
  STD_TORCH_CHECK(folded.size(1) == c_in, "conv_minimal: want weights for ", c_in, " channels, got ", folded.size(1));
  const Grid grid(x, c_out, padding, slab_bytes);
  const Tensor y = torch::stable::new_empty(x, {grid.B, c_out, grid.depth, grid.H, grid.W});
  dispatch_precise(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<Bench<T>> benches(workers_for(grid.count()));
    const auto work = [&](int64_t worker, int64_t i) {
      const Slab s = grid.at(i);
      T* from = benches[worker].x.get(kFiltered * grid.step(s, c_in));
      T* to = benches[worker].y.get(kFiltered * grid.step(s, c_out));
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
      T* from = benches[worker].x.get(kFiltered * grid.step(s, c_in));
      T* to = benches[worker].y.get(kFiltered * grid.step(s, c_out));
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
