// Sub-volume selection on the CPU: rows along W are copied, converted or zero-filled.
#include "select_subvolume.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace hagan3d::subvolume {
namespace {

constexpr int64_t kGrain = 1 << 15;    // elements per task
constexpr int64_t kBytesAhead = 4096;  // prefetch distance in the source
constexpr int64_t kLarge = 4 << 20;    // bytes of a result that exceeds the caches

// In words of 16 bytes: rows are short, and a call of memcpy costs more than copying them. `large`: non-temporal
// stores, which save the read for ownership of each cache line.
inline void copy_bytes(const char* x, char* y, int64_t bytes, [[maybe_unused]] bool large) {
  constexpr int64_t kWord = 16;
#if defined(__SSE2__)
  if (large && reinterpret_cast<uintptr_t>(y) % kWord == 0)
    for (; bytes >= kWord; bytes -= kWord, x += kWord, y += kWord)
      _mm_stream_si128(reinterpret_cast<__m128i*>(y), _mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
#endif
  for (; bytes >= kWord; bytes -= kWord, x += kWord, y += kWord) std::memcpy(y, x, kWord);
  std::memcpy(y, x, bytes);
}

template <typename In, typename Out, typename T>
void copy_row(const In* x, int64_t stride, Out* y, int64_t count, T scale, bool large) {
  if (stride == 1 && std::is_same_v<In, Out> && scale == T(1)) {
    copy_bytes(reinterpret_cast<const char*>(x), reinterpret_cast<char*>(y), count * sizeof(Out), large);
  } else if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) y[i] = convert<In, Out>(x[i], scale);
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = convert<In, Out>(x[i * stride], scale);
  }
}

// Software prefetch: the hardware prefetcher does not follow short strided runs.
template <typename In>
void prefetch(const In* x, int64_t count) {
  const char* byte = reinterpret_cast<const char*>(x);
  for (int64_t i = 0; i < count * int64_t(sizeof(In)) + 63; i += 64) __builtin_prefetch(byte + i, 0, 2);
}

// Rows `from` to `to` of y[b, c, d]: slices of x inside the volume, zeros outside.
template <typename In, typename Out, typename T>
void write_plane(const Plan& plan, const In* x, int64_t first, const int64_t (&at)[3], int64_t from, int64_t to, Out* y,
                 T scale) {
  const int64_t width = plan.size[4], shift = plan.dim == 4 ? first : 0, down = plan.dim == 3 ? first : 0;
  const int64_t begin = std::clamp<int64_t>(-shift, 0, width);
  const int64_t end = plan.dim == 4 ? std::clamp<int64_t>(plan.length - shift, begin, width) : width;
  for (int i = 0; i < 3; ++i) x += (at[i] + (i == plan.dim ? first : 0)) * plan.stride[i];
  x += (begin + shift) * plan.stride[4];
  const bool is_outside = plan.dim == 2 && (at[2] + first < 0 || at[2] + first >= plan.length);
  const int64_t rows_ahead = plan.dim == 4 ? std::max<int64_t>(1, kBytesAhead / int64_t(width * sizeof(In))) : 0;
  const int64_t ahead = plan.dim == 4 ? rows_ahead * plan.stride[3] : plan.dim == 3 ? plan.stride[2] : 0;
  const bool large = plan.size[0] * plan.size[1] * plan.size[2] * plan.size[3] * width * int64_t(sizeof(Out)) >= kLarge;
  for (int64_t h = from; h < to; ++h, y += width) {
    if (is_outside || (plan.dim == 3 && (h + down < 0 || h + down >= plan.length))) {
      std::fill_n(y, width, Out(0));
      continue;
    }
    const In* inside = x + (h + down) * plan.stride[3];
    if (ahead) prefetch(inside + ahead, (end - begin) * plan.stride[4]);
    std::fill_n(y, begin, Out(0));
    copy_row(inside, plan.stride[4], y + begin, end - begin, scale, large);
    std::fill_n(y + end, width - end, Out(0));
  }
}

template <typename In, typename Out>
void write_rows(const Plan& plan, const In* x, const int64_t* start, Out* y, double scale) {
  using T = std::conditional_t<std::is_same_v<Math<In>, double>, double, Math<Out>>;
  const int64_t height = plan.size[3], rows = plan.size[0] * plan.size[1] * plan.size[2] * height;
  const int64_t grain = std::max<int64_t>(1, kGrain / plan.size[4]);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end;) {
      const int64_t plane = row / height, from = row % height, to = std::min(height, from + end - row);
      const int64_t volume = plane / plan.size[2];
      const int64_t at[3] = {volume / plan.size[1], volume % plan.size[1], plane % plan.size[2]};
      write_plane<In, Out, T>(plan, x, first_slice(plan, start[at[0]]), at, from, to, y + row * plan.size[4], T(scale));
      row += to - from;
    }
#if defined(__SSE2__)
    _mm_sfence();
#endif
  });
}

Tensor select_subvolume(const Tensor& x, const Tensor& start, int64_t length, int64_t axis, int64_t halo, bool adjoint,
                        ScalarType dtype, double scale) {
  const Plan plan = make_plan(x, length, axis, halo, adjoint);
  Tensor y = torch::stable::new_empty(x, {plan.size, 5}, dtype);
  if (y.numel() == 0) return y;
  const Tensor begin = torch::stable::contiguous(start);
  dispatch_stored(x.scalar_type(), [&](auto in) {
    dispatch_floating(dtype, [&](auto out) {
      using In = typename decltype(in)::type;
      using Out = typename decltype(out)::type;
      write_rows(plan, data<In>(x), data<int64_t>(begin), mutable_data<Out>(y), scale);
    });
  });
  return y;
}

}  // namespace
}  // namespace hagan3d::subvolume

STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU, m) {
  m.impl("select_subvolume", TORCH_BOX(&hagan3d::subvolume::select_subvolume));
}
