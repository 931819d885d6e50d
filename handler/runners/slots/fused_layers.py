"""Decoder layers of the Llama shape in fewer operations, over the same weights. For CPU, where each operation costs.

A stock layer dispatches about 85 operations a step, a fused one about 30: query, key and value in one product, rotary
embedding of queries and keys together, and the residual sums, SiLU and its product inside the matrix products. The
kind of a layer (`handler.runners.layer_kinds`) decides. Each replacement is compared with the layer it replaces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from handler.kernels.compiler import usable
from handler.linears.choice import empty, fastest, is_packed, refill
from handler.linears.join import together
from handler.linears.linear import is_plain
from handler.runners.attention import LayerTraits
from handler.runners.layer_kinds import LLAMA, decoder_layers, layer_kind, layer_linears, relative_gap, sliding_window
from handler.runners.slots.adapted_layers import LayerAdapters, adapted_forward
from handler.runners.slots.attention import current_step

if TYPE_CHECKING:  # loaded where it is used: it takes 0.3 s
    from handler.kernels.attention.row_attention import RowAttention

logger = logging.getLogger(__name__)

# Codes of cached keys and values that the attention kernel reads.
_KERNEL_CODES = (None, torch.int8)


class FusedDecoderLayer(nn.Module):
    """Takes the place of a decoder layer; called by the model as the layer was, without cache or mask."""

    def __init__(self, layer: Any, qkv_proj: nn.Module, kv_codes: torch.dtype | None = None) -> None:
        """`layer` is a stock layer of the shape, `qkv_proj` its query, key and value projections together.

        `kv_codes` is the 8-bit type of keys and values in the cache, if they have one.
        """
        super().__init__()
        # In a tuple, so that it is no submodule.
        self._replaced: tuple[Any, ...] = (layer,)
        # A plain attribute: looking up a submodule costs half a microsecond, a call through it one.
        self.parts = LayerParts(layer, qkv_proj, kv_codes)
        self._forward = self.parts.forward

    def forward(self, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        """`hidden` `[1, T, width]`; cosines and sines `[1, T, head_dim]`. Returns `[1, T, width]`."""
        return self._forward(hidden, *position_embeddings)

    def empty_replaced(self) -> None:
        """Free the dense weights of the layer that was replaced; `restored` fills them again."""
        for linear in self._plain_linears(layer_linears(self._replaced[0])):
            empty(linear)

    def restored(self) -> nn.Module:
        """The layer that was replaced, with its weights as they were, bit for bit."""
        layer, parts = self._replaced[0], self.parts
        linears: list[Any] = layer_linears(layer)
        own = dict(zip(linears[3:], (parts.o_proj, parts.gate_proj, parts.up_proj, parts.down_proj), strict=True))
        if self._plain_linears(linears[:3]):
            weights = parts.qkv_proj.weight.split([linear.out_features for linear in linears[:3]])
            for linear, weight in zip(linears[:3], weights, strict=True):
                if isinstance(linear, nn.Linear):
                    refill(linear, weight)
        for linear in self._plain_linears(linears[3:]):
            refill(linear, own[linear].weight)
        return layer  # type: ignore[no-any-return]

    def forget_replaced(self) -> None:
        """Free the layer that was replaced."""
        self._replaced = ()

    def _plain_linears(self, linears: list[Any]) -> list[nn.Linear]:
        """Those that are not packed."""
        return [linear for linear in linears if isinstance(linear, nn.Linear)]


class LayerParts:
    """What a fused layer holds and does."""

    def __init__(self, layer: Any, qkv_proj: nn.Module, kv_codes: torch.dtype | None) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.layer_idx = int(attention.layer_idx)
        self.scaling = float(attention.scaling)
        self.head_dim = int(attention.head_dim)
        self.num_heads = attention.q_proj.out_features // self.head_dim
        self.num_kv_heads = attention.k_proj.out_features // self.head_dim
        self.sliding_window = sliding_window(attention)
        self.qkv_proj = fastest(qkv_proj)
        self.o_proj = fastest(attention.o_proj)
        self.gate_proj, self.up_proj, self.down_proj = map(fastest, (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        self.input_norm = rms_norm(layer.input_layernorm)
        self.mlp_norm = rms_norm(layer.post_attention_layernorm)
        self.query_norm = rms_norm(attention.q_norm) if hasattr(attention, "q_norm") else None
        self.key_norm = rms_norm(attention.k_norm) if hasattr(attention, "k_norm") else None
        self.dtype = layer.input_layernorm.weight.dtype
        self.kernel = _row_attention(self.num_heads, self.num_kv_heads, self.head_dim, self.dtype, kv_codes)
        # Set once an adapter is resident.
        self.adapters: LayerAdapters | None = None

    def forward(self, hidden: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        if self.adapters is not None:
            slots = current_step().model_input.adapter_slots
            if slots is not None:
                return adapted_forward(self, self.adapters, slots, hidden, (cosines, sines))
        attended = self.attended(self.qkv_proj.forward(self.input_norm(hidden)), cosines, sines)
        hidden = self.o_proj.plus(attended.reshape(1, hidden.shape[1], -1), hidden)
        normed = self.mlp_norm(hidden)
        return self.down_proj.plus(self.up_proj.times(normed, self.gate_proj.silu(normed)), hidden)

    def attended(self, qkv: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attention's output `[T, heads, head_dim]`, or the same as rows, of what the projections made."""
        num_rotated = self.num_heads + self.num_kv_heads
        heads = qkv.view(qkv.shape[1], -1, self.head_dim)
        return self._attend(self._normed(heads[:, :num_rotated]), heads[:, num_rotated:], cosines, sines)

    def _attend(self, heads: Tensor, values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        step = current_step()
        if self.kernel is not None:
            return step.attend_rows(
                self.kernel, self.layer_idx, heads, values, cosines, sines, self.scaling, self.sliding_window
            )
        rotated = self._rotate(heads, cosines, sines)
        query, key = rotated[:, : self.num_heads], rotated[:, self.num_heads :]
        return step.attend(self.layer_idx, query, key, values, LayerTraits(self.scaling, self.sliding_window))

    def _normed(self, heads: Tensor) -> Tensor:
        if self.query_norm is None or self.key_norm is None:
            return heads
        return torch.cat(
            (self.query_norm(heads[:, : self.num_heads]), self.key_norm(heads[:, self.num_heads :])), dim=1
        )

    def _rotate(self, heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Rotary embedding of `heads` `[T, H, head_dim]`, whose halves are the parts of complex numbers."""
        half = self.head_dim // 2
        cosines, sines = cosines.transpose(0, 1), sines.transpose(0, 1)
        out = heads * cosines
        out[..., :half].addcmul_(heads[..., half:], sines[..., :half], value=-1)
        out[..., half:].addcmul_(heads[..., :half], sines[..., half:])
        return out


class _Norm:
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, norm: Any) -> None:
        self.weight = norm.weight.detach()
        self.eps = float(norm.variance_epsilon)
        self.shape = tuple(norm.weight.shape)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.rms_norm(x, self.shape, self.weight, self.eps)


def rms_norm(norm: Any) -> Callable[[Tensor], Tensor]:
    """What computes a root-mean-square norm with the weight and epsilon of `norm`."""
    weight = norm.weight.detach()
    if not usable(weight.dtype):
        return _Norm(norm)
    from handler.kernels.norm.row_norm import RowNorm

    return RowNorm(weight, float(norm.variance_epsilon))


def _row_attention(
    num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, kv_codes: torch.dtype | None
) -> RowAttention | None:
    if not usable(dtype) or kv_codes not in _KERNEL_CODES:
        return None
    from handler.kernels.attention.row_attention import row_attention

    return row_attention(num_heads, num_kv_heads, head_dim, dtype, in_bytes=kv_codes is not None)


def fuse_layers(
    model: Any, run: Callable[[nn.Module], Tensor], tolerance: float, kv_codes: torch.dtype | None = None
) -> int:
    """Replace the decoder layers of `model` that have the shape, one by one; returns how many.

    `run` calls a layer on some input. A layer whose replacement answers differently, by more than `tolerance` of the
    largest value, stays as it is. `kv_codes` is the 8-bit type of keys and values in the cache, if they have one.
    """
    layers = decoder_layers(model)
    if layers is None:
        return 0
    num_fused = 0
    for i, layer in enumerate(layers):
        if not _llama_shaped(layer):
            continue
        fused = FusedDecoderLayer(layer, together(layer_linears(layer)[:3]), kv_codes).eval()
        gap = float(relative_gap(run(layer).float(), run(fused).float()))
        if not gap <= tolerance:
            logger.warning("decoder layer %d is not fused: the results differ by %.2g, relative", i, gap)
            continue
        fused.empty_replaced()
        layers[i] = fused
        num_fused += 1
    return num_fused


def llama_shaped(model: Any) -> bool:
    """True if all decoder layers have the shape."""
    layers = decoder_layers(model)
    return layers is not None and all(map(_llama_shaped, layers))


def _llama_shaped(layer: Any) -> bool:
    if layer_kind(layer) is not LLAMA:
        return False
    linears: list[Any] = layer_linears(layer)
    biases = {linear.bias is None for linear in linears[:3]}
    return len(biases) == 1 and all(is_plain(linear) or is_packed(linear) for linear in linears)
