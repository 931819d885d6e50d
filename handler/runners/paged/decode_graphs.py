"""CUDA graphs of the decode step, one for each batch size; sampling stays outside."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from handler.runners.paged.sync_guard import host_sync

logger = logging.getLogger(__name__)

_WARM_UP_RUNS = 2


class Graph(Protocol):
    """A captured forward pass: `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Run it again on the same memory."""


class DecodeGraphs:
    """Captured forward passes. If there are none, `reason` says why, and decoding is eager."""

    def __init__(self) -> None:
        self.reason = "not captured"
        self._graphs: dict[int, Graph] = {}
        self._logits: dict[int, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._graphs)

    def drop(self, reason: str) -> None:
        """Decode without graphs from now on."""
        self.reason = reason
        self._graphs.clear()
        self._logits.clear()

    def capture(
        self, forward: Callable[[int], Tensor], sizes: list[int], ropes: set[str], device: torch.device
    ) -> None:
        """Capture `forward(size)`, logits `[size, vocab]` of static buffers, for each size; captures none if one fails.

        The buffers must hold padding rows. The largest is captured first, and all share its memory pool. `ropes` are
        rope types whose frequencies follow the batch (handler/runners/rotary.py).
        """
        self.drop(obstacle(forward, sizes[0], ropes, device) or "")
        if self.reason:
            return
        try:
            self._capture(forward, sorted(sizes, reverse=True), device)
        except Exception as exc:  # decoding without graphs is right in any case
            logger.warning("CUDA graphs could not be captured", exc_info=True)
            self.drop(f"capture failed: {exc}")
            torch.cuda.synchronize(device)

    def _capture(self, forward: Callable[[int], Tensor], sizes: list[int], device: torch.device) -> None:
        pool = torch.cuda.graph_pool_handle()
        for size in sizes:
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):
                    forward(size)
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = forward(size)
            self._graphs[size], self._logits[size] = graph, logits

    def replay(self, size: int) -> Tensor:
        """Logits `[size, vocab]` for what the buffers hold; overwritten by the next replay of the same size."""
        self._graphs[size].replay()
        return self._logits[size]


def obstacle(forward: Callable[[int], Tensor], size: int, ropes: set[str], device: torch.device) -> str | None:
    """Why this model's decode step cannot be captured on `device`, or None."""
    if device.type != "cuda":
        return f"the device is {device.type}"
    if ropes:
        return f"rope type {', '.join(sorted(ropes))} depends on the batch"
    synced = host_sync(lambda: forward(size))
    return f"the model waits for the host: {synced}" if synced else None
