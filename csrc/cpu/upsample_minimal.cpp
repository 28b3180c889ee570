// The up-convolution by minimal filtering, and its gradients, slab by slab: each thread works on slabs of its own. Sums
// and differences are in upsample_slab.h; here are the matrix products between them, and who does what.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/matrix.h"
#include "cpu/upsample_slab.h"

namespace hagan3d::upsample_minimal {
namespace {

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
};

Tensor upsample_minimal(const Tensor& x, const Tensor& folded, const std::optional<Tensor>& bias, int64_t trim,
                        int64_t slab_bytes) {
  const int64_t c_in = x.size(1), c_out = folded.size(0) / 27, D = 2 * (x.size(2) - trim);
  const Tensor y = torch::stable::new_empty(x, {x.size(0), c_out, D, 2 * x.size(3), 2 * x.size(4)});
  dispatch_precise(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Grid grid(T(0), x, c_out, trim, slab_bytes);
    const auto weights = matrices(const_cast<T*>(data<T>(folded)), c_out, c_in);
    std::vector<Bench<T>> benches(workers_for(grid.count()));
    const auto work = [&](int64_t worker, int64_t i) {
      Bench<T>& bench = benches[worker];
      const Slices<T> slices(grid.at(i, c_in), c_in, c_out, bench.spread, bench.products);
      spread(grid.at(i, c_in), data<T>(x), slices.spread);
      for (int k = 0; k < kProducts; ++k) multiply(weights[k], slices.factors[k], slices.results[k], false);
      join(grid.at(i, c_out), slices.products, bias ? data<T>(*bias) : nullptr, mutable_data<T>(y));
    };
    run_slabs(grid.count(), benches.size(), work);
  });
  return y;
}

// `factors` = the gradients in them, from those in the products
template <typename T>
void multiply_back(const std::array<Matrix<T>, kProducts>& weights, const Slices<T>& gradients) {
  for (int k = 0; k < kProducts; ++k) {
    const Matrix<T>& to = gradients.factors[k];
    multiply_turned(weights[k], gradients.results[k], to, k >= 8);
    if (k >= 4 && k < 8)
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
  dispatch_precise(grad.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Grid grid(T(0), x ? *x : x_grad, c_out, trim, slab_bytes);
    const int64_t workers = size > kMostSums ? 1 : workers_for(grid.count());
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
        for (int k = 0; k < kProducts; ++k) add_outer(slices.results[k], slices.factors[k], totals[k]);
      }
      if (folded) multiply_back(weights, Slices<T>(grid.at(i, c_in), c_in, c_out, bench.gradient, bench.products));
    };
    const auto then = [&](int64_t worker, int64_t i) {  // neighbours add to the same voxels
      if (folded) gather(grid.at(i, c_in), benches[worker].gradient.get(0), mutable_data<T>(x_grad));
    };
    run_slabs(grid.count(), workers, work, then);
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
