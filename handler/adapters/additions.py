"""What one adapter adds to one module, on rows that use it alone."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from handler.adapters.adapter import Adapter, ExpertLowRank, LowRank, TokenLowRank, TokenRows
from handler.adapters.invariant import product
from handler.linears.experts.matrices import ExpertMatrices
from handler.linears.experts.quantised_experts import experts_by


class Addition(Protocol):
    """The module's output for rows of one adapter."""

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """`inputs` are the module's own, `[T, ...]`, `output` `[T, N]` is the base's; a tensor like it."""


class LowRankProduct:
    """`scaling * (x A^T) B^T` in float32, as peft computes it: it keeps A and B in float32 over any base."""

    def __init__(self, pair: LowRank, device: torch.device) -> None:
        self.scaling = pair.scaling
        self._down = pair.down.to(device, torch.float32)
        self._up = pair.up.to(device, torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """`[T, N]` float32 of `x` `[T, K]`."""
        return product(product(x.float(), self._down), self._up) * self.scaling


class LinearAddition:
    """To a linear layer or a norm. Sums in float32 and rounds once."""

    def __init__(self, adapter: Adapter, path: str, device: torch.device) -> None:
        pair, change = adapter.products.get(path), adapter.bias_changes.get(path)
        self._product = None if pair is None else LowRankProduct(pair, device)
        self._change = None if change is None else change.to(device)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """See `Addition`."""
        out = output.float()
        if self._change is not None:
            out = out + self._change
        if self._product is not None:
            out = out + self._product(inputs[0])
        return out.to(output.dtype)


class OutputAddition(LinearAddition):
    """To the output layer, whose weight or rows of it an adapter may replace."""

    def __init__(self, adapter: Adapter, path: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(adapter, path, device)
        weight, rows = adapter.weights.get(path), adapter.token_rows.get(path)
        self._weight = None if weight is None else weight.to(device, dtype)
        self._rows = None if rows is None else rows.values.to(device, dtype)
        self._token_ids = None if rows is None else rows.token_ids.to(device)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """See `Addition`."""
        bias = getattr(module, "bias", None)
        if self._weight is not None:
            output = product(inputs[0].to(self._weight.dtype), self._weight).to(output.dtype)
            output = output if bias is None else output + bias
        if self._rows is not None and self._token_ids is not None:
            own = product(inputs[0].to(self._rows.dtype), self._rows).to(output.dtype)
            own = own if bias is None else own + bias[self._token_ids]
            output = output.index_copy(-1, self._token_ids, own)
        return super().__call__(module, inputs, output)


class EmbeddingAddition:
    """To the embedding of tokens, before which the model may scale it (`embed_scale`, Gemma)."""

    def __init__(self, adapter: Adapter, path: str, device: torch.device, dtype: torch.dtype) -> None:
        weight = adapter.weights.get(path)
        self._weight = None if weight is None else weight.to(device, dtype)
        self._rows = _rows_on(adapter.token_rows.get(path), device, dtype)
        self._pair: TokenLowRank | None = adapter.embeddings.get(path)
        if self._pair is not None:
            self._table = self._pair.rows.to(device, torch.float32)
            self._up = self._pair.up.to(device, torch.float32)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """See `Addition`; `inputs[0]` are token ids `[T]`."""
        ids, scale = inputs[0], getattr(module, "embed_scale", 1.0)
        if self._weight is not None:
            output = self._weight[ids] * torch.as_tensor(scale, device=output.device).to(output.dtype)
        if self._rows is not None:
            is_own = ids[:, None] == self._rows.token_ids
            own = self._rows.values[is_own.int().argmax(-1)]
            own = own * torch.as_tensor(scale, device=output.device).to(output.dtype)
            output = torch.where(is_own.any(-1)[:, None], own, output)
        if self._pair is None:
            return output
        added = product(self._table[ids], self._up) * self._pair.scaling * scale
        return (output.float() + added).to(output.dtype)


class RouterAddition:
    """To a router, which computes with its weight more than a product: it runs again with the sum of both."""

    def __init__(self, pair: LowRank | None, bias_change: Tensor | None, module: Any) -> None:
        self.module = copy.copy(module)
        self.module._parameters = dict(module._parameters)
        if pair is not None:
            self._change("weight", pair.scaling * (pair.up.float() @ pair.down.float()))
        if bias_change is not None:
            self._change("bias", bias_change)

    def _change(self, name: str, change: Tensor) -> None:
        base: Tensor = getattr(self.module, name).detach()
        merged = (base.float() + change.to(base.device)).to(base.dtype)
        self.module._parameters[name] = nn.Parameter(merged, requires_grad=False)


class ExpertsAddition:
    """To one or both matrices of a module of experts."""

    def __init__(self, pairs: dict[str, ExpertLowRank], device: torch.device) -> None:
        """`pairs` by the names of the matrices."""
        self._pairs = {
            name: ExpertLowRank(
                pair.down.to(device, torch.float32).contiguous(),
                pair.up.to(device, torch.float32).contiguous(),
                pair.scaling,
            )
            for name, pair in pairs.items()
        }

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """See `Addition`; `inputs` are hidden states, chosen experts and their weights."""

        def multiply(name: str, expert: int, rows: Tensor) -> Tensor:
            return self._multiply(module, name, expert, rows)

        return experts_by(multiply, module, *inputs)

    def _multiply(self, experts: Any, name: str, expert: int, rows: Tensor) -> Tensor:
        matrices = getattr(experts, name)
        if isinstance(matrices, ExpertMatrices):
            out: Tensor = matrices.expert(expert).forward(rows)
        else:
            weight = matrices[expert]
            out = product(rows, weight.T if experts.is_transposed else weight)
        pair = self._pairs.get(name)
        if pair is None:
            return out
        added = product(product(rows.float(), pair.down[expert]), pair.up[expert]) * pair.scaling
        return (out.float() + added).to(out.dtype)


def _rows_on(rows: TokenRows | None, device: torch.device, dtype: torch.dtype) -> TokenRows | None:
    return None if rows is None else TokenRows(rows.token_ids.to(device), rows.values.to(device, dtype))
