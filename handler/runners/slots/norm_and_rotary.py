"""Rotary embedding and last norm of a model whose layers are fused, in fewer operations. For CPU.

Rotary angles depend on the position only (`handler.runners.rotary` ensures it), so they are computed once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from handler.linears.linear import has_own_code
from handler.runners.layer_kinds import relative_gap
from handler.runners.rotary import changing_ropes
from handler.runners.slots.fused_layers import rms_norm

# The norms of the models whose layers `handler.runners.slots.fused_layers` replaces.
_NORMS = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"})


class FusedNorm(nn.Module):
    """Takes the place of a root-mean-square norm."""

    def __init__(self, norm: Any) -> None:
        """`norm` has a `weight` `[width]` and `variance_epsilon`."""
        super().__init__()
        self._norm = rms_norm(norm)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., width]`, both ways."""
        return self._norm(hidden)


class RotaryTable(nn.Module):
    """Takes the place of a rotary embedding: cosines and sines of every position, looked up."""

    # Tells `handler.runners.rotary` that the angles never change.
    rope_type = "default"

    def __init__(self, rotary: nn.Module, num_positions: int, like: Tensor) -> None:
        """`num_positions` at first; `like` has the dtype and device of the hidden states."""
        super().__init__()
        self._rotary, self._like = rotary, like
        self._cosines, self._sines = self._angles(num_positions)

    def _angles(self, num_positions: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(num_positions, device=self._like.device)
        cosines, sines = self._rotary(self._like, position_ids=positions[None])
        return cosines[0], sines[0]

    def forward(self, _hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """`position_ids` `[1, T]` -> two of `[1, T, head_dim]`."""
        positions = position_ids[0]
        num_positions = int(positions.max()) + 1
        if num_positions > len(self._cosines):
            self._cosines, self._sines = self._angles(2 * num_positions)
        return self._cosines.index_select(0, positions)[None], self._sines.index_select(0, positions)[None]


@torch.inference_mode()
def fuse_norm_and_rotary(model: Any, num_positions: int, tolerance: float, replaced: dict[str, nn.Module]) -> None:
    """Replace the last norm and the rotary embedding of `model`, all of whose layers are fused.

    Adds the modules that were replaced to `replaced`, by attribute of `model.model`. A norm whose result differs by
    more than `tolerance`, relative, is not replaced; nor is a rotary embedding whose angles differ at all.
    """
    inner = model.model
    generator = torch.Generator().manual_seed(0)
    embedding = inner.embed_tokens.weight
    rows = torch.randn(1, 3, embedding.shape[1], generator=generator).to(embedding.dtype)
    if type(inner.norm).__name__ in _NORMS and not has_own_code(inner.norm):
        norm = FusedNorm(inner.norm).eval()
        if relative_gap(inner.norm(rows).float(), norm(rows).float()) <= tolerance:
            replaced["norm"], inner.norm = inner.norm, norm
    rotary = inner.rotary_emb
    known = isinstance(getattr(rotary, "rope_type", None), str) and not isinstance(rotary, RotaryTable)
    if known and not has_own_code(rotary) and not changing_ropes(model):
        table = RotaryTable(rotary, num_positions, rows)
        positions = torch.randint(num_positions, (1, 64), generator=generator)
        pairs = zip(rotary(rows, position_ids=positions), table(rows, positions), strict=True)
        if all(torch.equal(*pair) for pair in pairs):
            replaced["rotary_emb"], inner.rotary_emb = rotary, table.eval()
