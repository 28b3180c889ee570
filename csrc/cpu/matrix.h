// Matrix products on parts of tensors, and work that is shared out slab by slab: each thread on slabs of its own.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <memory>

#include "cpu/product.h"
#include "dispatch.h"

namespace hagan3d {

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

constexpr int64_t kTurnedNumbers = 1 << 16;  // of a matrix that is read along its columns before it is better copied

// out = a^T b, or out += a^T b
template <typename T>
void multiply_turned(const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& out, bool add) {
  if (a.rows * a.columns > kTurnedNumbers) return multiply(a.tensor(true), b.tensor(), out.tensor(), add);
  multiply(Product<T>{a.at, 1, a.stride, 0, b.at, b.stride, out.at, out.stride, a.columns, b.columns, a.rows, 1, add});
}

// out += a b^T, by the library: both are better copied into order
template <typename T>
void add_outer(const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& out) {
  multiply(a.tensor(), b.tensor(true), out.tensor(), true);
}

// Memory that is not cleared, as large as the largest part asked for and what a product may read beyond it.
template <typename T>
class Memory {
 public:
  T* get(int64_t count) {
    if (count > size_) at_.reset(new T[(size_ = count) + kSlack]);
    return at_.get();
  }

 private:
  std::unique_ptr<T[]> at_;
  int64_t size_ = 0;
};

constexpr int64_t kMostSums = int64_t(4) << 20;  // numbers: so many a thread may add up of its own

inline int64_t parts(int64_t length, int64_t part) { return (length + part - 1) / part; }

// The length of even parts, none longer than `most`: one, or a multiple of some number if that can be.
inline int64_t even(int64_t length, int64_t most, int64_t multiple) {
  const int64_t count = parts(length, std::max<int64_t>(1, most));
  if (count <= 1) return std::max<int64_t>(1, length);
  return parts(length, std::min(length, multiple * parts(count, multiple)));
}

inline int64_t workers_for(int64_t count) {
  return std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), count));
}

// work(worker, slab) for all, each worker with a share of its own
template <typename Work>
void run_slabs(int64_t count, int64_t workers, const Work& work) {
  const auto some = [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t i = worker * count / workers; i < (worker + 1) * count / workers; ++i) work(worker, i);
  };
  if (workers == 1)
    some(0, 1);  // with all threads in its products
  else
    torch::stable::parallel_for(0, workers, 1, some);
}

// work(worker, slab) for all, as many at once as there are workers, and then(worker, slab) one after the other
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
  STD_TORCH_CHECK(dtype == ScalarType::Float, "want float32 or float64");
  f(Type<float>{});
}

}  // namespace hagan3d
