"""CUDA kernels that NVRTC compiles to machine code at start. They know tensors, never models.

`layer.cu` is the source, `nvrtc` compiles it, `driver` loads and launches, `layer_kernels` checks tensors and calls.
docs/decisions/0101.
"""
