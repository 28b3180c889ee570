// Matrix products (GEMM) of a small matrix with a wide one, without packing: with as few rows as there are channels,
// packing would take a considerable part of the time.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace hagan3d {

// c [m, n] = the sum over t of a_t [m, k] times b [k, n] from column t on; or c plus that.
template <typename T>
struct Product {
  const T* a;
  int64_t a_row, a_column, a_tap;  // strides of rows, columns and taps
  const T* b;                      // may be read kSlack elements beyond its last column
  int64_t b_row;
  T* c;
  int64_t c_row;
  int64_t m, n, k, taps;
  bool add;
};

constexpr int64_t kSlack = 64;    // elements
constexpr int64_t kPanel = 32;    // columns of b kept in the L1 cache while all rows of a are processed
constexpr int64_t kMinRows = 12;  // rows per thread, at least

// Micro-kernel: a tile of R rows by two vectors V, in registers
template <typename V, int R, typename T>
inline __attribute__((always_inline)) void tile(const Product<T>& p, int64_t i, int64_t j) {
  typedef V Unaligned __attribute__((aligned(sizeof(T))));
  constexpr int L = sizeof(V) / sizeof(T);
  V sum[R][2] = {};
  for (int64_t tap = 0; tap < p.taps; ++tap) {
    const T *a = p.a + tap * p.a_tap + i * p.a_row, *b = p.b + tap + j;
    for (int64_t k = 0; k < p.k; ++k, a += p.a_column, b += p.b_row) {
      const V low = *reinterpret_cast<const Unaligned*>(b), high = *reinterpret_cast<const Unaligned*>(b + L);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        sum[r][0] += a[r * p.a_row] * low;
        sum[r][1] += a[r * p.a_row] * high;
      }
    }
  }
  const int64_t left = p.n - j;
  for (int r = 0; r < R; ++r) {
    T* c = p.c + (i + r) * p.c_row + j;
    if (left >= 2 * L) {
      Unaligned *low = reinterpret_cast<Unaligned*>(c), *high = reinterpret_cast<Unaligned*>(c + L);
      *low = p.add ? *low + sum[r][0] : sum[r][0];
      *high = p.add ? *high + sum[r][1] : sum[r][1];
    } else {
      for (int64_t l = 0; l < left; ++l) c[l] = (p.add ? c[l] : T(0)) + sum[r][l / L][l % L];
    }
  }
}

template <typename V, int R, typename T>
inline __attribute__((always_inline)) int64_t tiles(const Product<T>& p, int64_t i, int64_t from, int64_t to) {
  for (; i + R <= p.m; i += R)
    for (int64_t j = from; j < to; j += 2 * static_cast<int64_t>(sizeof(V) / sizeof(T))) tile<V, R>(p, i, j);
  return i;
}

template <typename V, int R, typename T>
inline __attribute__((always_inline)) void panels(const Product<T>& p) {
  for (int64_t from = 0; from < p.n; from += kPanel) {
    const int64_t to = std::min(from + kPanel, p.n);
    int64_t i = tiles<V, R>(p, 0, from, to);
    i = tiles<V, 4>(p, i, from, to);
    tiles<V, 1>(p, i, from, to);
  }
}

#define VECTOR(T, bytes) T __attribute__((vector_size(bytes)))
#define FOR_BOTH(name, target, bytes, rows)           \
  target inline void name(const Product<float>& p) {  \
    typedef VECTOR(float, bytes) V;                   \
    panels<V, rows>(p);                               \
  }                                                   \
  target inline void name(const Product<double>& p) { \
    typedef VECTOR(double, bytes) V;                  \
    panels<V, rows>(p);                               \
  }
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
FOR_BOTH(multiply_wide, __attribute__((target("arch=x86-64-v4"))), 64, 12)
FOR_BOTH(multiply_middle, __attribute__((target("arch=x86-64-v3"))), 32, 6)
#endif
FOR_BOTH(multiply_narrow, , 16, 6)
#undef FOR_BOTH
#undef VECTOR

// Parallel over rows, unless called from a parallel region.
template <typename T>
void multiply(const Product<T>& p) {
  torch::stable::parallel_for(0, (p.m + kMinRows - 1) / kMinRows, 1, [&](int64_t begin, int64_t end) {
    Product<T> own = p;
    own.a += begin * kMinRows * p.a_row, own.c += begin * kMinRows * p.c_row;
    own.m = std::min(p.m, end * kMinRows) - begin * kMinRows;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if (__builtin_cpu_supports("x86-64-v4")) return multiply_wide(own);
    if (__builtin_cpu_supports("x86-64-v3")) return multiply_middle(own);
#endif
    multiply_narrow(own);
  });
}

}  // namespace hagan3d
