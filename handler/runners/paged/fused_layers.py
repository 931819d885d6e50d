"""Decoder layers in a quarter of the kernels, over the same weights, on CUDA. docs/decisions/0101.

Query, key and value are one product, gate and up another; a norm, the gated activation, and rotary embedding with the
cache write are one kernel each (`handler.kernels.cuda`). Each piece is compared with the modules it replaces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from handler.kernels.cuda.layer_kernels import Heads, LayerKernels, NormWeight
from handler.linears.join import join
from handler.runners.attention import STEP, LayerTraits
from handler.runners.layer_kinds import LayerKind, sliding_window
from handler.runners.paged.attention import PagedStep

_Piece = Callable[[], Tensor]
# Adds to a product, the second, of the first, in place, what the running step's adapters add.
_Addition = Callable[[Tensor, Tensor], None]


class FusedLayer(nn.Module):
    """Takes the place of a decoder layer; called by the model as the layer was, without cache or mask.

    The layer stays inside, as `replaced`, and owns the weights.
    """

    def __init__(self, layer: Any, kind: LayerKind, kernels: LayerKernels) -> None:
        """`layer` is a stock layer of the `kind`. Its joined weights become views of the whole."""
        super().__init__()
        self.replaced = layer
        self._kernels = kernels
        self._attention = _Attention(layer.self_attn, kind, kernels)
        self._mlp = _Mlp(layer.mlp, kind, kernels)
        self._input_norm = norm_weight(layer.input_layernorm, kind)
        self._attention_norm = norm_weight(layer.post_attention_layernorm, kind)
        self._mlp_norms: tuple[NormWeight, NormWeight] | None = None
        if kind.norms_outputs:
            after = layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm
            self._mlp_norms = norm_weight(after[0], kind), norm_weight(after[1], kind)

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **options: Any) -> Tensor:
        """`hidden_states` `[1, T, width]`; cosines and sines `[1, T, head_dim]`. Returns `[1, T, width]`.

        Outside a step, where the model has its own attention, the stock layer runs.
        """
        if not isinstance(STEP.get(None), PagedStep):
            found: Tensor = self.replaced(hidden_states, position_embeddings=position_embeddings, **options)
            return found
        kernels = self._kernels
        attended = self._attention(kernels.norm(hidden_states, self._input_norm), position_embeddings)
        if self._mlp_norms is None:
            hidden, normed = kernels.add_norm(attended, hidden_states, self._attention_norm)
            return hidden + self._mlp(normed)
        hidden = kernels.norm_add(attended, hidden_states, self._attention_norm)
        before, after = self._mlp_norms
        return kernels.norm_add(self._mlp(kernels.norm(hidden, before)), hidden, after)

    def let_adapters_add(self, addition_to: Callable[[list[Any]], _Addition]) -> None:
        """Tell joined projections what adapters add to them. The others are called as modules, whose hooks do it."""
        for joined in (self._attention.qkv, self._mlp.gate_up):
            joined.addition = addition_to(joined.parts)

    def difference(self, hidden: Tensor, options: dict[str, Any], tolerance: float) -> str | None:
        """The first piece that says something else than the module it replaces, or None; and by how much.

        `hidden` `[1, T, width]` and `options` are what the model called the layer with, in the present step.
        """
        layer = self.replaced
        normed = layer.input_layernorm(hidden)
        pieces: dict[str, tuple[_Piece, _Piece]] = {
            "norm": (lambda: normed, lambda: self._kernels.norm(hidden, self._input_norm)),
            "attention": (
                lambda: layer.self_attn(hidden_states=normed, **options)[0],
                lambda: self._attention(normed, options["position_embeddings"]),
            ),
            "MLP": (lambda: layer.mlp(normed), lambda: self._mlp(normed)),
            "layer": (lambda: layer(hidden, **options), lambda: self(hidden, **options)),
        }
        return next((found for name in pieces if (found := _difference(name, *pieces[name], tolerance))), None)


class FusedNorm(nn.Module):
    """Takes the place of a root-mean-square norm, `replaced`."""

    def __init__(self, norm: Any, kind: LayerKind, kernels: LayerKernels) -> None:
        super().__init__()
        self.replaced = norm
        self._weight, self._kernels = norm_weight(norm, kind), kernels

    def forward(self, rows: Tensor) -> Tensor:
        """`[..., width]`, both ways."""
        return self._kernels.norm(rows, self._weight)

    def difference(self, hidden: Tensor, _: dict[str, Any], tolerance: float) -> str | None:
        """As `FusedLayer.difference`."""
        return _difference("norm", lambda: self.replaced(hidden), lambda: self(hidden), tolerance)


class _Attention:
    """Projections, norms of heads, rotary embedding, attention and output projection."""

    def __init__(self, attention: Any, kind: LayerKind, kernels: LayerKernels) -> None:
        self._kernels = kernels
        self.qkv = _Joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self._output = attention.o_proj
        self._layer_idx = int(attention.layer_idx)
        head_dim = int(attention.head_dim)
        norms = [norm_weight(getattr(attention, f"{n}_norm"), kind) for n in "qk" if hasattr(attention, f"{n}_norm")]
        numbers = (attention.q_proj.out_features // head_dim, attention.k_proj.out_features // head_dim)
        self._heads = Heads(*numbers, head_dim, *norms)
        # Gemma 3's attention has the attribute, always None.
        softcap = getattr(attention, "attn_logit_softcapping", None) or 0.0
        self._traits = LayerTraits(float(attention.scaling), sliding_window(attention), softcap)

    def __call__(self, rows: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        step = STEP.get()
        assert isinstance(step, PagedStep)
        query, key, value = self.qkv(rows)
        heads, slots = self._heads, step.paged_input.slot_mapping
        keys, values = step.cache.made(self._layer_idx, heads.num_kv_heads, heads.head_dim, rows.device)
        rotated = self._kernels.rotate_and_store(heads, (query, key, value), angles, (keys, values), slots)
        attended = step.attend_stored(self._layer_idx, rotated, self._traits)[..., : heads.head_dim]
        out: Tensor = self._output(attended.reshape(1, len(rotated), -1))
        return out


class _Mlp:
    """Gate and up, activation, down."""

    def __init__(self, mlp: Any, kind: LayerKind, kernels: LayerKernels) -> None:
        self._kernels, self._gelu = kernels, kind.one_plus
        self.gate_up, self._down = _Joined([mlp.gate_proj, mlp.up_proj]), mlp.down_proj

    def __call__(self, rows: Tensor) -> Tensor:
        gate, up = self.gate_up(rows)
        out: Tensor = self._down(self._kernels.gate_times_up(gate, up, self._gelu))
        return out


class _Joined:
    """Projections of one input: one product if they can be joined, else one each."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        self.addition: _Addition | None = None
        self._whole: Any = None
        try:
            self._whole = join(parts)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        self._sizes = [int(part.out_features) for part in parts]

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        if self._whole is None:
            return tuple(part(rows) for part in self.parts)
        found: Tensor = self._whole(rows)
        if self.addition is not None:
            self.addition(rows, found)
        return tuple(found.split(self._sizes, -1))


def norm_weight(norm: Any, kind: LayerKind) -> NormWeight:
    """The numbers of a norm module, whose epsilon has one of two names."""
    epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return NormWeight(norm.weight.detach(), float(epsilon), kind.one_plus)


def _difference(name: str, stock: _Piece, own: _Piece, tolerance: float) -> str | None:
    """None unless the largest difference exceeds `tolerance` times the largest number expected, or a NaN is found."""
    expected, got = stock().float(), own().float()
    gap = float((expected - got).abs().max() / expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    return None if gap <= tolerance else f"{name} off by {gap:.2g}, relative"
