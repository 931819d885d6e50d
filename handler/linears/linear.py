"""What a layer asks of a matrix product, whatever multiplies."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

# Types of an ordinary weight and of its data. The tests' device adds its own.
ORDINARY: set[type] = {nn.Parameter, Tensor}


class Linear(Protocol):
    """`y = x W^T + b`, alone or with the operation that follows it. `x` `[..., K]` -> `[..., N]` of the same dtype.

    Implementations: on CPU `OneDnnLinear`, `PackedLinear`, `KernelLinear`, where a row's result does not depend on
    other rows, `PackedLinear` under `Kernel.BY_ROWS` excepted; on CUDA `Int4Linear` and `Fp8Linear`.
    """

    out_features: int
    in_features: int
    bias: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The weights `[N, K]`, computed if they are not held in this form; some model code looks at them."""

    def forward(self, x: Tensor) -> Tensor:
        """`y`."""

    def silu(self, x: Tensor) -> Tensor:
        """`silu(y)`."""

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`y * other`, `other` `[..., N]`."""

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`y + other`, `other` `[..., N]`."""


class UnfusedLinear(nn.Module):
    """A layer whose kernel multiplies alone: what follows is done to its output, in place."""

    def silu(self, x: Tensor) -> Tensor:
        """`silu(y)`."""
        return F.silu(self(x), inplace=True)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`y * other`, `other` `[..., N]`."""
        out: Tensor = self(x)
        return out.mul_(other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`y + other`, `other` `[..., N]`."""
        out: Tensor = self(x)
        return out.add_(other)


def is_plain(module: nn.Module) -> bool:
    """True if `module` is an nn.Linear over an ordinary weight and computes nothing else.

    A parametrization makes it a subclass; some libraries keep quantised weights as a subclass of Tensor.
    """
    if type(module) is not nn.Linear or has_own_code(module):
        return False
    weights = (module.weight,) if module.bias is None else (module.weight, module.bias)
    return all({type(weight), type(weight.data)} <= ORDINARY for weight in weights)


def has_own_code(module: nn.Module) -> bool:
    """True if `module` computes more than its class: a `forward` of its own, or hooks."""
    if "forward" in vars(module):
        return True
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return any(getattr(module, name, None) for name in hooks)
