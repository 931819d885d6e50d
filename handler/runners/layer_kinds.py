"""Decoder layers of transformers whose computation is known, so that faster code can take their place.

The class decides, never the attributes: Granite's multipliers and Gemma's norms look like Llama's from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from handler.linears.linear import has_own_code


@dataclass(frozen=True, slots=True)
class LayerKind:
    """Norm, attention with full rotary embedding, norm, gated MLP; norms of each head's query and key if there are any.

    `one_plus`: norms multiply by 1 + weight in float32 (Gemma), else by the weight after rounding. `norms_outputs`:
    attention's and the MLP's outputs are normed before they are added. `activations`: classes of the gate's function.
    """

    one_plus: bool
    norms_outputs: bool
    activations: frozenset[str]


_GELU_TANH = frozenset({"GELUTanh"})
LLAMA = LayerKind(one_plus=False, norms_outputs=False, activations=frozenset({"SiLU", "SiLUActivation"}))
GEMMA = LayerKind(one_plus=True, norms_outputs=False, activations=_GELU_TANH)
GEMMA_2 = LayerKind(one_plus=True, norms_outputs=True, activations=_GELU_TANH)
_KINDS = {
    "LlamaDecoderLayer": LLAMA,
    "MistralDecoderLayer": LLAMA,
    "Qwen2DecoderLayer": LLAMA,
    "Qwen3DecoderLayer": LLAMA,
    "GemmaDecoderLayer": GEMMA,
    "Gemma2DecoderLayer": GEMMA_2,
    "Gemma3DecoderLayer": GEMMA_2,
}


def layer_kind(layer: Any) -> LayerKind | None:
    """What `layer` computes; None for other classes, and if a part of it has code of its own."""
    kind = _KINDS.get(type(layer).__name__)
    if kind is None or not type(layer).__module__.startswith("transformers.models."):
        return None
    if any(map(has_own_code, layer.modules())) or type(layer.mlp.act_fn).__name__ not in kind.activations:
        return None
    return kind


def decoder_layers(model: Any) -> nn.ModuleList | None:
    """The layers of a model that has them where Llama has."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    return layers if isinstance(layers, nn.ModuleList) else None


def layer_linears(layer: Any) -> list[nn.Module]:
    """Query, key, value and output projections, then gate, up and down."""
    attention = [getattr(layer.self_attn, f"{name}_proj") for name in "qkvo"]
    return attention + [getattr(layer.mlp, f"{name}_proj") for name in ("gate", "up", "down")]


def sliding_window(attention: Any) -> int:
    """Keys that the attention module sees, 0 for all. Mistral's takes it from the configuration, Qwen's where it slides
    has it."""
    holder = attention if hasattr(attention, "sliding_window") else attention.config
    return getattr(holder, "sliding_window", None) or 0


def relative_gap(expected: Tensor, got: Tensor) -> Tensor:
    """The largest difference relative to the largest number expected, at least 1; a scalar, NaN if there is one."""
    return (expected - got).abs().max() / expected.abs().max().clamp(min=1.0)
