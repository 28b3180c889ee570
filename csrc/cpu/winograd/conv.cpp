// A 3^3 convolution by Winograd's minimal filtering F(2, 3) along D and H: 48 products per 4 output voxels, not 108.
//
// Along one axis two voxels of y are (p0 + p1 + p2, p1 - p2 - p3), where p = [x0 - x2, x1 + x2, x2 - x1, x1 - x3] times
// [w0, (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2, w2], and x0 is the left neighbour of the first. A tile is two planes by
// two rows of y, over the whole width W: the 4 x 4 transformed rows are contiguous, so the transforms vectorize along
// W. The three taps along W are three matrix products with the same rows, shifted by one column each.
//
// Source: Winograd, Arithmetic complexity of computations, SIAM 1980; Lavin and Gray, CVPR 2016, for convolutions.
#include <torch/csrc/stable/library.h>

#include <numeric>
#include <optional>
#include <vector>

#include "cpu/blocks.h"
#include "cpu/winograd/matrix.h"

namespace hagan3d::winograd_conv {
namespace {

constexpr int kFiltered = 16;  // transformed rows of a tile: 4 along D times 4 along H
constexpr int kTaps = 3;       // along W

template <typename T>
struct Tile {
  T value[4];
};

template <typename T>
HOST_DEVICE Tile<T> filter(const Tile<T>& x) {
  return {x.value[0] - x.value[2], x.value[1] + x.value[2], x.value[2] - x.value[1], x.value[1] - x.value[3]};
}

// adjoint of `sum` and `difference`
template <typename T>
HOST_DEVICE Tile<T> adjoint(T even, T odd) {
  return {even, even + odd, even - odd, -odd};
}

template <typename T>
HOST_DEVICE T sum(const Tile<T>& x) {
  return x.value[0] + x.value[1] + x.value[2];
}

template <typename T>
HOST_DEVICE T difference(const Tile<T>& x) {
  return x.value[1] - x.value[2] - x.value[3];
}

// Pointers to the rows of a tile, plane by plane
template <typename T, int N>
struct Rows {
  T* row[N];
};

// y: 16 rows, `step` apart
template <typename T>
HOST_DEVICE void filter_body(const Rows<const T, 16>& x, int64_t n, T* __restrict y, int64_t step) {
  for (int64_t i = 0; i < n; ++i) {
    Tile<T> planes[4];
    for (int d = 0; d < 4; ++d)
      planes[d] = filter(Tile<T>{x.row[4 * d][i], x.row[4 * d + 1][i], x.row[4 * d + 2][i], x.row[4 * d + 3][i]});
    for (int h = 0; h < 4; ++h) {
      const Tile<T> f = filter(Tile<T>{planes[0].value[h], planes[1].value[h], planes[2].value[h], planes[3].value[h]});
      for (int d = 0; d < 4; ++d) y[(4 * d + h) * step + i] = f.value[d];
    }
  }
}

template <typename T>
HOST_DEVICE void combine_body(const T* x, int64_t step, int64_t n, T bias, const Rows<T, 4>& y) {
  T* __restrict a = y.row[0], * __restrict b = y.row[1], * __restrict c = y.row[2], * __restrict d = y.row[3];
  for (int64_t i = 0; i < n; ++i) {
    Tile<T> low, high;
    for (int h = 0; h < 4; ++h) {
      const Tile<T> p{x[h * step + i], x[(4 + h) * step + i], x[(8 + h) * step + i], x[(12 + h) * step + i]};
      low.value[h] = sum(p), high.value[h] = difference(p);
    }
    a[i] = sum(low) + bias, b[i] = difference(low) + bias, c[i] = sum(high) + bias, d[i] = difference(high) + bias;
  }
}

template <typename T>
HOST_DEVICE void adjoint_body(const Rows<const T, 4>& y, int64_t n, T* __restrict x, int64_t step) {
  for (int64_t i = 0; i < n; ++i) {
    const Tile<T> low = adjoint(y.row[0][i], y.row[1][i]), high = adjoint(y.row[2][i], y.row[3][i]);
    for (int h = 0; h < 4; ++h) {
      const Tile<T> p = adjoint(low.value[h], high.value[h]);
      for (int d = 0; d < 4; ++d) x[(4 * d + h) * step + i] = p.value[d];
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
  FOR_EACH_CPU void adjoint_tile(const Rows<const T, 4>& y, int64_t n, T* x, int64_t step) {         \
    adjoint_body(y, n, x, step);                                                                     \
  }
FOR_BOTH(float)
FOR_BOTH(double)
#undef FOR_BOTH

// A block of tiles of one sample
struct Slab {
  int64_t sample, plane, planes, row, rows;
};

// x [B, C_in, D, H, W], y [B, C_out, depth, H, W], and the partition of the tiles of y into slabs
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
        tile_planes(ceil_div(depth, 2)),
        tile_rows(ceil_div(H, 2)) {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t per_row = kFiltered * (x.size(1) + c_out) * stride * static_cast<int64_t>(x.element_size());
    const int64_t room = std::max<int64_t>(1, bytes / per_row);
    rows = even(tile_rows, room, 1);
    planes = even(tile_planes, room / rows, threads / std::gcd(threads, B * ceil_div(tile_rows, rows)));
  }

  int64_t count() const { return B * ceil_div(tile_planes, planes) * ceil_div(tile_rows, rows); }

  Slab at(int64_t i) const {
    const int64_t row = i % ceil_div(tile_rows, rows) * rows, rest = i / ceil_div(tile_rows, rows);
    const int64_t plane = rest % ceil_div(tile_planes, planes) * planes, sample = rest / ceil_div(tile_planes, planes);
    return {sample, plane, std::min(planes, tile_planes - plane), row, std::min(rows, tile_rows - row)};
  }

  int64_t columns(const Slab& s) const { return s.planes * s.rows * stride; }

  // Stride between the 16 matrices [channels, columns], padded to an odd number of cache lines: a power of two would
  // alias in the cache.
  int64_t step(const Slab& s, int64_t channels) const { return (ceil_div(channels * columns(s), 32) * 2 + 1) * 16; }
};

// Matrix `i` of [16, channels, columns], without the two padding columns after the last row
template <typename T>
Matrix<T> filtered(T* first, const Grid& g, const Slab& s, int64_t channels, int64_t i, int64_t tap = 0) {
  const int64_t n = g.columns(s);
  return {first + i * g.step(s, channels) + tap, channels, n - 2, n};
}

template <typename T>
Matrix<T> weights(T* first, int64_t c_out, int64_t c_in, int64_t i, int64_t tap) {
  return {first + (i * kTaps + tap) * c_out * c_in, c_out, c_in, c_in};
}

// f(channel, plane of tiles, row of tiles, offset of the tile in [channels, columns]), in parallel over channels
template <typename F>
void for_tiles(const Grid& g, const Slab& s, int64_t channels, const F& f) {
  torch::stable::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      for (int64_t p = 0; p < s.planes; ++p)
        for (int64_t r = 0; r < s.rows; ++r)
          f(c, s.plane + p, s.row + r, c * g.columns(s) + (p * s.rows + r) * g.stride);
  });
}

// Row `h` of plane `z` of a volume [D, H, W], or `outside`
template <typename T>
T* row(T* volume, const Grid& g, int64_t D, int64_t z, int64_t h, T* outside) {
  return z < 0 || z >= D || h < 0 || h >= g.H ? outside : volume + (z * g.H + h) * g.W;
}

// Input transform: out [16, C, columns] = rows of x, filtered along H and D
template <typename T>
void filter_slab(const Grid& g, const Slab& s, const T* x, int64_t C, T* out) {
  const std::vector<T> zeros(g.W, T(0));
  const int64_t step = g.step(s, C);
  for_tiles(g, s, C, [&](int64_t c, int64_t p, int64_t r, int64_t at) {
    const T* volume = x + (s.sample * C + c) * g.D * g.H * g.W;
    Rows<const T, 16> rows;
    for (int64_t i = 0; i < 16; ++i)
      rows.row[i] = row(volume, g, g.D, 2 * p + i / 4 - g.padding, 2 * r + i % 4 - 1, zeros.data());
    filter_tile(rows, g.W, out + at + 1, step);
    for (int64_t k = 0; k < kFiltered; ++k) out[k * step + at] = out[k * step + at + g.W + 1] = 0;
  });
}

// Output transform: y = products [16, C, columns], combined along D and H
template <typename T>
void combine_slab(const Grid& g, const Slab& s, const T* products, const T* bias, int64_t C, T* y) {
  for_tiles(g, s, C, [&](int64_t c, int64_t p, int64_t r, int64_t at) {
    thread_local std::vector<T> nowhere;
    nowhere.resize(4 * g.W);
    T* volume = y + (s.sample * C + c) * g.depth * g.H * g.W;
    Rows<T, 4> rows;
    for (int64_t i = 0; i < 4; ++i)
      rows.row[i] = row(volume, g, g.depth, 2 * p + i / 2, 2 * r + i % 2, nowhere.data() + i * g.W);
    combine_tile(products + at, g.step(s, C), g.W, bias ? bias[c] : T(0), rows);
  });
}

// out [16, C, columns] = adjoint of `combine_slab`, of the gradient in y
template <typename T>
void adjoint_slab(const Grid& g, const Slab& s, const T* grad, int64_t C, T* out) {
  const std::vector<T> zeros(g.W, T(0));
  const int64_t step = g.step(s, C);
  for_tiles(g, s, C, [&](int64_t c, int64_t p, int64_t r, int64_t at) {
    const T* volume = grad + (s.sample * C + c) * g.depth * g.H * g.W;
    Rows<const T, 4> rows;
    for (int64_t i = 0; i < 4; ++i) rows.row[i] = row(volume, g, g.depth, 2 * p + i / 2, 2 * r + i % 2, zeros.data());
    adjoint_tile(rows, g.W, out + at, step);
    for (int64_t k = 0; k < kFiltered; ++k) std::fill_n(out + k * step + at + g.W, 2, T(0));
  });
}

// Scratch memory of one thread
template <typename T>
struct Workspace {
  ScratchBuffer<T> x, y;
};

Tensor winograd_conv(const Tensor& x, const Tensor& folded, const std::optional<Tensor>& bias, int64_t padding,
                     int64_t slab_bytes) {
  const int64_t c_in = x.size(1), c_out = folded.size(0) / (kFiltered * kTaps);
  STD_TORCH_CHECK(folded.size(1) == c_in, "winograd_conv: expected weights for ", c_in, " channels, got ",
                  folded.size(1));
  const Grid grid(x, c_out, padding, slab_bytes);
  const Tensor y = torch::stable::new_empty(x, {grid.B, c_out, grid.depth, grid.H, grid.W});
  dispatch_precise(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<Workspace<T>> workspaces(workers_for(grid.count()));
    const auto work = [&](int64_t worker, int64_t i) {
      const Slab s = grid.at(i);
      T* from = workspaces[worker].x.get(kFiltered * grid.step(s, c_in));
      T* to = workspaces[worker].y.get(kFiltered * grid.step(s, c_out));
      filter_slab(grid, s, data<T>(x), c_in, from);
      for (int k = 0; k < kFiltered; ++k)
        for (int tap = 0; tap < kTaps; ++tap)
          multiply(weights(data<T>(folded), c_out, c_in, k, tap).tensor(),
                   filtered(from, grid, s, c_in, k, tap).tensor(), filtered(to, grid, s, c_out, k).tensor(), tap > 0);
      combine_slab<T>(grid, s, to, bias ? data<T>(*bias) : nullptr, c_out, mutable_data<T>(y));
    };
    run_slabs(grid.count(), workspaces.size(), work);
  });
  return y;
}

// The gradient in the transformed weight [48 C_out, C_in]
Tensor winograd_conv_weight(const Tensor& grad, const Tensor& x, int64_t padding, int64_t slab_bytes) {
  const int64_t c_in = x.size(1), c_out = grad.size(1), size = kFiltered * kTaps * c_out * c_in;
  const Tensor sums = torch::stable::new_zeros(x, {kFiltered * kTaps * c_out, c_in});
  const Grid grid(x, c_out, padding, slab_bytes);
  dispatch_precise(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t workers = size > kMostSums ? 1 : workers_for(grid.count());
    const Tensor partial = torch::stable::new_zeros(sums, {(workers - 1) * size});  // aligned, as all tensors
    std::vector<Workspace<T>> workspaces(workers);
    const auto work = [&](int64_t worker, int64_t i) {
      const Slab s = grid.at(i);
      T* from = workspaces[worker].x.get(kFiltered * grid.step(s, c_in));
      T* to = workspaces[worker].y.get(kFiltered * grid.step(s, c_out));
      T* sum = worker ? mutable_data<T>(partial) + (worker - 1) * size : mutable_data<T>(sums);
      filter_slab(grid, s, data<T>(x), c_in, from);
      adjoint_slab(grid, s, data<T>(grad), c_out, to);
      for (int k = 0; k < kFiltered; ++k)
        for (int tap = 0; tap < kTaps; ++tap)
          multiply(filtered(to, grid, s, c_out, k).tensor(), filtered(from, grid, s, c_in, k, tap).tensor(true),
                   weights(sum, c_out, c_in, k, tap).tensor(), true);
    };
    run_slabs(grid.count(), workers, work);
    for (int64_t i = 0; i < partial.numel(); ++i) mutable_data<T>(sums)[i % size] += data<T>(partial)[i];
  });
  return sums;
}

}  // namespace
}  // namespace hagan3d::winograd_conv

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("winograd_conv", TORCH_BOX(&hagan3d::winograd_conv::winograd_conv));
  m.impl("winograd_conv_weight", TORCH_BOX(&hagan3d::winograd_conv::winograd_conv_weight));
}
