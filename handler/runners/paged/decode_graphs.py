"""CUDA graphs of steps, one for each shape: decodes, or decodes beside prompt chunks. Sampling stays outside."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from handler.runners.paged.step_buffers import Shape
from handler.runners.paged.sync_guard import host_sync

logger = logging.getLogger(__name__)


class Graph(Protocol):
    """A captured forward pass: `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Run it again on the same memory."""


class StaticStep(Protocol):
    """A step over static buffers, as graphs capture it."""

    def forward(self, shape: Shape) -> Tensor:
        """Logits `[num_seqs, vocab]` of what the buffers hold."""

    def clear(self, shape: Shape) -> None:
        """Fill the buffers with padding: a capture, which runs nothing, must not leave its numbers in the graph."""

    def fill_probe(self, shape: Shape) -> None:
        """Fill the buffers with tokens of a known text."""

    def differs(self, shape: Shape, expected: Tensor, found: Tensor) -> str | None:
        """How `found` logits of the probe are wrong, or None."""


@dataclass(slots=True)
class GraphMemory:
    """What graphs share, since only one is replayed at a time: a memory pool and a tensor of logits.

    Kept apart, the logits of 256 sequences and of every smaller batch would take gigabytes.
    """

    logits: Tensor | None = None
    num_rows: int = 0
    pool: Any = None
    stream: torch.cuda.Stream | None = None


class DecodeGraphs:
    """Captured forward passes. If there are none, `reason` says why, and decoding is eager."""

    def __init__(self) -> None:
        self.reason = "not captured"
        self.memory = GraphMemory()
        self._graphs: dict[Shape, Graph] = {}
        self._owns_memory = True

    def __bool__(self) -> bool:
        return bool(self._graphs)

    @property
    def shapes(self) -> Collection[Shape]:
        """The shapes that have a graph."""
        return self._graphs.keys()

    def share_memory(self, other: DecodeGraphs) -> None:
        """Before a capture: take the memory of `other`, which lives as long as these graphs are used."""
        self.memory, self._owns_memory = other.memory, False

    def drop(self, reason: str) -> None:
        """Decode without graphs from now on."""
        self.reason = reason
        self._graphs.clear()
        if self._owns_memory:
            self.memory = GraphMemory()

    def capture(
        self, step: StaticStep, decodes: Sequence[Shape], mixed: Sequence[Shape], ropes: set[str], device: torch.device
    ) -> None:
        """Capture and prove each shape. A shape whose graph is wrong gets none; if the capture of one of `decodes`
        fails, none gets one, and if one of `mixed` fails, none of those.

        `ropes` are rope types whose frequencies follow the batch (handler/runners/rotary.py).
        """
        self.drop(obstacle(ropes, device) or "")
        if self.reason:
            return
        most = max(shape.num_seqs for shape in (*decodes, *mixed))
        self.memory.num_rows = max(most, self.memory.num_rows)
        failed = self._capture_all(step, decodes, device)
        if failed or not self._graphs:
            self.drop(failed or self.reason)
            return
        failed = self._capture_all(step, mixed, device) if mixed else ""
        if failed:
            logger.warning("steps that hold a prompt run without CUDA graphs: %s", failed)
            for shape in mixed:
                self._graphs.pop(shape, None)

    def _capture_all(self, step: StaticStep, shapes: Sequence[Shape], device: torch.device) -> str:
        """Why these shapes have no graph, or nothing. The largest comes first: its memory serves the others."""
        ordered = sorted(shapes, key=lambda shape: shape.num_tokens, reverse=True)
        try:
            step.fill_probe(ordered[0])
            synced = host_sync(lambda: step.forward(ordered[0]))
            if synced:
                return f"the model waits for the host: {synced}"
            for shape in ordered:
                self._capture(step, shape, device)
        except Exception as exc:  # a step without graphs is right in any case
            logger.warning("CUDA graphs could not be captured", exc_info=True)
            torch.cuda.synchronize(device)
            # The end of a capture raises after what failed in it.
            return f"capture failed: {exc.__context__ or exc}"
        return ""

    def _capture(self, step: StaticStep, shape: Shape, device: torch.device) -> None:
        """Run the probe eagerly, capture over padding, replay the probe, and keep the graph if both say the same."""
        step.fill_probe(shape)
        with self._side_stream(device):
            # This pass also loads what a capture may not: kernels, and workspaces of the stream.
            expected = step.forward(shape)
        step.clear(shape)
        out = self._output(expected)
        graph = self._captured(step, shape, out, device)
        step.fill_probe(shape)
        graph.replay()
        wrong = step.differs(shape, expected, out)
        if wrong:
            self.reason = f"decoding by them is wrong: {wrong}"
            logger.warning("no CUDA graph for %d decodes and %d tokens of prompts: %s", *shape, wrong)
        else:
            self._graphs[shape] = graph

    def _captured(self, step: StaticStep, shape: Shape, out: Tensor, device: torch.device) -> Graph:
        memory = self.memory
        memory.pool = memory.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with self._side_stream(device), torch.cuda.graph(graph, pool=memory.pool, stream=memory.stream):
            out.copy_(step.forward(shape))
        return graph

    @contextmanager
    def _side_stream(self, device: torch.device) -> Iterator[None]:
        """The stream of all captures, which waits for the current one and is waited for.

        torch leaves a capture's stream current if the end of the capture raises; leaving this block ends that too.
        """
        before = torch.cuda.current_stream(device)
        stream = self.memory.stream = self.memory.stream or torch.cuda.Stream(device)
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            yield
        before.wait_stream(stream)

    def _output(self, logits: Tensor) -> Tensor:
        """Where a graph writes its logits: the first rows of one tensor, as large as the largest step's."""
        if self.memory.logits is None:
            self.memory.logits = logits.new_empty(self.memory.num_rows, logits.shape[1])
        return self.memory.logits[: len(logits)]

    def replay(self, shape: Shape) -> Tensor:
        """Logits `[num_seqs, vocab]` for what the buffers hold; the next replay overwrites them."""
        self._graphs[shape].replay()
        assert self.memory.logits is not None
        return self.memory.logits[: shape.num_seqs]


def obstacle(ropes: set[str], device: torch.device) -> str | None:
    """Why no step can be captured on `device`, or None."""
    if device.type != "cuda":
        return f"the device is {device.type}"
    return f"rope type {', '.join(sorted(ropes))} depends on the batch" if ropes else None
