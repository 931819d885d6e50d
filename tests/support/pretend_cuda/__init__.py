"""A CUDA device that is not there: tensors that say `cuda:N`, hold their numbers on CPU and obey CUDA's rules.

`pretend_cuda(...)` installs it for the length of a `with` block. It refuses what a GPU refuses (tensors of two devices
in one operation, host waits and pageable uploads during capture, what the attention kernel does not take, memory that
is spent), counts kernels, host waits and uploads by source line, and replays a captured graph on the memory it was
captured on. It says nothing about speed, rounding on a GPU, or kernels that torch chooses by device.
"""

from tests.support.pretend_cuda.gpus import GIB, GPU_KINDS, Gpu, Gpus, gpus_of
from tests.support.pretend_cuda.install import pretend_cuda

__all__ = ["GIB", "GPU_KINDS", "Gpu", "Gpus", "gpus_of", "pretend_cuda"]
