// The up-convolution by minimal filtering, and its gradients, slab by slab: each thread works on slabs of its own.
//
// Along one axis, output voxels 2i and 2i + 1 are S x[i] + w0 d[i] and S x[i] - w2 d[i + 1], where d[i] = x[i - 1] -
// x[i] and S = w0 + w1 + w2: three products of x or d with a weight, not four. Around matrix products lie
//
//   spread   x -> the 8 arrays that are x or d along each axis
//   join     the 27 arrays of products -> y            (9 by H and W, times 3 along D: S, w0 and w2)
//   split    adjoint of join          gather   adjoint of spread
//
// A slab is some rows of some planes of some samples. Its arrays are [channel, plane, sample, h, w], one after the
// other; those of differences along D or H have one plane or row more. All rows have a place more than x, which is zero
// where it has no meaning: a plane is one run of memory, in which the voxel before the first of a row is a zero.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <memory>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/blocks.h"

namespace hagan3d::upsample_minimal {
namespace {

// The slab of x [B, C, D, H, W] that is worked on, and the slices that y lacks at each end.
struct Slab {
  int64_t C, D, H, W, sample, samples, plane, planes, row, rows, trim;

  int64_t stride() const { return W + 1; }  // of a row
  int64_t area(int h) const { return (rows + h) * stride(); }

  // where plane `p` of sample `n` begins, in an array of `count` planes per channel
  int64_t at(int64_t channel, int64_t p, int64_t n, int64_t count, int h) const {
    return ((channel * count + p) * samples + n) * area(h);
  }
};

// Slice `z` of x, or of y; null where it is outside.
template <typename T>
T* slice(T* x, const Slab& s, int64_t c, int64_t n, int64_t z) {
  return z < 0 || z >= s.D ? nullptr : x + (((s.sample + n) * s.C + c) * s.D + z) * s.H * s.W;
}

template <typename T>
T* fine_slice(T* y, const Slab& s, int64_t c, int64_t n, int64_t z) {
  const int64_t depth = 2 * s.D - 2 * s.trim;
  return z < 0 || z >= depth ? nullptr : y + (((s.sample + n) * s.C + c) * depth + z) * 4 * s.H * s.W;
}

// The four arrays of a plane: x or differences along H, times along W.
template <typename T>
struct Four {
  T *plain, *along_w, *along_h, *along_both;
};

// y [W + 1] = a row of x, less one of the plane before it, and a zero; either may be missing
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

// t: a padded plane, from its first row on
template <typename T>
HOST_DEVICE void spread_body(const T* t, T sign, int64_t rows, int64_t stride, const Four<T>& y) {
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
HOST_DEVICE void gather_body(const T* plain, const T* along_w, T sign, int64_t W, T* __restrict x) {
  for (int64_t w = 0; w < W; ++w) x[w] += sign * (plain[w] + along_w[w + 1] - along_w[w]);
}

// Where in the products the voxels of a plane of y come from: with S or w0 or w2 along D, and likewise along H.
template <typename T>
struct Sources {
  const T *plain[4], *even[4], *odd[4];
};

// Two rows' worth of sums for each of n places: the even voxels along W, and the odd ones.
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

// Rows of y, or of the sum of two, to rows of even voxels and of odd ones; those lie one place further on.
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

// One plane of the products along W, of even and odd voxels with n places, or of the sum of two rows of them.
template <typename T>
HOST_DEVICE void split_body(const T* even, const T* even2, const T* odd, const T* odd2, int64_t n, T* __restrict plain,
                            T* __restrict to_even, T* __restrict to_odd) {
  for (int64_t i = 0; i < n; ++i) {
    to_even[i] = even2 ? even[i] + even2[i] : even[i];
    to_odd[i] = odd2 ? odd[i] + odd2[i] : odd[i];
  }
  for (int64_t i = 0; i + 1 < n; ++i) plain[i] = to_even[i] + to_odd[i + 1];
  plain[n - 1] = 0;
}

#define FOR_BOTH(T)                                                                                                \
  FOR_EACH_CPU void pad(const T* before, const T* x, int64_t W, T* y) { pad_body(before, x, W, y); }               \
  FOR_EACH_CPU void spread_plane(const T* t, T sign, int64_t rows, int64_t stride, const Four<T>& y) {             \
    spread_body(t, sign, rows, stride, y);                                                                         \
  }                                                                                                                \
  FOR_EACH_CPU void gather_row(const T* plain, const T* along_w, T sign, int64_t W, T* x) {                        \
    gather_body(plain, along_w, sign, W, x);                                                                       \
  }                                                                                                                \
  FOR_EACH_CPU void sum_places(const Sources<T>& x, int64_t n, T bias, T* even, T* odd) {                          \
    sum_body(x, n, bias, even, odd);                                                                               \
  }                                                                                                                \
  FOR_EACH_CPU void interleave(const T* even, const T* odd, int64_t n, T* y) { interleave_body(even, odd, n, y); } \
  FOR_EACH_CPU void separate(const T* y, const T* z, int64_t W, T* even, T* odd) {                                 \
    separate_body(y, z, W, even, odd);                                                                             \
  }                                                                                                                \
  FOR_EACH_CPU void split_plane(const T* even, const T* even2, const T* odd, const T* odd2, int64_t n, T* plain,   \
                                T* to_even, T* to_odd) {                                                           \
    split_body(even, even2, odd, odd2, n, plain, to_even, to_odd);                                                 \
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
  Four<T> four(const Slab& s, int d, int64_t c, int64_t p, int64_t n) const {
    const int64_t low = s.at(c, p, n, s.planes + d, 0), high = s.at(c, p, n, s.planes + d, 1);
    return {at[4 * d] + low, at[4 * d + 1] + low, at[4 * d + 2] + high, at[4 * d + 3] + high};
  }

  // one plane of products: `d` of S, w0, w2 along D; `h` of the same along H; `w` likewise
  T* product(const Slab& s, int d, int h, int w, int64_t c, int64_t p, int64_t n) const {
    const int64_t block = (h ? h - 1 : 0) * (w ? 2 : 1) + (w ? w - 1 : 0);
    return at[4 * d + (h ? 2 : 0) + (w ? 1 : 0)] + s.at(block * s.C + c, p, n, s.planes, h ? 1 : 0);
  }
};

// f(channel, sample), shared out among threads
template <typename F>
void for_channels(const Slab& s, const F& f) {
  torch::stable::parallel_for(0, s.C * s.samples, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i / s.samples, i % s.samples);
  });
}

// The rows of a plane of the slab and their neighbours, less the plane before if asked for, as `spread_plane` wants it.
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
void spread(const Slab& s, const T* x, T* out) {
  const auto arrays = Arrays<T>::of_x(out, s);
  for_channels(s, [&](int64_t c, int64_t n) {
    std::vector<T> padded(1 + s.stride() * (s.rows + 2), T(0));
    T *first = padded.data() + 1, *inside = first + s.stride();
    for (int64_t p = 0; p <= s.planes; ++p) {
      const T *now = slice(x, s, c, n, s.plane + p), *before = slice(x, s, c, n, s.plane + p - 1);
      if (p < s.planes) {
        pad_plane<T>(s, nullptr, now, first);
        spread_plane(inside, T(1), s.rows, s.stride(), arrays.four(s, 0, c, p, n));
      }
      pad_plane(s, before, now, first);
      spread_plane(inside, before ? T(1) : T(-1), s.rows, s.stride(), arrays.four(s, 1, c, p, n));
    }
  });
}

// x += sign times the adjoint of `spread_plane`
template <typename T>
void gather_plane(const Slab& s, const Four<const T>& from, T sign, T* x) {
  for (int64_t h = -1; h <= s.rows; ++h) {
    const int64_t row = s.row + h, at = h * s.stride(), next = at + s.stride();
    if (row < 0 || row >= s.H) continue;
    T* to = x + row * s.W;
    if (h >= 0 && h < s.rows) gather_row(from.plain + at, from.along_w + at, sign, s.W, to);
    if (h >= 0) gather_row(from.along_h + at, from.along_both + at, -sign, s.W, to);
    if (h < s.rows) gather_row(from.along_h + next, from.along_both + next, sign, s.W, to);
  }
}

template <typename T>
void gather(const Slab& s, const T* from, T* x) {
  const auto arrays = Arrays<const T>::of_x(from, s);
  for_channels(s, [&](int64_t c, int64_t n) {
    for (int64_t p = 0; p <= s.planes; ++p) {
      T *now = slice(x, s, c, n, s.plane + p), *before = slice(x, s, c, n, s.plane + p - 1);
      if (p < s.planes) gather_plane(s, arrays.four(s, 0, c, p, n), T(1), now);
      if (now) gather_plane(s, arrays.four(s, 1, c, p, n), T(-1), now);
      if (before) gather_plane(s, arrays.four(s, 1, c, p, n), T(1), before);
    }
  });
}

template <typename T>
void join(const Slab& s, const T* products, const T* bias, T* y) {
  const auto arrays = Arrays<const T>::of_products(products, s);
  for_channels(s, [&](int64_t c, int64_t n) {
    const int64_t places = s.rows * s.stride();
    std::vector<T> even(places), odd(places);
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
      sum_places(from, places - 1, bias ? bias[c] : T(0), even.data(), odd.data());
      for (int64_t h = 0; h < s.rows; ++h)
        interleave(even.data() + h * s.stride(), odd.data() + h * s.stride(), s.W,
                   to + (2 * (s.row + h) + odd_h) * 2 * s.W);
    }
  });
}

template <typename T>
void split(const Slab& s, const T* y, T* out) {
  const auto arrays = Arrays<T>::of_products(out, s);
  for_channels(s, [&](int64_t c, int64_t n) {
    const int64_t places = s.rows * s.stride(), width = 2 * s.W;
    std::vector<T> rows(4 * places);
    T *even[2] = {rows.data(), rows.data() + places}, *odd[2] = {even[1] + places, even[1] + 2 * places};
    for (int64_t i = 0; i < 3 * s.planes; ++i) {
      const int64_t p = i / 3, d = i % 3, z = 2 * (s.plane + p) - s.trim;
      const T* low = d == 2 ? nullptr : fine_slice(y, s, c, n, z);
      const T* high = d == 1 ? nullptr : fine_slice(y, s, c, n, z + 1);
      for (int64_t h = 0; h < 2 * s.rows; ++h) {
        const int64_t from = (2 * s.row + h) * width, to = h / 2 * s.stride();
        separate(low ? low + from : nullptr, high ? high + from : nullptr, s.W, even[h & 1] + to, odd[h & 1] + to);
      }
      const auto product = [&](int h, int w) { return arrays.product(s, d, h, w, c, p, n); };
      split_plane(even[0], even[1], odd[0], odd[1], places, product(0, 0), product(0, 1), product(0, 2));
      for (int h = 0; h < 2; ++h) {
        const int64_t first = h * s.stride(), none = h ? 0 : places;
        const T* nothing = nullptr;
        split_plane(even[h], nothing, odd[h], nothing, places, product(1 + h, 0) + first, product(1 + h, 1) + first,
                    product(1 + h, 2) + first);
        for (int w = 0; w < 3; ++w) std::fill_n(product(1 + h, w) + none, s.stride(), T(0));
      }
    }
  });
}

// [rows, columns] of numbers, rows being `stride` apart
template <typename T>
struct Matrix {
  T* at;
  int64_t rows, columns, stride;

  Tensor tensor(bool transposed = false) const {
    const std::array<int64_t, 2> sizes{rows, columns}, strides{stride, 1}, turned{columns, rows}, steps{1, stride};
    const auto dtype = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    return transposed ? torch::stable::from_blob(at, turned, steps, cpu, dtype)
                      : torch::stable::from_blob(at, sizes, strides, cpu, dtype);
  }
};

// out = a b
void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}

// out += a b
void multiply_add(const Tensor& a, const Tensor& b, const Tensor& out) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1));
}

constexpr int64_t kMostSums = int64_t(4) << 20;  // numbers: so many a thread may add up of its own
constexpr int64_t kLeastRows = 16;  // of a slab: fewer cost more in what neighbours share than they save in cache
constexpr int kProducts = 12;       // matrix products of a slab: 3 along D, times x or differences along H and W

// [27 C_out, C_in] matrix by matrix
template <typename T>
std::array<Matrix<T>, kProducts> matrices(T* folded, int64_t c_out, int64_t c_in) {
  std::array<Matrix<T>, kProducts> all;
  for (int i = 0; i < kProducts; ++i) {
    const int64_t rows = (int64_t(1) << ((i >> 1 & 1) + (i & 1))) * c_out;
    all[i] = {folded, rows, c_in, c_in};
    folded += rows * c_in;
  }
  return all;
}

// Memory that is not cleared, as large as the largest slab asked for.
template <typename T>
class Memory {
 public:
  T* get(int64_t count) {
    if (count > size_) at_.reset(new T[size_ = count]);
    return at_.get();
  }

 private:
  std::unique_ptr<T[]> at_;
  int64_t size_ = 0;
};

// What one thread works with.
template <typename T>
struct Bench {
  Memory<T> spread, gradient, products;
};

// The arrays of a slab as matrices: x or its differences, and the products.
template <typename T>
struct Slices {
  T *spread, *products;
  std::array<Matrix<T>, kProducts> factors, results;

  static int64_t columns(const Slab& s, int i, int d) { return (s.planes + d) * s.samples * s.area(i >> 1 & 1); }

  Slices(const Slab& s, int64_t c_in, int64_t c_out, Memory<T>& spread_memory, Memory<T>& product_memory) {
    int64_t per_in = 0, per_out = 0;
    for (int i = 0; i < 8; ++i) per_in += columns(s, i, i >> 2);
    for (int i = 0; i < kProducts; ++i) per_out += (int64_t(1) << ((i >> 1 & 1) + (i & 1))) * columns(s, i, 0);
    T* in = spread = spread_memory.get(c_in * per_in);
    T* out = products = product_memory.get(c_out * per_out);
    for (int i = 0; i < kProducts; ++i) {
      const int64_t n = columns(s, i, 0), stride = columns(s, i, i >= 4);
      if (i < 8) {
        factors[i] = {in, c_in, n, stride};
        in += c_in * stride;
      } else {  // w2 is with the difference one plane on
        factors[i] = {factors[i - 4].at + stride - n, c_in, n, stride};
      }
      results[i] = {out, (int64_t(1) << ((i >> 1 & 1) + (i & 1))) * c_out, n, n};
      out += results[i].rows * n;
    }
  }
};

// The whole, cut into slabs of even size, as many as threads if that can be.
struct Grid {
  int64_t B, D, H, W, trim, samples, planes, rows;

  // slabs: of about so many bytes
  template <typename T>
  Grid(T, const Tensor& x, int64_t c_out, int64_t trim, int64_t bytes)
      : B(x.size(0)), D(x.size(2)), H(x.size(3)), W(x.size(4)), trim(trim) {
    const int64_t threads = torch::stable::get_num_threads(), per_row = (8 * x.size(1) + 27 * c_out) * (W + 1);
    const int64_t room = std::max<int64_t>(1, bytes / (per_row * int64_t(sizeof(T))));  // rows
    rows = even(H, std::max(kLeastRows, room - 1), 1);
    planes = even(D, room / (rows + 1), threads / std::gcd(threads, B * parts(H, rows)));
    samples = planes == D && rows == H ? even(B, room / ((rows + 1) * (planes + 1)), threads) : 1;
  }

  // The length of even parts, none longer than `most`: one, or a multiple of some number if that can be.
  static int64_t even(int64_t length, int64_t most, int64_t multiple) {
    const int64_t count = parts(length, std::max<int64_t>(1, most));
    if (count <= 1) return std::max<int64_t>(1, length);
    return parts(length, std::min(length, multiple * parts(count, multiple)));
  }

  static int64_t parts(int64_t length, int64_t part) { return (length + part - 1) / part; }

  int64_t count() const { return parts(B, samples) * parts(D, planes) * parts(H, rows); }

  Slab at(int64_t i, int64_t channels) const {
    const int64_t row = i % parts(H, rows) * rows, rest = i / parts(H, rows);
    const int64_t plane = rest % parts(D, planes) * planes, sample = rest / parts(D, planes) * samples;
    return {channels, D,
            H,        W,
            sample,   std::min(samples, B - sample),
            plane,    std::min(planes, D - plane),
            row,      std::min(rows, H - row),
            trim};
  }

  // work(worker, slab) for all, as many at once as there are workers, and then(worker, slab) one after the other
  template <typename Work, typename Then>
  void run(int64_t workers, const Work& work, const Then& then) const {
    for (int64_t first = 0; first < count(); first += workers) {
      const int64_t together = std::min(workers, count() - first);
      const auto some = [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) work(i, first + i);
      };
      if (together == 1)
        some(0, 1);  // with all threads in its products
      else
        torch::stable::parallel_for(0, together, 1, some);
      for (int64_t i = 0; i < together; ++i) then(i, first + i);
    }
  }
};

int64_t most_workers(const Grid& grid) {
  return std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), grid.count()));
}

template <typename F>
void dispatch(ScalarType dtype, const F& f) {
  if (dtype == ScalarType::Double) return f(Type<double>{});
  STD_TORCH_CHECK(dtype == ScalarType::Float, "want float32 or float64");
  f(Type<float>{});
}

Tensor upsample_minimal(const Tensor& x, const Tensor& folded, const std::optional<Tensor>& bias, int64_t trim,
                        int64_t slab_bytes) {
  const int64_t c_in = x.size(1), c_out = folded.size(0) / 27, D = 2 * (x.size(2) - trim);
  const Tensor y = torch::stable::new_empty(x, {x.size(0), c_out, D, 2 * x.size(3), 2 * x.size(4)});
  dispatch(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Grid grid(T(0), x, c_out, trim, slab_bytes);
    const auto weights = matrices(const_cast<T*>(data<T>(folded)), c_out, c_in);
    std::vector<Bench<T>> benches(most_workers(grid));
    const auto work = [&](int64_t worker, int64_t i) {
      Bench<T>& bench = benches[worker];
      const Slices<T> slices(grid.at(i, c_in), c_in, c_out, bench.spread, bench.products);
      spread(grid.at(i, c_in), data<T>(x), slices.spread);
      for (int k = 0; k < kProducts; ++k)
        multiply(weights[k].tensor(), slices.factors[k].tensor(), slices.results[k].tensor());
      join(grid.at(i, c_out), slices.products, bias ? data<T>(*bias) : nullptr, mutable_data<T>(y));
    };
    grid.run(benches.size(), work, [](int64_t, int64_t) {});
  });
  return y;
}

// `factors` = the gradients in them, from those in the products
template <typename T>
void multiply_back(const std::array<Matrix<T>, kProducts>& weights, const Slices<T>& gradients) {
  for (int k = 0; k < kProducts; ++k) {
    const Matrix<T>& to = gradients.factors[k];
    const Tensor weight = weights[k].tensor(true), result = gradients.results[k].tensor();
    if (k >= 8) {
      multiply_add(weight, result, to.tensor());
      continue;
    }
    multiply(weight, result, to.tensor());
    if (k >= 4)
      for (int64_t c = 0; c < to.rows; ++c)
        std::fill(to.at + c * to.stride + to.columns, to.at + (c + 1) * to.stride, T(0));
  }
}

// The gradient in x if `folded` is there, and the sums of products with the gradient [27 C_out, C_in] if x is.
std::tuple<Tensor, Tensor> gradients(const Tensor& grad, const std::optional<Tensor>& x,
                                     const std::optional<Tensor>& folded, int64_t c_in, int64_t trim,
                                     int64_t slab_bytes) {
  const int64_t c_out = grad.size(1), D = grad.size(2) / 2 + trim, H = grad.size(3) / 2, W = grad.size(4) / 2;
  const Tensor x_grad = torch::stable::new_zeros(grad, {folded ? grad.size(0) : 0, c_in, D, H, W});
  const Tensor sums = torch::stable::new_zeros(grad, {x ? 27 * c_out : 0, c_in});
  const int64_t size = sums.numel();
  dispatch(grad.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Grid grid(T(0), x ? *x : x_grad, c_out, trim, slab_bytes);
    const int64_t workers = size > kMostSums ? 1 : most_workers(grid);
    std::vector<T> partial((workers - 1) * size, T(0));
    std::array<Matrix<T>, kProducts> weights;
    if (folded) weights = matrices(const_cast<T*>(data<T>(*folded)), c_out, c_in);
    std::vector<Bench<T>> benches(workers);
    const auto work = [&](int64_t worker, int64_t i) {
      Bench<T>& bench = benches[worker];
      const Slices<T> slices(grid.at(i, c_in), c_in, c_out, bench.spread, bench.products);
      split(grid.at(i, c_out), data<T>(grad), slices.products);
      if (x) {
        spread(grid.at(i, c_in), data<T>(*x), slices.spread);
        T* sum = worker ? partial.data() + (worker - 1) * size : mutable_data<T>(sums);
        const auto totals = matrices(sum, c_out, c_in);
        for (int k = 0; k < kProducts; ++k)
          multiply_add(slices.results[k].tensor(), slices.factors[k].tensor(true), totals[k].tensor());
      }
      if (folded) multiply_back(weights, Slices<T>(grid.at(i, c_in), c_in, c_out, bench.gradient, bench.products));
    };
    const auto then = [&](int64_t worker, int64_t i) {  // neighbours add to the same voxels
      if (folded) gather(grid.at(i, c_in), benches[worker].gradient.get(0), mutable_data<T>(x_grad));
    };
    grid.run(workers, work, then);
    for (size_t i = 0; i < partial.size(); ++i) mutable_data<T>(sums)[i % size] += partial[i];
  });
  return {x_grad, sums};
}

Tensor upsample_minimal_x(const Tensor& grad, const Tensor& folded, int64_t trim, int64_t slab_bytes) {
  return std::get<0>(gradients(grad, std::nullopt, folded, folded.size(1), trim, slab_bytes));
}

Tensor upsample_minimal_products(const Tensor& grad, const Tensor& x, int64_t trim, int64_t slab_bytes) {
  return std::get<1>(gradients(grad, x, std::nullopt, x.size(1), trim, slab_bytes));
}

std::tuple<Tensor, Tensor> upsample_minimal_both(const Tensor& grad, const Tensor& x, const Tensor& folded,
                                                 int64_t trim, int64_t slab_bytes) {
  return gradients(grad, x, folded, x.size(1), trim, slab_bytes);
}

}  // namespace
}  // namespace hagan3d::upsample_minimal

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("upsample_minimal", TORCH_BOX(&hagan3d::upsample_minimal::upsample_minimal));
  m.impl("upsample_minimal_x", TORCH_BOX(&hagan3d::upsample_minimal::upsample_minimal_x));
  m.impl("upsample_minimal_products", TORCH_BOX(&hagan3d::upsample_minimal::upsample_minimal_products));
  m.impl("upsample_minimal_both", TORCH_BOX(&hagan3d::upsample_minimal::upsample_minimal_both));
}
