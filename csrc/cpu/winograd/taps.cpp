// Weight transform of Winograd convolutions: each transformed weight is a linear combination of the taps of a kernel.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "cpu/blocks.h"
#include "cpu/winograd/matrix.h"

namespace hagan3d::taps {
namespace {

constexpr int64_t kBatch = 32;  // pairs of channels at a time: one or a few SIMD vectors

// f(first pair, how many, a buffer [rows, kBatch])
template <typename T, typename F>
void for_batches(int64_t pairs, int64_t rows, const F& f) {
  torch::stable::parallel_for(0, ceil_div(pairs, kBatch), 16, [&](int64_t begin, int64_t end) {
    std::vector<T> buffer(rows * kBatch + kSlack, T(0));
    for (int64_t i = begin; i < end; ++i) f(i * kBatch, std::min(kBatch, pairs - i * kBatch), buffer.data());
  });
}

// [P C_out, C_in] of a kernel [C_out, C_in, ...] with `taps` [P, taps of the kernel]
Tensor fold_taps(const Tensor& weight, const Tensor& taps) {
  const int64_t pairs = weight.size(0) * weight.size(1), products = taps.size(0), count = taps.size(1);
  const Tensor w = torch::stable::contiguous(weight);
  const Tensor folded = torch::stable::new_empty(weight, {products * weight.size(0), weight.size(1)});
  dispatch_precise(weight.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_batches<T>(pairs, count, [&](int64_t first, int64_t n, T* buffer) {
      const T* from = data<T>(w) + first * count;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t t = 0; t < count; ++t) buffer[t * kBatch + i] = from[i * count + t];
      multiply(Product<T>{data<T>(taps), count, 1, 0, buffer, kBatch, mutable_data<T>(folded) + first, pairs, products,
                          n, count, 1, false});
    });
  });
  return folded;
}

// The adjoint: [C_out, C_in, taps] of [P C_out, C_in]
Tensor unfold_taps(const Tensor& folded, const Tensor& taps) {
  const int64_t products = taps.size(0), count = taps.size(1), pairs = folded.numel() / products;
  const Tensor f = torch::stable::contiguous(folded);
  const Tensor weight = torch::stable::new_empty(folded, {folded.size(0) / products, folded.size(1), count});
  dispatch_precise(folded.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_batches<T>(pairs, count + products, [&](int64_t first, int64_t n, T* buffer) {
      T* sums = buffer + count * kBatch;
      for (int64_t p = 0; p < products; ++p) std::copy_n(data<T>(f) + p * pairs + first, n, sums + p * kBatch);
      multiply(Product<T>{data<T>(taps), 1, count, 0, sums, kBatch, buffer, kBatch, count, n, products, 1, false});
      T* to = mutable_data<T>(weight) + first * count;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t t = 0; t < count; ++t) to[i * count + t] = buffer[t * kBatch + i];
    });
  });
  return weight;
}

}  // namespace
}  // namespace hagan3d::taps

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("fold_taps", TORCH_BOX(&hagan3d::taps::fold_taps));
  m.impl("unfold_taps", TORCH_BOX(&hagan3d::taps::unfold_taps));
}
