"""Names of products that some families keep in one module, and of their parts there, in order."""

from __future__ import annotations

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def num_parts(path: str) -> int:
    """How many of peft's modules the one at `path` may hold; 1 for one that is not fused."""
    return len(FUSED.get(path.rpartition(".")[2], (path,)))
