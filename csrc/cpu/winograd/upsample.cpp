// The up-convolution (nearest x2 upsampling and a 3^3 convolution) by Winograd's minimal filtering, and its gradients:
// 27 products per input voxel, not 64. Slabs are distributed over threads. The transforms are in slab.h, the matrix
// products between them here.
//
// Source: Winograd, Arithmetic complexity of computations, SIAM 1980, for minimal filtering.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/winograd/matrix.h"
#include "cpu/winograd/slab.h"

namespace hagan3d::winograd_upsample {
namespace {

constexpr int64_t kLeastRows = 16;  // of a slab: with fewer, the overlap of slabs costs more than the cache saves
constexpr int kProducts = 12;       // matrix products of a slab: 3 along D, times x or differences along H and W

// The 12 matrices of [27 C_out, C_in]
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

// Scratch memory of one thread
template <typename T>
struct Workspace {
  ScratchBuffer<T> scattered, gradient, products;
};

// The arrays of a slab as matrices: x or its differences, and the products.
template <typename T>
struct Slices {
  T *scattered, *products;
  std::array<Matrix<T>, kProducts> factors, results;

  static int64_t columns(const Slab& s, int i, int d) { return (s.planes + d) * s.samples * s.area(i >> 1 & 1); }

  Slices(const Slab& s, int64_t c_in, int64_t c_out, ScratchBuffer<T>& scattered_buffer,
         ScratchBuffer<T>& product_buffer) {
    int64_t per_in = 0, per_out = 0;
    for (int i = 0; i < 8; ++i) per_in += columns(s, i, i >> 2);
    for (int i = 0; i < kProducts; ++i) per_out += (int64_t(1) << ((i >> 1 & 1) + (i & 1))) * columns(s, i, 0);
    T* in = scattered = scattered_buffer.get(c_in * per_in);
    T* out = products = product_buffer.get(c_out * per_out);
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

// The tiling of x into slabs of equal size, a multiple of the number of threads if possible
struct Grid {
  int64_t B, D, H, W, trim, samples, planes, rows;

  // bytes: target size of a slab
  template <typename T>
  Grid(T, const Tensor& x, int64_t c_out, int64_t trim, int64_t bytes)
      : B(x.size(0)), D(x.size(2)), H(x.size(3)), W(x.size(4)), trim(trim) {
    const int64_t threads = torch::stable::get_num_threads(), per_row = (8 * x.size(1) + 27 * c_out) * (W + 1);
    const int64_t room = std::max<int64_t>(1, bytes / (per_row * int64_t(sizeof(T))));  // rows
    rows = even(H, std::max(kLeastRows, room - 1), 1);
    planes = even(D, room / (rows + 1), threads / std::gcd(threads, B * ceil_div(H, rows)));
    samples = planes == D && rows == H ? even(B, room / ((rows + 1) * (planes + 1)), threads) : 1;
  }

  int64_t count() const { return ceil_div(B, samples) * ceil_div(D, planes) * ceil_div(H, rows); }

  Slab at(int64_t i, int64_t channels) const {
    const int64_t row = i % ceil_div(H, rows) * rows, rest = i / ceil_div(H, rows);
    const int64_t plane = rest % ceil_div(D, planes) * planes, sample = rest / ceil_div(D, planes) * samples;
    return {channels, D,
            H,        W,
            sample,   std::min(samples, B - sample),
            plane,    std::min(planes, D - plane),
            row,      std::min(rows, H - row),
            trim};
  }
};

Tensor winograd_upsample(const Tensor& x, const Tensor& folded, const std::optional<Tensor>& bias, int64_t trim,
                         int64_t slab_bytes) {
  const int64_t c_in = x.size(1), c_out = folded.size(0) / 27, D = 2 * (x.size(2) - trim);
  const Tensor y = torch::stable::new_empty(x, {x.size(0), c_out, D, 2 * x.size(3), 2 * x.size(4)});
  dispatch_precise(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Grid grid(T(0), x, c_out, trim, slab_bytes);
    const auto weights = matrices(const_cast<T*>(data<T>(folded)), c_out, c_in);
    std::vector<Workspace<T>> workspaces(workers_for(grid.count()));
    const auto work = [&](int64_t worker, int64_t i) {
      Workspace<T>& workspace = workspaces[worker];
      const Slices<T> slices(grid.at(i, c_in), c_in, c_out, workspace.scattered, workspace.products);
      scatter(grid.at(i, c_in), data<T>(x), slices.scattered);
      for (int k = 0; k < kProducts; ++k)
        multiply(weights[k].tensor(), slices.factors[k].tensor(), slices.results[k].tensor(), false);
      gather(grid.at(i, c_out), slices.products, bias ? data<T>(*bias) : nullptr, mutable_data<T>(y));
    };
    run_slabs(grid.count(), workspaces.size(), work);
  });
  return y;
}

// Gradients in `factors`, from those in the products
template <typename T>
void multiply_back(const std::array<Matrix<T>, kProducts>& weights, const Slices<T>& gradients) {
  for (int k = 0; k < kProducts; ++k) {
    const Matrix<T>& to = gradients.factors[k];
    multiply(weights[k].tensor(true), gradients.results[k].tensor(), to.tensor(), k >= 8);
    if (k >= 4 && k < 8)
      for (int64_t c = 0; c < to.rows; ++c)
        std::fill(to.at + c * to.stride + to.columns, to.at + (c + 1) * to.stride, T(0));
  }
}

// The gradient in x, if `folded` is given, and that in the folded weight [27 C_out, C_in], if x is.
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
    const Tensor partial = torch::stable::new_zeros(sums, {(workers - 1) * size});  // aligned, as all tensors
    std::array<Matrix<T>, kProducts> weights;
    if (folded) weights = matrices(const_cast<T*>(data<T>(*folded)), c_out, c_in);
    std::vector<Workspace<T>> workspaces(workers);
    const auto work = [&](int64_t worker, int64_t i) {
      Workspace<T>& workspace = workspaces[worker];
      const Slices<T> slices(grid.at(i, c_in), c_in, c_out, workspace.scattered, workspace.products);
      gather_adjoint(grid.at(i, c_out), data<T>(grad), slices.products);
      if (x) {
        scatter(grid.at(i, c_in), data<T>(*x), slices.scattered);
        T* sum = worker ? mutable_data<T>(partial) + (worker - 1) * size : mutable_data<T>(sums);
        const auto totals = matrices(sum, c_out, c_in);
        for (int k = 0; k < kProducts; ++k)
          multiply(slices.results[k].tensor(), slices.factors[k].tensor(true), totals[k].tensor(), true);
      }
      if (folded)
        multiply_back(weights, Slices<T>(grid.at(i, c_in), c_in, c_out, workspace.gradient, workspace.products));
    };
    const auto then = [&](int64_t worker, int64_t i) {  // serial: neighbouring slabs add to the same voxels
      if (folded) scatter_adjoint(grid.at(i, c_in), workspaces[worker].gradient.get(0), mutable_data<T>(x_grad));
    };
    run_slabs(grid.count(), workers, work, then);
    for (int64_t i = 0; i < partial.numel(); ++i) mutable_data<T>(sums)[i % size] += data<T>(partial)[i];
  });
  return {x_grad, sums};
}

Tensor winograd_upsample_x(const Tensor& grad, const Tensor& folded, int64_t trim, int64_t slab_bytes) {
  return std::get<0>(gradients(grad, std::nullopt, folded, folded.size(1), trim, slab_bytes));
}

Tensor winograd_upsample_weight(const Tensor& grad, const Tensor& x, int64_t trim, int64_t slab_bytes) {
  return std::get<1>(gradients(grad, x, std::nullopt, x.size(1), trim, slab_bytes));
}

std::tuple<Tensor, Tensor> winograd_upsample_both(const Tensor& grad, const Tensor& x, const Tensor& folded,
                                                  int64_t trim, int64_t slab_bytes) {
  return gradients(grad, x, folded, x.size(1), trim, slab_bytes);
}

}  // namespace
}  // namespace hagan3d::winograd_upsample

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("winograd_upsample", TORCH_BOX(&hagan3d::winograd_upsample::winograd_upsample));
  m.impl("winograd_upsample_x", TORCH_BOX(&hagan3d::winograd_upsample::winograd_upsample_x));
  m.impl("winograd_upsample_weight", TORCH_BOX(&hagan3d::winograd_upsample::winograd_upsample_weight));
  m.impl("winograd_upsample_both", TORCH_BOX(&hagan3d::winograd_upsample::winograd_upsample_both));
}
