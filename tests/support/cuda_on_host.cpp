// CUDA's words for a host compiler: the kernels of `SOURCE` run on CPU memory, each CUDA thread as a coroutine that
// stops at `__syncthreads()`. With `backwards`, threads run in falling order, so that a missing barrier shows.

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

struct Place {
  int x, y;
};
static Place threadIdx, blockIdx, blockDim;
static jmp_buf scheduler, threads[256];
static ucontext_t contexts[256];
static std::vector<char> stacks(256 * 65536);
static bool begun[256], done[256];
static void (*body)(void*);
static void* body_argument;

static void leave(int number) {
  if (!_setjmp(threads[number])) _longjmp(scheduler, 1);
}

static void __syncthreads() {
  const Place own = threadIdx;
  leave(own.x);
  threadIdx = own;
}

// Never returns: the next block goes on here.
static void run_thread(int number) {
  while (true) {
    threadIdx = {number, 0};
    body(body_argument);
    done[number] = true;
    leave(number);
  }
}

static void resume(int number) {
  if (_setjmp(scheduler)) return;
  if (begun[number]) _longjmp(threads[number], 1);
  begun[number] = true;
  getcontext(&contexts[number]);
  contexts[number].uc_stack.ss_sp = &stacks[number * 65536];
  contexts[number].uc_stack.ss_size = 65536;
  makecontext(&contexts[number], (void (*)())run_thread, 1, number);
  setcontext(&contexts[number]);
}

// All threads of a block, from barrier to barrier.
static void run_block(bool backwards) {
  const int count = blockDim.x;
  std::fill(done, done + count, false);
  for (bool left = true; left;) {
    left = false;
    for (int i = 0; i < count; i++) {
      const int number = backwards ? count - 1 - i : i;
      if (!done[number]) resume(number);
      left = left || !done[number];
    }
  }
}

#define __global__
#define __device__
#define __shared__ static
#define __CUDACC__
static float __uint_as_float(unsigned int bits) { float found; std::memcpy(&found, &bits, 4); return found; }
static unsigned int __float_as_uint(float number) { unsigned int found; std::memcpy(&found, &number, 4); return found; }
static float rsqrtf(float number) { return 1.0f / std::sqrt(number); }

// The source asks for two instructions in assembly, which convert `given` to `found`.
static void convert(float& found, unsigned short given) {
  _Float16 half;
  std::memcpy(&half, &given, 2);
  found = (float)half;
}
static void convert(unsigned short& found, float given) {
  const _Float16 half = (_Float16)given;
  std::memcpy(&found, &half, 2);
}
#define asm(...) convert(found, given)

#include SOURCE

template <class... Types, std::size_t... I>
static void run(void (*kernel)(Types...), int x, int y, int count, void** values, bool backwards,
                std::index_sequence<I...>) {
  auto call = [&] { kernel(*(Types*)values[I]...); };
  body = [](void* argument) { (*(decltype(call)*)argument)(); };
  body_argument = &call;
  blockDim = {count, 1};
  for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++) run_block(backwards);
}

template <class... Types>
static void run(void (*kernel)(Types...), int x, int y, int count, void** values, bool backwards) {
  run(kernel, x, y, count, values, backwards, std::index_sequence_for<Types...>());
}

extern "C" int launch(const char* name, int x, int y, int count, void** values, bool backwards) {
  const std::string wanted = name;
  if (wanted == "row_norm") run(row_norm, x, y, count, values, backwards);
  else if (wanted == "gate_times_up") run(gate_times_up, x, y, count, values, backwards);
  else if (wanted == "rotate_and_store") run(rotate_and_store, x, y, count, values, backwards);
  else if (wanted == "adapter_down") run(adapter_down, x, y, count, values, backwards);
  else if (wanted == "adapter_up") run(adapter_up, x, y, count, values, backwards);
  else return 1;
  return 0;
}
