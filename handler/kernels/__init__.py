"""Kernels compiled at start: numba's for CPU, NVRTC's for CUDA. They know tensors; without them all works on torch.

`cuda/` has CUDA's. The rest is CPU's: `attention/`, `product/` and `norm/` are the kernels. `compiler` compiles and
caches them; `team` runs one on torch's OpenMP threads; `program` runs several in one call. `vectors` (AVX-512), `tiles`
(AMX) and `primitives` (memory, threads) emit instructions. Why: torch's decode attention spends more on calls than on
products, docs/decisions/0009.
"""
