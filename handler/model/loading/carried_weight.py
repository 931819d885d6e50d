"""`CarriedWeight`: a quantised weight that passes through what transformers does to the weights it loads.

transformers renames weights, stacks those of experts, joins and splits them along the outputs. These keep the codes.
Anything else gets the weight dequantised, as a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from handler.linears.quantised_weight import Form, Head, QuantisedWeight, cat, stack


class CarriedWeight:
    """Stands for a tensor `[N, K]` or `[E, N, K]` of `dtype`, as far as transformers' loading looks at it."""

    def __init__(self, weight: QuantisedWeight, dtype: torch.dtype) -> None:
        """`dtype` is what `dense` gives."""
        self.weight = weight
        self.dtype = dtype

    def rows(self, rows: slice) -> QuantisedWeight:
        """Some outputs."""
        return self.weight.rows(rows)

    @property
    def form(self) -> Form:
        """That of its codes."""
        return self.weight.form

    @property
    def stored_bytes(self) -> int:
        """Size in the file, about."""
        return self.weight.stored_bytes

    @property
    def shape(self) -> torch.Size:
        """As of the tensor."""
        return self.weight.shape

    def dense(self) -> Tensor:
        """The tensor, computed."""
        return self.weight.dequantise(self.dtype)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> CarriedWeight:
        """On another device, or for another dtype."""
        weight = self.weight if device is None else self.weight.to(device)
        return CarriedWeight(weight, dtype or self.dtype)

    def contiguous(self) -> CarriedWeight:
        """Itself."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def __getitem__(self, index: Any) -> Any:
        return self if index is ... else self.dense()[index]

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """torch's functions over such weights."""
        kwargs = kwargs or {}
        found = _kept(func, args, kwargs)
        return (
            func(*_dense(args), **{name: _dense(value) for name, value in kwargs.items()}) if found is None else found
        )


class Reading(Protocol):
    """Reads the weight `name` in whole or in part, each time anew."""

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """All of it."""

    def outputs(self, name: str, rows: slice) -> QuantisedWeight:
        """Some outputs."""

    def dense(self, name: str, dtype: torch.dtype) -> Tensor:
        """Dequantised."""


class LazyWeight(CarriedWeight):
    """A weight on CPU that is read anew whenever its codes are looked at, and not held."""

    def __init__(self, head: Head, reader: Reading, name: str, dtype: torch.dtype) -> None:
        """`reader` gives the quantised weight `name`, of which `head` tells."""
        self._head = head
        self._reader = reader
        self._name = name
        self.dtype = dtype

    def rows(self, rows: slice) -> QuantisedWeight:
        """Some outputs, read now."""
        return self._reader.outputs(self._name, rows)

    def dense(self) -> Tensor:
        """The tensor, read now and computed."""
        return self._reader.dense(self._name, self.dtype)

    @property
    def weight(self) -> QuantisedWeight:  # type: ignore[override]
        """The weight, read now."""
        found = self._reader.read(self._name)
        assert isinstance(found, QuantisedWeight)
        return found

    @property
    def form(self) -> Form:
        """That of its codes."""
        return self._head.form

    @property
    def stored_bytes(self) -> int:
        """Size in the file."""
        return self._head.num_bytes

    @property
    def shape(self) -> torch.Size:
        """As of the tensor."""
        return torch.Size(self._head.shape)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> CarriedWeight:
        """Read now for another device; for another dtype only later."""
        if device is None or torch.device(device).type == "cpu":
            return LazyWeight(self._head, self._reader, self._name, dtype or self.dtype)
        return CarriedWeight(self.weight.to(device), dtype or self.dtype)


class DenseWeight(CarriedWeight):
    """A weight that a reader had to make dense: `[N, K]` also where the model has `[K, N]`."""

    def __init__(self, tensor: Tensor, dtype: torch.dtype, stored_bytes: int) -> None:
        """`dtype` is what `dense` gives; the file has the weight in `stored_bytes`."""
        self.tensor = tensor
        self.dtype = dtype
        self._stored_bytes = stored_bytes

    @property
    def stored_bytes(self) -> int:
        """Size in the file."""
        return self._stored_bytes

    @property
    def shape(self) -> torch.Size:
        """As of the tensor."""
        return self.tensor.shape

    def dense(self) -> Tensor:
        """The tensor."""
        return self.tensor.to(self.dtype)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> DenseWeight:
        """On another device, or for another dtype."""
        return DenseWeight(self.tensor.to(device), dtype or self.dtype, self._stored_bytes)


def _kept(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What `func` gives if codes can carry it, else None."""
    if func not in (torch.cat, torch.stack, torch.chunk, torch.split) or not args:
        return None
    dim = kwargs.get("dim", args[-1] if len(args) > (1 if func in (torch.cat, torch.stack) else 2) else 0)
    parts = list(args[0]) if isinstance(args[0], list | tuple) else [args[0]]
    if not all(isinstance(part, CarriedWeight) and not isinstance(part, DenseWeight) for part in parts):
        return None
    first: CarriedWeight = parts[0]
    weights: list[QuantisedWeight] = [part.weight for part in parts]
    along_outputs = dim in (len(first.shape) - 2, -2)
    if func is torch.stack:
        joined = stack(weights) if dim == 0 and len(first.shape) == 2 else None
        return joined and CarriedWeight(joined, first.dtype)
    if not along_outputs:
        return None
    if func is torch.cat:
        joined = cat(weights)
        return joined and CarriedWeight(joined, first.dtype)
    return tuple(CarriedWeight(first.weight.rows(rows), first.dtype) for rows in _pieces(func, first, args, kwargs))


def _pieces(
    func: Callable[..., Any], weight: CarriedWeight, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterable[Tensor]:
    """The outputs of each part, as torch divides them."""
    given = args[1] if len(args) > 1 else next(kwargs[name] for name in kwargs if name != "dim")
    pieces: Iterable[Tensor] = func(torch.arange(weight.shape[-2]), given)
    return pieces


def _dense(value: Any) -> Any:
    if isinstance(value, CarriedWeight):
        return value.dense()
    if isinstance(value, list | tuple):
        return type(value)(map(_dense, value))
    return value
