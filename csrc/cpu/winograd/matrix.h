// Matrix products on sub-matrices, scratch buffers, and the distribution of slabs over threads.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <array>
#include <memory>

#include "cpu/winograd/gemm.h"
#include "tensor.h"

namespace hagan3d {

// A view of [rows, columns] with a row stride
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

// out = a b, or out += a b
template <typename T>
void multiply(const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& out, bool add) {
  multiply(Product<T>{a.at, a.stride, 1, 0, b.at, b.stride, out.at, out.stride, a.rows, b.columns, a.columns, 1, add});
}

// out = a b, or out += a b
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out, bool add) {
  const auto status = add ? aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1)
                          : aoti_torch_cpu_mm_out(out.get(), a.get(), b.get());
  STABLE_TORCH_ERROR_CODE_CHECK(status);
}

constexpr int64_t kMaxStrided = 1 << 16;  // elements of a matrix that is read column by column rather than copied

// out = a^T b, or out += a^T b
template <typename T>
void multiply_transposed(const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& out, bool add) {
  if (a.rows * a.columns > kMaxStrided) return multiply(a.tensor(true), b.tensor(), out.tensor(), add);
  multiply(Product<T>{a.at, 1, a.stride, 0, b.at, b.stride, out.at, out.stride, a.columns, b.columns, a.rows, 1, add});
}

// out += a b^T, by the BLAS of PyTorch, which packs both
template <typename T>
void add_outer(const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& out) {
  multiply(a.tensor(), b.tensor(true), out.tensor(), true);
}

// Grow-only uninitialised scratch buffer, padded by kSlack for vector over-reads.
template <typename T>
class ScratchBuffer {
 public:
  T* get(int64_t count) {
    if (count > size_) at_.reset(new T[(size_ = count) + kSlack]);
    return at_.get();
  }

 private:
  std::unique_ptr<T[]> at_;
  int64_t size_ = 0;
};

constexpr int64_t kMostSums = int64_t(4) << 20;  // elements of a partial sum per thread, at most

// Length of equal tiles, at most `most`; their number is 1 or, if possible, a multiple of `multiple`.
inline int64_t even(int64_t length, int64_t most, int64_t multiple) {
  const int64_t count = ceil_div(length, std::max<int64_t>(1, most));
  if (count <= 1) return std::max<int64_t>(1, length);
  return ceil_div(length, std::min(length, multiple * ceil_div(count, multiple)));
}

inline int64_t workers_for(int64_t count) {
  return std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), count));
}

// work(worker, slab) for all slabs, each worker on a contiguous range
template <typename Work>
void run_slabs(int64_t count, int64_t workers, const Work& work) {
  const auto some = [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t i = worker * count / workers; i < (worker + 1) * count / workers; ++i) work(worker, i);
  };
  if (workers == 1)
    some(0, 1);  // the matrix products then use all threads
  else
    torch::stable::parallel_for(0, workers, 1, some);
}

// work(worker, slab) for all slabs, `workers` at a time; then(worker, slab) serially after each batch
template <typename Work, typename Then>
void run_slabs(int64_t count, int64_t workers, const Work& work, const Then& then) {
  for (int64_t first = 0; first < count; first += workers) {
    const int64_t together = std::min(workers, count - first);
    run_slabs(together, together, [&](int64_t worker, int64_t i) { work(worker, first + i); });
    for (int64_t i = 0; i < together; ++i) then(i, first + i);
  }
}

template <typename F>
void dispatch_precise(ScalarType dtype, const F& f) {
  if (dtype == ScalarType::Double) return f(Type<double>{});
  STD_TORCH_CHECK(dtype == ScalarType::Float, "dtype must be float32 or float64");
  f(Type<float>{});
}

}  // namespace hagan3d
