// Elementary functions of a scalar, branch-free, so that a CPU loop over them vectorizes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "dispatch.h"

namespace hagan3d::math {

// exp to 2 ulp on [-87, 88], clamped outside. Cephes: Cody-Waite reduction, polynomial of degree 7.
HOST_DEVICE float exp(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float n = ::rintf(x * 1.44269504088896341f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
#endif
}

// log of a normal positive number, to 2 ulp, of infinity and of NaN. Cephes: polynomial of degree 9 on [sqrt(1/2),
// sqrt(2)]. On a GPU the intrinsic: to 3 ulp, and to 4e-7 between 1/2 and 2.
HOST_DEVICE float log(float x) {
#if defined(__CUDA_ARCH__)
  return ::__logf(x);
#else
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;  // of x / sqrt(1/2), rounded down
  bits -= exponent << 23;
  float m;
  std::memcpy(&m, &bits, sizeof m);
  m -= 1.0f;
  const float n = static_cast<float>(exponent), z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float y = m + (p * m * z - 2.12194440e-4f * n - 0.5f * z) + 0.693359375f * n;
  return x < std::numeric_limits<float>::infinity() ? y : x;
#endif
}

// x / y for y below 2^126; on a GPU to 2 ulp
HOST_DEVICE float divide(float x, float y) {
#if defined(__CUDA_ARCH__)
  return ::__fdividef(x, y);
#else
  return x / y;
#endif
}

HOST_DEVICE double divide(double x, double y) { return x / y; }
HOST_DEVICE double exp(double x) { return ::exp(x); }
HOST_DEVICE double log(double x) { return ::log(x); }

// Derivative of lnGamma for x > 0: recurrence up to 12, then the asymptotic series (Abramowitz and Stegun 6.3.18).
HOST_DEVICE double digamma(double x) {
  double shift = 0;
  for (; x < 12; x += 1) shift += 1 / x;
  const double y = 1 / (x * x);
  const double series = y * (1.0 / 12 - y * (1.0 / 120 - y * (1.0 / 252 - y * (1.0 / 240 - y * (1.0 / 132)))));
  return ::log(x) - 0.5 / x - series - shift;
}

template <int N>
HOST_DEVICE float polynomial(const float (&coefficients)[N], float x) {
  float p = coefficients[N - 1];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int i = N - 2; i >= 0; --i) p = p * x + coefficients[i];
  return p;
}

}  // namespace hagan3d::math
