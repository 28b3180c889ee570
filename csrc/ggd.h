// Generalized Gaussian density (GGD), one voxel at a time; see hagan3d/ops/ggd.py for the formulas.
//   r2 = e^2 + EPS^2,  t = b (ln r2 / 2 - ln a),  q = exp(min(t, T)),  p = t <= T ? q : MAX_POWER (1 + t - T)
//   nll         = p + ln a + lnGamma(1 + 1/b) + ln 2
//   d/de        = q b e / r2
//   d/d ln a    = 1 - b q
//   d/d ln b    = b q (ln r2 / 2 - ln a) - psi(1 + 1/b) / b
//   ln sigma    = ln a + (lnGamma(1 + 3/b) - lnGamma(1 + 1/b) - ln 3) / 2
#pragma once

#include "elementary.h"

namespace hagan3d::ggd {

constexpr double kLogScaleLow = -6.907755278982137;   // ln 1e-3
constexpr double kLogScaleHigh = 2.302585092994046;   // ln 10
constexpr double kLogShapeLow = -1.3862943611198906;  // ln 0.25
constexpr double kLogShapeHigh = 2.0794415416798357;  // ln 8
constexpr double kEps2 = 1e-6;
constexpr double kMaxPower = 50.0;
constexpr double kLogMaxPower = 3.912023005428146;
constexpr double kLog2 = 0.6931471805599453;
constexpr double kLog3 = 1.0986122886681098;

template <typename T>
HOST_DEVICE T clamp(T x, double low, double high) {
  return x < T(low) ? T(low) : (x > T(high) ? T(high) : x);
}

// One-sided gradient: 0 if the value is out of bounds and descent along `local` would move it further out
template <typename T>
HOST_DEVICE T pass(T raw, T local, T gradient, double low, double high) {
  const bool above = raw > T(high), below = raw < T(low), out = (above & (local < T(0))) | (below & (local > T(0)));
  return out ? T(0) : gradient;
}

template <typename T>
HOST_DEVICE T pass_scale(T raw, T local, T gradient) {
  return pass(raw, local, gradient, kLogScaleLow, kLogScaleHigh);
}

template <typename T>
HOST_DEVICE T pass_shape(T raw, T local, T gradient) {
  return pass(raw, local, gradient, kLogShapeLow, kLogShapeHigh);
}

// Functions of the log shape. float: Chebyshev fits of degree 12 in u = (lb - middle) / half range, to 2e-8.
HOST_DEVICE float to_unit(float lb) { return (lb - 0.346573590f) * (1.0f / 1.73286795f); }

HOST_DEVICE float log_norm(float lb) {  // lnGamma(1 + 1/b)
  constexpr float c[] = {-0.094305598f,   -0.262427313f,    0.819656006f,   -0.974380079f,  0.70019946f,
                         -0.344244201f,   0.123360602f,     -0.0354954492f, 0.00974314936f, -0.00246634511f,
                         0.000338787247f, -2.51174496e-05f, 2.29165728e-05f};
  return math::polynomial(c, to_unit(lb));
}

HOST_DEVICE float log_norm_slope(float lb) {  // psi(1 + 1/b) / b
  constexpr float c[] = {0.151441059f,    -0.946010949f,    1.68687779f,    -1.61627829f,  0.993307831f,
                         -0.427135811f,   0.143246167f,     -0.0449710464f, 0.0131080403f, -0.00196552458f,
                         -0.00013250132f, -0.000154512663f, 0.000106161211f};
  return math::polynomial(c, to_unit(lb));
}

HOST_DEVICE float sigma_shift(float lb) {  // ln sigma - ln a
  constexpr float c[] = {-0.0981726875f,  -1.6508918f,      2.40807271f,    -2.02995843f,  1.14941439f,
                         -0.484158416f,   0.166963448f,     -0.0493272664f, 0.0117119289f, -0.0022577597f,
                         0.000559671616f, -0.000129518706f, 1.53931892e-06f};
  return math::polynomial(c, to_unit(lb));
}

HOST_DEVICE float sigma_slope(float lb) {  // d ln sigma / d ln b
  constexpr float c[] = {-0.952693357f,    2.7792916f,      -3.51433389f,   2.65320806f,   -1.396976f,
                         0.578099517f,     -0.199307274f,   0.0540852471f,  -0.011624332f, 0.00321232693f,
                         -0.000921703537f, 1.76256576e-05f, 3.61953274e-05f};
  return math::polynomial(c, to_unit(lb));
}

HOST_DEVICE double log_norm(double lb) { return ::lgamma(1 + ::exp(-lb)); }
HOST_DEVICE double log_norm_slope(double lb) { return math::digamma(1 + ::exp(-lb)) * ::exp(-lb); }
HOST_DEVICE double sigma_shift(double lb) {
  return (::lgamma(1 + 3 * ::exp(-lb)) - ::lgamma(1 + ::exp(-lb)) - kLog3) / 2;
}
HOST_DEVICE double sigma_slope(double lb) {
  const double x = ::exp(-lb);
  return x * (math::digamma(1 + x) - 3 * math::digamma(1 + 3 * x)) / 2;
}

template <typename T>
struct Terms {
  T nll, de, da, dlb;  // the value and its derivatives at the clamped parameters
};

template <typename T>
HOST_DEVICE Terms<T> evaluate(T e, T raw_a, T raw_lb) {
  const T a = clamp(raw_a, kLogScaleLow, kLogScaleHigh);
  const T lb = clamp(raw_lb, kLogShapeLow, kLogShapeHigh);
  const T b = math::exp(lb);
  const T r2 = e * e + T(kEps2);
  const T x = T(0.5) * math::log(r2) - a;
  const T t = b * x;
  const T q = math::exp(t < T(kLogMaxPower) ? t : T(kLogMaxPower));
  const T p = t <= T(kLogMaxPower) ? q : T(kMaxPower) * (1 + t - T(kLogMaxPower));
  return {p + a + log_norm(lb) + T(kLog2), math::divide(q * b * e, r2), 1 - b * q, b * q * x - log_norm_slope(lb)};
}

template <typename T>
HOST_DEVICE T log_sigma(T raw_a, T raw_lb) {
  return clamp(raw_a, kLogScaleLow, kLogScaleHigh) + sigma_shift(clamp(raw_lb, kLogShapeLow, kLogShapeHigh));
}

template <typename T>
HOST_DEVICE T log_sigma_slope(T raw_lb) {
  return sigma_slope(clamp(raw_lb, kLogShapeLow, kLogShapeHigh));
}

}  // namespace hagan3d::ggd
