// Input and output transforms of the Winograd up-convolution, and their adjoints, on one slab.
//
// Along one axis, with d[i] = x[i - 1] - x[i] and S = w0 + w1 + w2, output voxels 2i and 2i + 1 are S x[i] + w0 d[i]
// and S x[i] - w2 d[i + 1]: three products of x or d with a weight, not four. The matrix products lie between
//
//   scatter  x -> the 8 arrays that hold x or d along each axis (input transform)
//   gather   the 27 arrays of products -> y (output transform): 9 along H and W, times 3 along D: S, w0 and w2
//   scatter_adjoint, gather_adjoint   their adjoints, for the gradients
//
// A slab is some rows of some planes of some samples. Its arrays are [channel, plane, sample, h, w], one after the
// other; differences along D or H have one plane or row more. Rows are one element longer than those of x, with a zero
// there: a plane is contiguous, and the left neighbour of the first voxel of a row is zero.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <vector>

#include "cpu/blocks.h"

namespace hagan3d::winograd_upsample {
namespace {  // one file includes it

// A slab of x [B, C, D, H, W], and the slices trimmed off each end of y.
struct Slab {
  int64_t C, D, H, W, sample, samples, plane, planes, row, rows, trim;

  int64_t stride() const { return W + 1; }  // of a row
  int64_t area(int h) const { return (rows + h) * stride(); }

  // offset of plane `p` of sample `n` in an array of `count` planes per channel
  int64_t at(int64_t channel, int64_t p, int64_t n, int64_t count, int h) const {
    return ((channel * count + p) * samples + n) * area(h);
  }
};

// Slice `z` of x, or of y; null outside the volume.
template <typename T>
T* slice(T* x, const Slab& s, int64_t c, int64_t n, int64_t z) {
  return z < 0 || z >= s.D ? nullptr : x + (((s.sample + n) * s.C + c) * s.D + z) * s.H * s.W;
}

template <typename T>
T* fine_slice(T* y, const Slab& s, int64_t c, int64_t n, int64_t z) {
  const int64_t depth = 2 * s.D - 2 * s.trim;
  return z < 0 || z >= depth ? nullptr : y + (((s.sample + n) * s.C + c) * depth + z) * 4 * s.H * s.W;
}

// The four arrays of a plane: x and its differences along W, along H and along both.
template <typename T>
struct PlaneArrays {
  T *plain, *along_w, *along_h, *along_both;
};

// y [W + 1] = a row of the plane before, minus that of x, and a zero; a null row counts as zeros
template <typename T>
HOST_DEVICE void pad_body(const T* before, const T* x, int64_t W, T* __restrict y) {
  if (before && x) {
    for (int64_t w = 0; w < W; ++w) y[w] = before[w] - x[w];
  } else if (x) {
    for (int64_t w = 0; w < W; ++w) y[w] = x[w];
  } else {
    for (int64_t w = 0; w < W; ++w) y[w] = before ? before[w] : T(0);
  }
  y[W] = 0;
}

// t: a padded plane, from its first row
template <typename T>
HOST_DEVICE void scatter_body(const T* t, T sign, int64_t rows, int64_t stride, const PlaneArrays<T>& y) {
  T* __restrict plain = y.plain, * __restrict along_w = y.along_w;
  T* __restrict along_h = y.along_h, * __restrict along_both = y.along_both;
  for (int64_t i = 0; i < rows * stride; ++i) {
    plain[i] = sign * t[i];
    along_w[i] = sign * (t[i - 1] - t[i]);
  }
  for (int64_t i = 0; i < (rows + 1) * stride; ++i) {
    along_h[i] = sign * (t[i - stride] - t[i]);
    along_both[i] = sign * (t[i - stride - 1] - t[i - stride] - t[i - 1] + t[i]);
  }
}

// x [W] += sign times the adjoint of the differences along W
template <typename T>
HOST_DEVICE void scatter_adjoint_body(const T* plain, const T* along_w, T sign, int64_t W, T* __restrict x) {
  for (int64_t w = 0; w < W; ++w) x[w] += sign * (plain[w] + along_w[w + 1] - along_w[w]);
}

// The products that a plane of y sums: with S, w0 or w2 along D, and likewise along H.
template <typename T>
struct Sources {
  const T *plain[4], *even[4], *odd[4];
};

// Sums for n columns: the even voxels along W, and the odd ones.
template <typename T>
HOST_DEVICE void sum_body(const Sources<T>& x, int64_t n, T bias, T* __restrict even, T* __restrict odd) {
  const T *a = x.plain[0], *b = x.plain[1], *c = x.plain[2], *d = x.plain[3];
  const T *e = x.even[0], *f = x.even[1], *g = x.even[2], *h = x.even[3];
  const T *k = x.odd[0] + 1, *l = x.odd[1] + 1, *m = x.odd[2] + 1, *o = x.odd[3] + 1;
  for (int64_t i = 0; i < n; ++i) {
    const T plain = (a[i] + b[i]) + (c[i] + d[i]) + bias;
    even[i] = plain + ((e[i] + f[i]) + (g[i] + h[i]));
    odd[i] = plain + ((k[i] + l[i]) + (m[i] + o[i]));
  }
}

template <typename T>
HOST_DEVICE void interleave_body(const T* even, const T* odd, int64_t n, T* __restrict y) {
  for (int64_t i = 0; i < n; ++i) {
    y[2 * i] = even[i];
    y[2 * i + 1] = odd[i];
  }
}

// Deinterleave a row of y, or the sum of two, into even voxels and odd ones, the latter shifted by one element.
template <typename T>
HOST_DEVICE void separate_body(const T* y, const T* z, int64_t W, T* __restrict even, T* __restrict odd) {
  odd[0] = even[W] = 0;
  if (y && z) {
    for (int64_t w = 0; w < W; ++w) {
      even[w] = y[2 * w] + z[2 * w];
      odd[w + 1] = y[2 * w + 1] + z[2 * w + 1];
    }
  } else {
    const T* one = y ? y : z;
    for (int64_t w = 0; w < W; ++w) {
      even[w] = one ? one[2 * w] : T(0);
      odd[w + 1] = one ? one[2 * w + 1] : T(0);
    }
  }
}

// Gradients of the products along W, from even and odd voxels of n columns, or from sums of two rows of them.
template <typename T>
HOST_DEVICE void gather_adjoint_body(const T* even, const T* even2, const T* odd, const T* odd2, int64_t n,
                                     T* __restrict plain, T* __restrict to_even, T* __restrict to_odd) {
  for (int64_t i = 0; i < n; ++i) {
    to_even[i] = even2 ? even[i] + even2[i] : even[i];
    to_odd[i] = odd2 ? odd[i] + odd2[i] : odd[i];
  }
  for (int64_t i = 0; i + 1 < n; ++i) plain[i] = to_even[i] + to_odd[i + 1];
  plain[n - 1] = 0;
}

#define FOR_BOTH(T)                                                                                                \
  FOR_EACH_CPU void pad(const T* before, const T* x, int64_t W, T* y) { pad_body(before, x, W, y); }               \
  FOR_EACH_CPU void scatter_plane(const T* t, T sign, int64_t rows, int64_t stride, const PlaneArrays<T>& y) {     \
    scatter_body(t, sign, rows, stride, y);                                                                        \
  }                                                                                                                \
  FOR_EACH_CPU void scatter_adjoint_row(const T* plain, const T* along_w, T sign, int64_t W, T* x) {               \
    scatter_adjoint_body(plain, along_w, sign, W, x);                                                              \
  }                                                                                                                \
  FOR_EACH_CPU void sum_columns(const Sources<T>& x, int64_t n, T bias, T* even, T* odd) {                         \
    sum_body(x, n, bias, even, odd);                                                                               \
  }                                                                                                                \
  FOR_EACH_CPU void interleave(const T* even, const T* odd, int64_t n, T* y) { interleave_body(even, odd, n, y); } \
  FOR_EACH_CPU void separate(const T* y, const T* z, int64_t W, T* even, T* odd) {                                 \
    separate_body(y, z, W, even, odd);                                                                             \
  }                                                                                                                \
  FOR_EACH_CPU void gather_adjoint_plane(const T* even, const T* even2, const T* odd, const T* odd2, int64_t n,    \
                                         T* plain, T* to_even, T* to_odd) {                                        \
    gather_adjoint_body(even, even2, odd, odd2, n, plain, to_even, to_odd);                                        \
  }
FOR_BOTH(float)
FOR_BOTH(double)
#undef FOR_BOTH

// The arrays of a slab, in order: of x and its differences (8), or of products (12, of 1, 2, 2 and 4 blocks in turn).
template <typename T>
struct Arrays {
  T* at[12];

  static Arrays of_x(T* first, const Slab& s) {
    Arrays arrays{};
    for (int g = 0; g < 8; ++g) {
      arrays.at[g] = first;
      first += s.C * (s.planes + (g >> 2)) * s.samples * s.area(g >> 1 & 1);
    }
    return arrays;
  }

  static Arrays of_products(T* first, const Slab& s) {
    Arrays arrays{};
    for (int i = 0; i < 12; ++i) {
      const int h = i >> 1 & 1, w = i & 1;
      arrays.at[i] = first;
      first += (int64_t(1) << (h + w)) * s.C * s.planes * s.samples * s.area(h);
    }
    return arrays;
  }

  // one plane of x, or of its differences along D
  PlaneArrays<T> four(const Slab& s, int d, int64_t c, int64_t p, int64_t n) const {
    const int64_t low = s.at(c, p, n, s.planes + d, 0), high = s.at(c, p, n, s.planes + d, 1);
    return {at[4 * d] + low, at[4 * d + 1] + low, at[4 * d + 2] + high, at[4 * d + 3] + high};
  }

  // one plane of products: `d` of S, w0, w2 along D; `h` of the same along H; `w` likewise
  T* product(const Slab& s, int d, int h, int w, int64_t c, int64_t p, int64_t n) const {
    const int64_t block = (h ? h - 1 : 0) * (w ? 2 : 1) + (w ? w - 1 : 0);
    return at[4 * d + (h ? 2 : 0) + (w ? 1 : 0)] + s.at(block * s.C + c, p, n, s.planes, h ? 1 : 0);
  }
};

// f(channel, sample), in parallel
template <typename F>
void for_channels(const Slab& s, const F& f) {
  torch::stable::parallel_for(0, s.C * s.samples, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i / s.samples, i % s.samples);
  });
}

// Rows of a plane of the slab with one neighbour above and below, or their difference to the plane before: the input of
// `scatter_plane`.
template <typename T>
void pad_plane(const Slab& s, const T* before, const T* x, T* y) {
  for (int64_t h = -1; h <= s.rows; ++h) {
    const int64_t row = s.row + h;
    const bool inside = row >= 0 && row < s.H;
    pad(inside && before ? before + row * s.W : nullptr, inside && x ? x + row * s.W : nullptr, s.W,
        y + (h + 1) * s.stride());
  }
}

template <typename T>
void scatter(const Slab& s, const T* x, T* out) {
  const auto arrays = Arrays<T>::of_x(out, s);
  for_channels(s, [&](int64_t c, int64_t n) {
    std::vector<T> padded(1 + s.stride() * (s.rows + 2), T(0));
    T *first = padded.data() + 1, *inside = first + s.stride();
    for (int64_t p = 0; p <= s.planes; ++p) {
      const T *now = slice(x, s, c, n, s.plane + p), *before = slice(x, s, c, n, s.plane + p - 1);
      if (p < s.planes) {
        pad_plane<T>(s, nullptr, now, first);
        scatter_plane(inside, T(1), s.rows, s.stride(), arrays.four(s, 0, c, p, n));
      }
      pad_plane(s, before, now, first);
      scatter_plane(inside, before ? T(1) : T(-1), s.rows, s.stride(), arrays.four(s, 1, c, p, n));
    }
  });
}

// x += sign times the adjoint of `scatter_plane`
template <typename T>
void scatter_adjoint_plane(const Slab& s, const PlaneArrays<const T>& from, T sign, T* x) {
  for (int64_t h = -1; h <= s.rows; ++h) {
    const int64_t row = s.row + h, at = h * s.stride(), next = at + s.stride();
    if (row < 0 || row >= s.H) continue;
    T* to = x + row * s.W;
    if (h >= 0 && h < s.rows) scatter_adjoint_row(from.plain + at, from.along_w + at, sign, s.W, to);
    if (h >= 0) scatter_adjoint_row(from.along_h + at, from.along_both + at, -sign, s.W, to);
    if (h < s.rows) scatter_adjoint_row(from.along_h + next, from.along_both + next, sign, s.W, to);
  }
}

template <typename T>
void scatter_adjoint(const Slab& s, const T* from, T* x) {
  const auto arrays = Arrays<const T>::of_x(from, s);
  for_channels(s, [&](int64_t c, int64_t n) {
    for (int64_t p = 0; p <= s.planes; ++p) {
      T *now = slice(x, s, c, n, s.plane + p), *before = slice(x, s, c, n, s.plane + p - 1);
      if (p < s.planes) scatter_adjoint_plane(s, arrays.four(s, 0, c, p, n), T(1), now);
      if (now) scatter_adjoint_plane(s, arrays.four(s, 1, c, p, n), T(-1), now);
      if (before) scatter_adjoint_plane(s, arrays.four(s, 1, c, p, n), T(1), before);
    }
  });
}

template <typename T>
void gather(const Slab& s, const T* products, const T* bias, T* y) {
  const auto arrays = Arrays<const T>::of_products(products, s);
  for_channels(s, [&](int64_t c, int64_t n) {
    const int64_t columns = s.rows * s.stride();
    std::vector<T> even(columns), odd(columns);
    for (int64_t i = 0; i < 4 * s.planes; ++i) {
      const int64_t p = i / 4, odd_h = i & 1, odd_d = i >> 1 & 1;
      T* to = fine_slice(y, s, c, n, 2 * (s.plane + p) + odd_d - s.trim);
      if (!to) continue;
      Sources<T> from;
      for (int k = 0; k < 4; ++k) {
        const int d = k >> 1 ? 1 + odd_d : 0, h = k & 1 ? 1 + odd_h : 0;
        const int64_t below = h == 2 ? s.stride() : 0;  // w2 is with the difference one row on
        from.plain[k] = arrays.product(s, d, h, 0, c, p, n) + below;
        from.even[k] = arrays.product(s, d, h, 1, c, p, n) + below;
        from.odd[k] = arrays.product(s, d, h, 2, c, p, n) + below;
      }
      sum_columns(from, columns - 1, bias ? bias[c] : T(0), even.data(), odd.data());
      for (int64_t h = 0; h < s.rows; ++h)
        interleave(even.data() + h * s.stride(), odd.data() + h * s.stride(), s.W,
                   to + (2 * (s.row + h) + odd_h) * 2 * s.W);
    }
  });
}

template <typename T>
void gather_adjoint(const Slab& s, const T* y, T* out) {
  const auto arrays = Arrays<T>::of_products(out, s);
  for_channels(s, [&](int64_t c, int64_t n) {
    const int64_t columns = s.rows * s.stride(), width = 2 * s.W;
    std::vector<T> rows(4 * columns);
    T *even[2] = {rows.data(), rows.data() + columns}, *odd[2] = {even[1] + columns, even[1] + 2 * columns};
    for (int64_t i = 0; i < 3 * s.planes; ++i) {
      const int64_t p = i / 3, d = i % 3, z = 2 * (s.plane + p) - s.trim;
      const T* low = d == 2 ? nullptr : fine_slice(y, s, c, n, z);
      const T* high = d == 1 ? nullptr : fine_slice(y, s, c, n, z + 1);
      for (int64_t h = 0; h < 2 * s.rows; ++h) {
        const int64_t from = (2 * s.row + h) * width, to = h / 2 * s.stride();
        separate(low ? low + from : nullptr, high ? high + from : nullptr, s.W, even[h & 1] + to, odd[h & 1] + to);
      }
      const auto product = [&](int h, int w) { return arrays.product(s, d, h, w, c, p, n); };
      gather_adjoint_plane(even[0], even[1], odd[0], odd[1], columns, product(0, 0), product(0, 1), product(0, 2));
      for (int h = 0; h < 2; ++h) {
        const int64_t first = h * s.stride(), none = h ? 0 : columns;
        const T* nothing = nullptr;
        gather_adjoint_plane(even[h], nothing, odd[h], nothing, columns, product(1 + h, 0) + first,
                             product(1 + h, 1) + first, product(1 + h, 2) + first);
        for (int w = 0; w < 3; ++w) std::fill_n(product(1 + h, w) + none, s.stride(), T(0));
      }
    }
  });
}

}  // namespace
}  // namespace hagan3d::winograd_upsample
