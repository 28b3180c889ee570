// Matrix products on sub-matrices, scratch buffers, and the distribution of slabs over threads.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>

#include "tensor.h"

namespace hagan3d {

// A view of [rows, columns] with a row stride
template <typename T>
struct Matrix {
  T* at;
  int64_t rows, columns, stride;

  Tensor tensor(bool transposed = false) const {
    using Pair = std::array<int64_t, 2>;
    const Pair sizes = transposed ? Pair{columns, rows} : Pair{rows, columns};
    const Pair strides = transposed ? Pair{1, stride} : Pair{stride, 1};
    const auto dtype = std::is_same_v<std::remove_const_t<T>, double> ? ScalarType::Double : ScalarType::Float;
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    return torch::stable::from_blob(const_cast<std::remove_const_t<T>*>(at), sizes, strides, cpu, dtype);
  }
};

// out = a b, or out += a b, by the BLAS of PyTorch
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out, bool add) {
  const auto status = add ? aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1)
                          : aoti_torch_cpu_mm_out(out.get(), a.get(), b.get());
  TORCH_ERROR_CODE_CHECK(status);
}

// Grow-only uninitialised scratch buffer. Aligned to a cache line: the rounding of a BLAS may depend on the alignment,
// and a resumed run must equal an uninterrupted one bit for bit.
template <typename T>
class ScratchBuffer {
 public:
  T* get(int64_t count) {
    if (count > size_) at_.reset(static_cast<T*>(::operator new((size_ = count) * sizeof(T), kAlignment)));
    return at_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* at) const { ::operator delete(at, kAlignment); }
  };
  std::unique_ptr<T, Delete> at_;
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
