"""`FusedStack`: consecutive fused decoder layers in one call of the thread team (`handler.kernels.program`).

With few rows, Python and the start of the threads cost more than a layer's kernels. Intermediate values have fixed
memory, so only the number of rows changes from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handler.kernels.product.rounded.activations import ACTIVATIONS
from handler.linears.join import SideBySide
from handler.linears.kernel_linear import KernelLinear
from handler.runners.layer_kinds import decoder_layers
from handler.runners.slots.adapted_layers import LayerAdapters
from handler.runners.slots.attention import SlotStep, current_step
from handler.runners.slots.fused_layers import FusedDecoderLayer, LayerParts

if TYPE_CHECKING:  # loaded where it is used: it takes 0.3 s
    from handler.kernels.attention.row_attention import RowAttention
    from handler.kernels.low_rank.low_rank import LowRankInput
    from handler.kernels.low_rank.rows import TermRows
    from handler.kernels.norm.row_norm import RowNorm
    from handler.kernels.product.product import BlockProduct, DenseProduct
    from handler.kernels.program import Program, Step

    _Product = BlockProduct | DenseProduct

# Rows of the buffers at first; doubled as needed.
_FIRST_ROWS = 64


class FusedStack(nn.Module):
    """Takes the place of several `FusedDecoderLayer`; called by the model as one of them."""

    def __init__(self, layers: Sequence[FusedDecoderLayer]) -> None:
        """`layers` each pass `can_stack`; either all normalise heads or none does."""
        super().__init__()
        self.parts = [layer.parts for layer in layers]
        self._room: _Room | None = None

    def forward(self, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        """`hidden` `[1, T, width]`; cosines and sines `[1, T, head_dim]`.

        Returns `[1, T, width]`, which the next call overwrites.
        """
        from handler.kernels.attention.row_attention import set_rows

        step = current_step()
        step.calls += len(self.parts)
        num_rows, found = hidden.shape[1], step.model_input
        room = self._room
        if room is None or not room.serves(step, num_rows):
            room = self._room = _Room(self.parts, max(_FIRST_ROWS, 1 << (num_rows - 1).bit_length()), step)
        out = room.hidden[:num_rows]
        out.copy_(hidden[0])
        cosines, sines = (one.contiguous() for one in position_embeddings)
        slots = found.adapter_slots
        chosen = room.base if slots is None or self.parts[0].adapters is None else room.adapted(step, slots)
        set_rows(chosen.program.table, chosen.attention, cosines, sines, found.flat_index, found.position_ids)
        chosen.program.run(num_rows)
        return out[None]


class _Steps(NamedTuple):
    """A program over all layers, and which of its steps are attention."""

    program: Program
    attention: NDArray[np.int64]


class _Shrunk:
    """Memory for what adapters add: slots of rows, and rows shrunk for one input at a time."""

    def __init__(self, layers: Sequence[LayerParts], num_rows: int) -> None:
        self.slots = torch.empty(num_rows, dtype=torch.int64)
        self._width = max(_adapters(layer).width for layer in layers)
        self._rows = torch.empty(num_rows, self._width)

    def step(self, found: LowRankInput, x: int) -> Step:
        """Shrink the rows at the address `x` for the products of an input."""
        return found.shrink_step(x, self.slots.data_ptr(), self._rows.data_ptr(), self._width)

    def terms(self, layer: LayerParts, kernels: _Kernels) -> list[TermRows | None]:
        """What each product of a layer adds, in their order. Each fetches a part of adapters as large as its own."""
        from handler.kernels.low_rank.rows import TermRows

        products = (*kernels.qkv, kernels.output, kernels.gate, kernels.up, kernels.down)
        ends = list(accumulate(one.in_features * one.out_features for one in products))
        table = _adapters(layer).memory.ctypes.data
        ups = [up for found in _adapters(layer).inputs for up in found.ups]
        shrunk = (self._rows.data_ptr(), self.slots.data_ptr(), self._width)
        return [
            TermRows(*shrunk, up, (table, begin, end, ends[-1]))
            for up, begin, end in zip(ups, [0, *ends], ends, strict=False)
        ]


def _adapters(layer: LayerParts) -> LayerAdapters:
    assert layer.adapters is not None
    return layer.adapters


class _Room:
    """Buffers between kernels for a number of rows, and the program over them."""

    def __init__(self, layers: Sequence[LayerParts], num_rows: int, step: SlotStep) -> None:
        first = layers[0]
        self.cache = step.cache
        # The choice of kernels is part of the program.
        self._is_int8 = ACTIVATIONS.is_int8
        self.hidden = torch.empty(num_rows, first.qkv_proj.in_features, dtype=first.dtype)
        self.normed = torch.empty_like(self.hidden)
        self.qkv = self.hidden.new_empty(num_rows, first.qkv_proj.out_features)
        self.attended = self.hidden.new_empty(num_rows, first.o_proj.in_features)
        self.gated = self.hidden.new_empty(num_rows, first.gate_proj.out_features)
        self._layers = layers
        self.base = self._program(step, None)
        self._adapted: tuple[_Steps, _Shrunk, int] | None = None

    def serves(self, step: SlotStep, num_rows: int) -> bool:
        """True if the program can run the step."""
        same = self.cache is step.cache and self._is_int8 == ACTIVATIONS.is_int8
        return same and num_rows <= len(self.hidden)

    def adapted(self, step: SlotStep, slots: Tensor) -> _Steps:
        """The program in which rows of `slots` int64 `[T]` use their adapters; made anew where tables have moved."""
        version = sum(_adapters(layer).version for layer in self._layers)
        if self._adapted is None or self._adapted[2] != version:
            shrunk = _Shrunk(self._layers, len(self.hidden))
            self._adapted = (self._program(step, shrunk), shrunk, version)
        steps, shrunk, _ = self._adapted
        shrunk.slots[: len(slots)].copy_(slots)
        return steps

    def _program(self, step: SlotStep, shrunk: _Shrunk | None) -> _Steps:
        from handler.kernels.program import Program

        steps: list[Step] = []
        attention: list[int] = []
        for layer in self._layers:
            kernels = _kernels(layer)
            assert kernels is not None
            num_qkv = len(kernels.qkv)
            terms: list[TermRows | None] = [None] * (num_qkv + 4)
            if shrunk is not None:
                terms = shrunk.terms(layer, kernels)
            steps += self._until_attention(layer, shrunk, terms[:num_qkv])
            attention.append(len(steps))
            steps += self._from_attention(layer, step, shrunk, terms[num_qkv:])
        return _Steps(Program(steps), np.array(attention))

    def _addresses(self) -> tuple[int, ...]:
        return tuple(one.data_ptr() for one in (self.hidden, self.normed, self.qkv, self.attended, self.gated))

    def _until_attention(self, layer: LayerParts, shrunk: _Shrunk | None, terms: list[TermRows | None]) -> list[Step]:
        kernels = _kernels(layer)
        assert kernels is not None
        hidden, normed, qkv, *_ = self._addresses()
        steps = [kernels.input_norm.step(hidden, normed)]
        if shrunk is not None:
            steps.append(shrunk.step(_adapters(layer).qkv_input, normed))
        return [
            *steps,
            *self._projections(kernels, normed, qkv, terms),
            *self._head_norms(layer, kernels, qkv),
        ]

    def _from_attention(
        self, layer: LayerParts, step: SlotStep, shrunk: _Shrunk | None, terms: list[TermRows | None]
    ) -> list[Step]:
        """As `LayerParts.forward`; sums and products overwrite one of their operands."""
        from handler.kernels.product.product_outputs import PLUS, SILU, TIMES

        kernels = _kernels(layer)
        assert kernels is not None
        hidden, normed, qkv, attended, gated = self._addresses()
        like = self.hidden.new_empty(1, layer.num_kv_heads, layer.head_dim)
        cache = step.cache.layer(layer.layer_idx, like, like)
        window = step.windows.get(layer.layer_idx, layer.sliding_window)
        shrink = _shrinking(layer, shrunk, attended, normed, gated)
        return [
            kernels.attention.step(qkv, attended, cache, layer.scaling, window),
            *shrink[0],
            kernels.output.step(attended, hidden, PLUS, hidden, term=terms[0]),
            kernels.mlp_norm.step(hidden, normed),
            *shrink[1],
            kernels.gate.step(normed, gated, SILU, term=terms[1]),
            kernels.up.step(normed, gated, TIMES, gated, term=terms[2]),
            *shrink[2],
            kernels.down.step(gated, hidden, PLUS, hidden, term=terms[3]),
        ]

    def _projections(self, kernels: _Kernels, normed: int, qkv: int, terms: list[TermRows | None]) -> list[Step]:
        """One product, or several that write side by side."""
        width, steps = self.qkv.shape[1], []
        for product, term in zip(kernels.qkv, terms, strict=True):
            steps.append(product.step(normed, qkv, width=width, term=term))
            qkv += product.out_features * self.qkv.element_size()
        return steps

    def _head_norms(self, layer: LayerParts, kernels: _Kernels, qkv: int) -> list[Step]:
        """In place, of each row's queries and then of its keys."""
        if kernels.query_norm is None or kernels.key_norm is None:
            return []
        keys = qkv + layer.num_heads * layer.head_dim * self.qkv.element_size()
        width = self.qkv.shape[1]
        return [
            kernels.query_norm.step_of_parts(qkv, layer.num_heads, width),
            kernels.key_norm.step_of_parts(keys, layer.num_kv_heads, width),
        ]


def _shrinking(layer: LayerParts, shrunk: _Shrunk | None, attended: int, normed: int, gated: int) -> list[list[Step]]:
    """Steps that shrink the inputs of the output, gate and up, and down products."""
    if shrunk is None:
        return [[], [], []]
    adapters = _adapters(layer)
    inputs = (adapters.o_input, adapters.mlp_input, adapters.down_input)
    return [[shrunk.step(found, x)] for found, x in zip(inputs, (attended, normed, gated), strict=True)]


class _Kernels(NamedTuple):
    """The kernels of one layer, in the order of its steps except for the head norms."""

    input_norm: RowNorm
    qkv: list[_Product]
    attention: RowAttention
    output: _Product
    mlp_norm: RowNorm
    gate: _Product
    up: _Product
    down: _Product
    query_norm: RowNorm | None
    key_norm: RowNorm | None


def _kernels(parts: LayerParts) -> _Kernels | None:
    """The layer's kernels, or None unless all its parts are kernels of ours."""
    if parts.kernel is None:
        return None
    from handler.kernels.norm.row_norm import RowNorm

    norms = [one for one in (parts.input_norm, parts.mlp_norm) if isinstance(one, RowNorm)]
    of_heads = [one for one in (parts.query_norm, parts.key_norm) if one is None or isinstance(one, RowNorm)]
    projections = parts.qkv_proj.layers if isinstance(parts.qkv_proj, SideBySide) else (parts.qkv_proj,)
    linears = (*projections, parts.o_proj, parts.gate_proj, parts.up_proj, parts.down_proj)
    products = [one.product for one in linears if isinstance(one, KernelLinear)]
    if len(norms) < 2 or len(of_heads) < 2 or len(products) < len(linears):
        return None
    *qkv, output, gate, up, down = products
    return _Kernels(norms[0], qkv, parts.kernel, output, norms[1], gate, up, down, *of_heads)


def can_stack(layer: nn.Module) -> bool:
    """True if each of the layer's parts is a kernel of ours."""
    return isinstance(layer, FusedDecoderLayer) and _kernels(layer.parts) is not None


def _num_head_norms(layer: FusedDecoderLayer) -> int:
    return 0 if layer.parts.query_norm is None else 2


def _kind(layer: nn.Module) -> int | None:
    """Layers of one kind may share a stack; None for a layer that cannot be stacked."""
    return _num_head_norms(layer) if isinstance(layer, FusedDecoderLayer) and can_stack(layer) else None


def stack_layers(model: Any, run: Callable[[nn.Module], Tensor]) -> int:
    """Replace consecutive layers of `model` that pass `can_stack` by a `FusedStack`; returns the number of such layers.

    `run` calls a layer on some input. A stack whose result differs from that of its layers in any bit is not used.
    """
    layers = decoder_layers(model)
    if layers is None:
        return 0
    num_stacked = 0
    following: list[nn.Module] = []
    for kind, group in groupby(layers, _kind):
        members = list(group)
        fused = [one for one in members if isinstance(one, FusedDecoderLayer)]
        stack = None if kind is None else FusedStack(fused)
        if stack is not None and torch.equal(run(_OneByOne(members)), run(stack)):
            following.append(stack)
            num_stacked += len(members)
        else:
            following += members
    model.model.layers = nn.ModuleList(following)
    return num_stacked


def all_fused(model: Any) -> bool:
    """True if every decoder layer of `model` is a fused one."""
    layers = decoder_layers(model)
    return layers is not None and all(isinstance(layer, FusedDecoderLayer | FusedStack) for layer in layers)


def fused_parts(model: Any) -> dict[int, LayerParts]:
    """The parts of fused layers of `model`, stacked or not, by their number."""
    parts: list[LayerParts] = []
    for layer in decoder_layers(model) or ():
        if isinstance(layer, FusedStack):
            parts += layer.parts
        elif isinstance(layer, FusedDecoderLayer):
            parts.append(layer.parts)
    return {one.layer_idx: one for one in parts}


class _OneByOne(nn.Module):
    """The layers of a stack, called one by one as the model does."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self._members = list(layers)

    def forward(self, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        for layer in self._members:
            hidden = layer(hidden, position_embeddings=position_embeddings)
        return hidden
