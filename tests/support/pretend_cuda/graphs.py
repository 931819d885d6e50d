"""CUDA graphs and streams: a captured graph is the list of its operations on the memory they were captured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.support.pretend_cuda.gpus import Gpus


@dataclass(slots=True)
class Recorded:
    """One operation of a graph, on plain CPU tensors, and the tensors that it made then."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]


class CUDAGraph:
    """`torch.cuda.CUDAGraph`. Its operations hold their tensors, so a graph keeps its memory."""

    gpus: Gpus

    def __init__(self, *_: Any, **__: Any) -> None:
        self.operations: list[Recorded] = []
        self.kernels: Counter[str] = Counter()

    def replay(self) -> None:
        """Run every operation again and write what it makes to where it was made at the capture."""
        with torch.inference_mode():
            for recorded in self.operations:
                found = tree_leaves(recorded.function(*recorded.args, **recorded.kwargs))
                for old, new in zip(recorded.outputs, [t for t in found if isinstance(t, Tensor)], strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)
        self.gpus.kernels.update(self.kernels)
        self.gpus.replays += 1

    def reset(self) -> None:
        """Free the graph's memory."""
        self.operations.clear()
        self.kernels.clear()


class Stream:
    """`torch.cuda.Stream`: everything runs at once, in order."""

    gpus: Gpus

    def __init__(self, device: object = None, **_: Any) -> None:
        self.gpus.entered(device)
        self.device = self.gpus.device(device)

    def wait_stream(self, other: Stream) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """The host waits."""
        self.gpus.wait("stream.synchronize")


class graph:
    """`torch.cuda.graph`. Without a stream, torch makes one on the current device."""

    active: CUDAGraph | None = None
    default_stream: Stream | None = None

    def __init__(self, cuda_graph: CUDAGraph, pool: object = None, stream: Stream | None = None, **_: Any) -> None:
        self.graph = cuda_graph
        if stream is None and graph.default_stream is None:
            graph.default_stream = Stream()
        self.stream = stream or graph.default_stream

    def __enter__(self) -> None:
        graph.active, self.graph.gpus.capturing = self.graph, True
        self.kernels_before = self.graph.gpus.kernels.copy()

    def __exit__(self, *_: object) -> None:
        self.graph.kernels = self.graph.gpus.kernels - self.kernels_before
        graph.active, self.graph.gpus.capturing = None, False
