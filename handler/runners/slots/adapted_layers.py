"""What adapters add to a fused layer: rows are shrunk once for each input, and each product adds its part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from handler.linears.linear import Linear

if TYPE_CHECKING:  # loaded where it is used: it takes 0.3 s
    from handler.kernels.low_rank.low_rank import Factors, PackedFactors

# How far products fetch ahead of use, as a part of a layer. What a product is about to read is there, and less than a
# second cache has been fetched since.
LEAD = 0.4

# Modules of a layer by the input that they multiply, in the order in which their outputs stand side by side.
INPUTS: tuple[tuple[str, ...], ...] = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


class LayerAdapters:
    """The resident adapters of one fused layer, whose `LayerParts` (`fused_layers`) are `parts` here."""

    def __init__(self, parts: Any, num_slots: int) -> None:
        from handler.linears.low_rank_linear import LowRankLinear

        head = parts.head_dim
        heads = [parts.num_heads * head, parts.num_kv_heads * head, parts.num_kv_heads * head]
        self.qkv, self.qkv_input = _adapted(parts, parts.qkv_proj, _sections(parts.qkv_proj, heads), num_slots)
        self.o, self.o_input = _adapted(parts, parts.o_proj, [[parts.o_proj.out_features]], num_slots)
        self.down, self.down_input = _adapted(parts, parts.down_proj, [[parts.down_proj.out_features]], num_slots)
        width = parts.gate_proj.out_features
        self.gate, self.mlp_input = _adapted(parts, parts.gate_proj, [[width], [width]], num_slots)
        self.up = LowRankLinear(parts.up_proj, self.mlp_input.ups[1:])
        # Numbers of the widest shrunk row so far; and a number that grows with what makes programs void.
        self.width = self.version = 0
        self.inputs = (self.qkv_input, self.o_input, self.mlp_input, self.down_input)
        # What products of this layer fetch of a slot's adapter: address and cache lines.
        self.memory = np.zeros((num_slots, 2), np.int64)

    def packed(self, factors: Mapping[str, Factors]) -> list[PackedFactors]:
        """`factors`, by the names of `INPUTS`, as kernels read them; others are not looked at. Any thread may do it."""
        return [
            one.packed(_by_sections([factors.get(name) for name in names], [len(up.ends) for up in one.ups]))
            for one, names in zip(self.inputs, INPUTS, strict=True)
        ]

    def put(self, slot: int, packed: Sequence[PackedFactors], memory: Tensor) -> None:
        """Let rows of the slot add what is packed, by input, which lies in `memory`, uint8.

        The next layer's memory follows, or none: an address may be fetched that is not there.
        """
        from handler.kernels.low_rank.ahead import LINE_BYTES

        for one, given in zip(self.inputs, packed, strict=True):
            one.hold(slot, given)
        lines = memory.nbytes // LINE_BYTES
        self.memory[slot] = (memory.data_ptr() + int(lines * LEAD) * LINE_BYTES, lines)
        width = max(one.width for one in self.inputs)
        if width > self.width:
            self.width, self.version = width, self.version + 1

    def clear(self, slot: int) -> None:
        """Let rows of the slot add nothing."""
        for one in self.inputs:
            one.clear(slot)
        self.memory[slot] = 0

    def grow(self, num_slots: int) -> None:
        """Make room for more slots."""
        for one in self.inputs:
            one.grow(num_slots)
        memory = np.zeros((num_slots, 2), np.int64)
        memory[: len(self.memory)] = self.memory
        self.memory = memory
        self.version += 1


def _adapted(parts: Any, linear: Linear, sizes: Sequence[Sequence[int]], num_slots: int) -> Any:
    """The layer with its adapters, and what they have for its input: `sizes` as `LowRankInput` takes them."""
    from handler.kernels.low_rank.low_rank import LowRankInput
    from handler.linears.low_rank_linear import LowRankLinear, parts_of

    found = LowRankInput(linear.in_features, sizes, num_slots, parts.dtype)
    return LowRankLinear(linear, found.ups[: len(parts_of(linear))]), found


def _sections(linear: Linear, sizes: Sequence[int]) -> list[list[int]]:
    """`sizes`, outputs of what was joined, for each of the layers side by side."""
    from handler.linears.low_rank_linear import parts_of

    rest, found = list(sizes), []
    for part in parts_of(linear):
        own = [rest.pop(0)]
        while sum(own) < part.out_features:
            own.append(rest.pop(0))
        found.append(own)
    return found


def _by_sections(factors: list[Factors | None], counts: list[int]) -> list[list[Factors | None]]:
    rest: Iterator[Factors | None] = iter(factors)
    return [[next(rest) for _ in range(count)] for count in counts]


def adapted_forward(parts: Any, adapters: LayerAdapters, slots: Tensor, hidden: Tensor, angles: Any) -> Tensor:
    """As `LayerParts.forward`, with the adapters of `slots` int64 `[T]`; `angles` are cosines and sines."""
    num_rows = hidden.shape[1]
    normed = parts.input_norm(hidden)
    qkv = adapters.qkv.forward(normed, adapters.qkv_input.shrunk(normed, slots))
    attended = parts.attended(qkv, *angles).reshape(1, num_rows, -1)
    hidden = adapters.o.plus(attended, hidden, adapters.o_input.shrunk(attended, slots))
    normed = parts.mlp_norm(hidden)
    rows = adapters.mlp_input.shrunk(normed, slots)
    gated = adapters.up.times(normed, adapters.gate.silu(normed, rows), rows)
    out: Tensor = adapters.down.plus(gated, hidden, adapters.down_input.shrunk(gated, slots))
    return out
