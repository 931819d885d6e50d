// The kernels of a decoder layer that are not its matrix products or attention. NVRTC compiles them at start.
//
// Elements have 16 bits: bfloat16 with -DBFLOAT16, else IEEE half. Numbers are computed in float32 and rounded where
// transformers' operations round, so results differ from its own by the order of sums only. No header is included:
// the image has none. No kernel allocates or waits, so graphs hold them. The number of threads in a block is a power
// of two and at most MAX_THREADS. Every row is computed alone, so a result does not depend on the batch.

#define MAX_THREADS 256

typedef unsigned short element;
typedef unsigned int pair;  // two elements, the first in the lower half
typedef long long offset;

#ifdef BFLOAT16

__device__ inline float number(element given) { return __uint_as_float((unsigned int)given << 16); }

__device__ inline element bits_of(float given) {
  const unsigned int bits = __float_as_uint(given);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN
  return (element)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // to the nearest, ties to even
}

#else

__device__ inline float number(element given) {
  float found;
  asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(given));
  return found;
}

__device__ inline element bits_of(float given) {
  element found;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(found) : "f"(given));
  return found;
}

#endif

__device__ inline float rounded(float value) { return number(bits_of(value)); }
__device__ inline float first(pair both) { return number((element)(both & 0xffffu)); }
__device__ inline float second(pair both) { return number((element)(both >> 16)); }
__device__ inline pair pair_of(float one, float two) { return (pair)bits_of(one) | ((pair)bits_of(two) << 16); }

// The sum over the block's threads, in an order that depends on their number only. All threads must call it.
__device__ inline float sum_of_block(float own) {
  __shared__ float partial[MAX_THREADS];
  partial[threadIdx.x] = own;
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  __syncthreads();
  return partial[0];
}

// Llama multiplies the rounded number by the weight; Gemma multiplies by 1 + weight and rounds once.
__device__ inline float normed(float value, float scale, float weight, int one_plus) {
  if (one_plus) return rounded(value * scale * (1.0f + weight));
  return rounded(weight * rounded(value * scale));
}

// Root-mean-square norm of one row of `width` numbers for each block; `width` is even.
// `before`, if not null, is added to the row first, and `sum` takes what comes of it. `after`, if not null, is added to
// the normed row. `sum` may be `before`.
extern "C" __global__ void row_norm(
    element* out, element* sum, const element* in, const element* before, const element* after, const element* weight,
    int width, float epsilon, int one_plus) {
  const int pairs = width / 2;
  const offset start = (offset)blockIdx.x * pairs;
  const pair* row = (const pair*)in + start;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    float one = first(row[i]), two = second(row[i]);
    if (before) {
      const pair other = ((const pair*)before)[start + i];
      one = rounded(one + first(other));
      two = rounded(two + second(other));
      ((pair*)sum)[start + i] = pair_of(one, two);
    }
    squares += one * one + two * two;
  }
  const float scale = rsqrtf(sum_of_block(squares) / (float)width + epsilon);
  // A thread reads again what it wrote itself.
  const pair* from = before ? (const pair*)sum + start : row;
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    const pair both = from[i], factors = ((const pair*)weight)[i];
    float one = normed(first(both), scale, first(factors), one_plus);
    float two = normed(second(both), scale, second(factors), one_plus);
    if (after) {
      const pair other = ((const pair*)after)[start + i];
      one = first(other) + one;
      two = second(other) + two;
    }
    ((pair*)out)[start + i] = pair_of(one, two);
  }
}

__device__ inline float silu(float value) { return value / (1.0f + expf(-value)); }

__device__ inline float gelu_tanh(float value) {
  const float inner = 0.7978845608028654f * (value + 0.044715f * (value * value * value));
  return 0.5f * value * (1.0f + tanhf(inner));
}

// activation(gate) * up. Blocks: row by columns of `2 * blockDim.x`; `width` and the strides, in elements, are even.
extern "C" __global__ void gate_times_up(
    element* out, const element* gate, const element* up, int width, offset gate_stride, offset up_stride, int gelu) {
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= width / 2) return;
  const offset row = blockIdx.x;
  const pair gates = ((const pair*)(gate + row * gate_stride))[i];
  const pair ups = ((const pair*)(up + row * up_stride))[i];
  const float one = gelu ? gelu_tanh(first(gates)) : silu(first(gates));
  const float two = gelu ? gelu_tanh(second(gates)) : silu(second(gates));
  ((pair*)(out + row * width))[i] = pair_of(rounded(one) * first(ups), rounded(two) * second(ups));
}

// Rotary embedding of queries and keys, after a norm of each head where there are weights; keys and values go to their
// slots of the cache. Blocks: token by head, first query heads, then key heads, then value heads.
// `query`, `key`, `value`: a row of heads for each token, strides in elements. `cosines`, `sines` `[T, head_dim]`.
// `rotated` `[T, num_heads, head_dim]`; `keys`, `values` `[slots, num_kv_heads, cache_dim]`, cache_dim >= head_dim.
extern "C" __global__ void rotate_and_store(
    element* rotated, element* keys, element* values, const element* query, const element* key, const element* value,
    offset query_stride, offset key_stride, offset value_stride, const element* cosines, const element* sines,
    const offset* slots, const element* query_weight, const element* key_weight, int num_heads, int num_kv_heads,
    int head_dim, int cache_dim, float epsilon, int one_plus) {
  const offset token = blockIdx.x;
  const int half = head_dim / 2;
  int head = blockIdx.y;
  const element *in, *weight;
  element* out;
  if (head < num_heads) {
    in = query + token * query_stride + (offset)head * head_dim;
    out = rotated + (token * num_heads + head) * head_dim;
    weight = query_weight;
  } else if (head < num_heads + num_kv_heads) {
    head -= num_heads;
    in = key + token * key_stride + (offset)head * head_dim;
    out = keys + (slots[token] * num_kv_heads + head) * cache_dim;
    weight = key_weight;
  } else {
    head -= num_heads + num_kv_heads;
    in = value + token * value_stride + (offset)head * head_dim;
    out = values + (slots[token] * num_kv_heads + head) * cache_dim;
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) out[i] = in[i];
    return;
  }
  float scale = 0.0f;
  if (weight) {
    float squares = 0.0f;
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) squares += number(in[i]) * number(in[i]);
    scale = rsqrtf(sum_of_block(squares) / (float)head_dim + epsilon);
  }
  const element* cosine = cosines + token * head_dim;
  const element* sine = sines + token * head_dim;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const int j = i + half;
    float low = number(in[i]), high = number(in[j]);
    if (weight) {
      low = normed(low, scale, number(weight[i]), one_plus);
      high = normed(high, scale, number(weight[j]), one_plus);
    }
    out[i] = bits_of(rounded(low * number(cosine[i])) + rounded(-high * number(sine[i])));
    out[j] = bits_of(rounded(high * number(cosine[j])) + rounded(low * number(sine[j])));
  }
}

// What adapters add to a product, in two kernels. Row t has the adapter in `slots[t]`, below 0 none: then nothing is
// read or written for it. A product may have parts beside each other, each with a rank of its own: `ranks` and
// `scalings` hold `part_stride` numbers for each slot. The order of each sum depends on the row's own rank and the
// number of threads alone.

#define ADAPTER_ROWS 4
#define ADAPTER_DOTS 4

__device__ inline int rank_of(const int* ranks, int slot, int part, int part_stride) {
  return slot < 0 ? 0 : ranks[(offset)slot * part_stride + part];
}

// The slot whose `down` has the dot `dot` of row `row`, or -1.
__device__ inline int slot_of_dot(const int* slots, const int* ranks, int row, int num_rows, int dot, int num_parts,
                                  int max_rank, int part_stride) {
  if (row >= num_rows || dot >= num_parts * max_rank) return -1;
  const int slot = slots[row];
  return dot % max_rank < rank_of(ranks, slot, dot / max_rank, part_stride) ? slot : -1;
}

// `dots` [rows, parts * max_rank]: of each row of `in` with the rows of its adapter's `down` [parts * max_rank, width],
// those below the rank. Blocks: ADAPTER_ROWS rows by ADAPTER_DOTS dots. `width` is even.
extern "C" __global__ void adapter_down(
    float* dots, const element* in, const element* down, const int* slots, const int* ranks, int num_rows, int width,
    int num_parts, int max_rank, int part_stride, offset slot_stride) {
  __shared__ float partial[ADAPTER_ROWS * ADAPTER_DOTS][MAX_THREADS];
  const int pairs = width / 2, row = blockIdx.x * ADAPTER_ROWS, dot = blockIdx.y * ADAPTER_DOTS;
  const int all_dots = num_parts * max_rank;
  // Indexed by constants only, once loops are unrolled: else these are no registers.
  const pair* weights[ADAPTER_ROWS][ADAPTER_DOTS];
  float sums[ADAPTER_ROWS][ADAPTER_DOTS] = {};
  bool any = false;
#pragma unroll
  for (int i = 0; i < ADAPTER_ROWS; i++)
#pragma unroll
    for (int d = 0; d < ADAPTER_DOTS; d++) {
      const int slot = slot_of_dot(slots, ranks, row + i, num_rows, dot + d, num_parts, max_rank, part_stride);
      weights[i][d] = slot < 0 ? 0 : (const pair*)(down + slot * slot_stride + (offset)(dot + d) * width);
      any = any || slot >= 0;
    }
  if (!any) return;  // the same for all threads
  for (int k = threadIdx.x; k < pairs; k += blockDim.x) {
#pragma unroll
    for (int i = 0; i < ADAPTER_ROWS; i++) {
      if (row + i >= num_rows) continue;
      const pair x = ((const pair*)in)[(offset)(row + i) * pairs + k];
#pragma unroll
      for (int d = 0; d < ADAPTER_DOTS; d++) {
        if (!weights[i][d]) continue;
        const pair w = weights[i][d][k];
        sums[i][d] += first(x) * first(w) + second(x) * second(w);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < ADAPTER_ROWS * ADAPTER_DOTS; e++)
    partial[e][threadIdx.x] = sums[e / ADAPTER_DOTS][e % ADAPTER_DOTS];
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half)
      for (int e = 0; e < ADAPTER_ROWS * ADAPTER_DOTS; e++) partial[e][threadIdx.x] += partial[e][threadIdx.x + half];
  }
  __syncthreads();
  for (int e = threadIdx.x; e < ADAPTER_ROWS * ADAPTER_DOTS; e += blockDim.x) {
    const int own = row + e / ADAPTER_DOTS, at = dot + e % ADAPTER_DOTS;
    if (slot_of_dot(slots, ranks, own, num_rows, at, num_parts, max_rank, part_stride) >= 0)
      dots[(offset)own * all_dots + at] = partial[e][0];
  }
}

// Adds `scaling * dots up` to `out`, in place; rounds once. `up` [max_rank, width] of each slot, its rows
// `rank_stride` apart. Columns below `first_end` are of the first part, below `second_end` of the second.
// Blocks: columns of `2 * blockDim.x` by ADAPTER_ROWS rows. Widths, ends and strides are even.
extern "C" __global__ void adapter_up(
    element* out, const float* dots, const element* up, const int* slots, const int* ranks, const float* scalings,
    int num_rows, int width, int num_parts, int max_rank, int first_end, int second_end, int part_stride,
    offset out_stride, offset slot_stride, offset rank_stride) {
  const int column = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (column >= width) return;
  const int part = (column >= first_end) + (column >= second_end);
  for (int i = 0; i < ADAPTER_ROWS; i++) {
    const offset row = (offset)blockIdx.y * ADAPTER_ROWS + i;
    if (row >= num_rows) return;
    const int slot = slots[row], rank = rank_of(ranks, slot, part, part_stride);
    if (!rank) continue;
    const float* own = dots + (row * num_parts + part) * max_rank;
    const element* weights = up + slot * slot_stride + column;
    float one = 0.0f, two = 0.0f;
    for (int j = 0; j < rank; j++) {
      const pair w = *(const pair*)(weights + j * rank_stride);
      one += own[j] * first(w);
      two += own[j] * second(w);
    }
    const float scaling = scalings[(offset)slot * part_stride + part];
    pair* place = (pair*)(out + row * out_stride + column);
    const pair before = *place;
    *place = pair_of(first(before) + scaling * one, second(before) + scaling * two);
  }
}
