// Runs a CUDA kernel on the host, so that its indices, its sums and its barriers can be tested without a GPU. The
// threads of a block are fibers that take turns in a changing order; a barrier that not all of them reach ends the
// process with a message. Memory is the host's, time means nothing.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define __global__ static
#define __device__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define aoti_torch_get_current_cuda_stream(device, stream) (*(stream) = nullptr, 0)

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace on_host {

constexpr int kLanes = 32;
constexpr size_t kStack = 1 << 16;

enum class State { kNew, kReady, kAtWarp, kAtBlock, kDone };

struct Fiber {
  ucontext_t context;  // where it begins
  jmp_buf place;       // where it goes on, saved without the mask of signals, which would take longer than all else
  std::unique_ptr<char[]> stack{new char[kStack]};
  State state;
  double exchanged;  // what this lane shows to the others of its warp
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<char> shared;
  jmp_buf scheduler;
  std::function<void()> kernel;
  unsigned current = 0, turn = 0;
};

inline Block block;
inline dim3 grid_size = 1, block_size = 1, block_index = 0, thread_index = 0;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "CUDA on the host: %s\n", what);
  std::abort();
}

inline void wait(State where) {
  Fiber& own = block.fibers[block.current];
  own.state = where;
  if (!_setjmp(own.place)) _longjmp(block.scheduler, 1);
}

inline void enter() {
  block.kernel();
  wait(State::kDone);
}

inline void resume(unsigned thread) {
  block.current = thread, thread_index = dim3(thread);
  Fiber& fiber = block.fibers[thread];
  if (_setjmp(block.scheduler)) return;
  if (fiber.state == State::kNew) setcontext(&fiber.context);
  _longjmp(fiber.place, 1);
}

// Runs the lanes of one warp until all of them wait for the block, or all are done.
inline State run_warp(unsigned first, unsigned lanes) {
  for (;;) {
    const unsigned turn = block.turn++;
    for (unsigned i = 0; i < lanes; ++i) {
      const unsigned thread = first + (i * 5 + turn) % lanes;
      if (block.fibers[thread].state <= State::kReady) resume(thread);
    }
    const State state = block.fibers[first].state;
    for (unsigned i = 1; i < lanes; ++i)
      if (block.fibers[first + i].state != state) fail("the lanes of a warp parted before a barrier");
    if (state != State::kAtWarp) return state;
    for (unsigned i = 0; i < lanes; ++i) block.fibers[first + i].state = State::kReady;
  }
}

inline void run_block(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.get(), 0, kStack};
    fiber.state = State::kNew;
    makecontext(&fiber.context, enter, 0);
  }
  const unsigned warps = threads / kLanes;
  for (State state = State::kReady; state != State::kDone;) {
    const unsigned turn = block.turn++;
    for (unsigned i = 0; i < warps; ++i) {
      const State reached = run_warp((i + turn) % warps * kLanes, kLanes);
      if (i > 0 && reached != state) fail("the warps of a block parted before a barrier");
      state = reached;
    }
    if (state == State::kAtBlock)
      for (unsigned i = 0; i < threads; ++i) block.fibers[i].state = State::kReady;
  }
}

// kernel<<<grid, threads, shared_bytes, stream>>>(...) with the call in a function
inline void launch(dim3 grid, unsigned threads, size_t shared_bytes, cudaStream_t, std::function<void()> kernel) {
  if (threads == 0 || threads % kLanes || threads > 1024) fail("want whole warps, at most 1024 threads");
  if (!grid.x || !grid.y || grid.y > 65535 || shared_bytes > 48 * 1024) fail("a launch that CUDA refuses");
  block.fibers.resize(std::max<size_t>(threads, block.fibers.size()));
  block.shared.assign(shared_bytes + 16, '\xff');  // NaN, until something is written
  block.kernel = std::move(kernel);
  grid_size = grid, block_size = dim3(threads);
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) block_index = dim3(x, y), run_block(threads);
}

inline unsigned char* shared() {
  const auto at = reinterpret_cast<uintptr_t>(block.shared.data());
  return reinterpret_cast<unsigned char*>((at + 15) / 16 * 16);
}

template <typename Group, typename T>
Group* aligned(T* at) {  // what a GPU loads or stores at once
  if (reinterpret_cast<uintptr_t>(at) % sizeof(Group)) fail("a load or store that is not aligned");
  return reinterpret_cast<Group*>(at);
}

template <typename T>
T exchange(T value, unsigned lane) {  // `value` of another lane
  const unsigned own = block.current;
  block.fibers[own].exchanged = value;
  wait(State::kAtWarp);
  const T other = static_cast<T>(block.fibers[own / kLanes * kLanes + lane].exchanged);
  wait(State::kAtWarp);
  return other;
}

}  // namespace on_host

#define gridDim on_host::grid_size
#define blockDim on_host::block_size
#define blockIdx on_host::block_index
#define threadIdx on_host::thread_index

inline void __syncthreads() { on_host::wait(on_host::State::kAtBlock); }
inline void __syncwarp() { on_host::wait(on_host::State::kAtWarp); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  return on_host::exchange(value, (threadIdx.x % on_host::kLanes) ^ unsigned(offset));
}

template <typename T>
T __shfl_down_sync(unsigned, T value, int offset) {
  const unsigned lane = threadIdx.x % on_host::kLanes, from = lane + unsigned(offset);
  return on_host::exchange(value, from < on_host::kLanes ? from : lane);
}
