"""The attention function every model layer calls, and the step it runs in.

transformers looks the function up by name (`AttentionInterface`), builds no mask for it, and passes new keys and
values with rotary applied. What the layer does not know, the cache and who owns which row, comes from `STEP`,
because some families drop extra keyword arguments on the way (stablelm, nemotron).
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface

from handler.seam.errors import UnsupportedModel

ATTENTION_NAME = "engine"


class UnsupportedAttention(Exception):
    """A layer asks for something this runner's attention does not compute."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerTraits:
    """What a layer wants: `scale` of the scores, `window` (0 none), `softcap` (0 none), `sinks` `[Hq]` or None."""

    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: Tensor | None = None


class AttentionStep(Protocol):
    """One forward pass of a runner. `calls` counts attention calls, for the start-up trial."""

    calls: int

    def attend(self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, traits: LayerTraits) -> Tensor:
        """Store the step's new keys and values, then attend with the step's cache.

        `query` `[T, Hq, D]`, `key` `[T, Hkv, D]`, `value` `[T, Hkv, Dv]` -> `[T, Hq, Dv]`. The configuration's window,
        where it names one for the layer, comes before `traits.window`. Raises UnsupportedAttention.
        """


STEP: ContextVar[AttentionStep] = ContextVar("step")


def engine_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: `AttentionStep.attend` in its layout.

    `query` `[1, Hq, T, D]`, `key` and `value` `[1, Hkv, T, Dk or Dv]` hold the flattened new tokens of all sequences.
    Returns `([1, T, Hq, Dv], None)`. Raises UnsupportedAttention if a mask or dropout arrives.
    """
    if attention_mask is not None or dropout:
        raise UnsupportedAttention("attention mask or dropout given to the engine's attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    traits = LayerTraits(scale, sliding_window or 0, softcap or 0.0, s_aux)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    layer_idx = int(module.layer_idx)  # type: ignore[arg-type]
    return STEP.get().attend(layer_idx, q, k, v, traits)[None], None


def layer_windows(config: Any) -> dict[int, int]:
    """Sliding window per layer from `config.layer_types`; several families build the mask but never pass the window.

    Raises UnsupportedModel for any other kind of layer: where a chunk of 8,192 tokens ends, for one, lies beyond
    what a trial at start can afford to run.
    """
    layer_types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) or 0
    if not layer_types:
        return {}
    foreign = sorted(set(layer_types) - {"full_attention", "sliding_attention"})
    if foreign:
        raise UnsupportedModel(f"{config.model_type} has layers of type {', '.join(foreign)}")
    return {i: window if kind == "sliding_attention" else 0 for i, kind in enumerate(layer_types)}


AttentionInterface.register(ATTENTION_NAME, engine_attention)
