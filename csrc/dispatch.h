// Element types: dispatch from a dtype to a template argument, and the type of the arithmetic (math type).
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <type_traits>

#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace hagan3d {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
struct Type {
  using type = T;
};

// double for double, else float
template <typename T>
using Math = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename F>
void dispatch_floating(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(Type<float>{});
    case ScalarType::Double:
      return f(Type<double>{});
    case ScalarType::Half:
      return f(Type<Half>{});
    case ScalarType::BFloat16:
      return f(Type<BFloat16>{});
    default:
      STD_TORCH_CHECK(false, "dtype must be a floating point type of 16, 32 or 64 bits");
  }
}

template <typename F>
void dispatch_stored(ScalarType dtype, const F& f) {
  if (dtype == ScalarType::Short) return f(Type<int16_t>{});
  dispatch_floating(dtype, f);
}

}  // namespace hagan3d
