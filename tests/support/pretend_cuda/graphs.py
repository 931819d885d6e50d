"""CUDA graphs and streams: a captured graph is the list of its operations on the memory they were captured on."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
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
        self.cuda_stream = 0

    def wait_stream(self, other: Stream) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """The host waits."""
        self.gpus.wait("stream.synchronize")


class Streams:
    """The current stream of each GPU."""

    def __init__(self) -> None:
        self._current: dict[int, Stream] = {}

    def current(self, device: object = None) -> Stream:
        """`torch.cuda.current_stream`."""
        place = Stream.gpus.device(device)
        return self._current.setdefault(place.index, Stream(place))

    @contextlib.contextmanager
    def entered(self, stream: Stream) -> Iterator[None]:
        """`torch.cuda.stream`."""
        before = self.current(stream.device)
        self._current[stream.device.index] = stream
        try:
            yield
        finally:
            self._current[stream.device.index] = before

    def capture(self, stream: Stream) -> None:
        """A capture makes its stream current."""
        self._current[stream.device.index] = stream


class graph:
    """`torch.cuda.graph`. Without a stream, torch makes one on the current device.

    If something failed in the capture, its end raises too, and torch leaves the capture's stream current (2.13).
    """

    active: CUDAGraph | None = None
    default_stream: Stream | None = None
    captured_on: Stream | None = None
    streams: Streams

    def __init__(self, cuda_graph: CUDAGraph, pool: object = None, stream: Stream | None = None, **_: Any) -> None:
        self.graph = cuda_graph
        if stream is None and graph.default_stream is None:
            graph.default_stream = Stream()
        found = stream or graph.default_stream
        assert found is not None
        self.stream = graph.captured_on = found

    def __enter__(self) -> None:
        graph.active, self.graph.gpus.capturing = self.graph, True
        self.before = self.streams.current(self.stream.device)
        self.kernels_before = self.graph.gpus.kernels.copy()
        self.streams.capture(self.stream)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.graph.kernels = self.graph.gpus.kernels - self.kernels_before
        graph.active, self.graph.gpus.capturing = None, False
        if kind is not None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.streams.capture(self.before)
