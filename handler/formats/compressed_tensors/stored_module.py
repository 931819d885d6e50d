"""The tensors that a compressed-tensors checkpoint stores for one module, and the quantised weight that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from handler.formats.compressed_tensors.codes import float_table, unpack
from handler.formats.compressed_tensors.config_groups import WeightArgs
from handler.formats.compressed_tensors.scales import by_group, finite, order_of
from handler.formats.floats.codes import float8_codes
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

# What a quantised module has beside `weight`, or in its place.
PARTS = (
    "weight_packed",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_global_scale",
)
# From this version on, codes of 3, 5, 6 and 7 bits cross the boundaries of words.
_DENSE_FROM = (0, 18)
# Before this one, zero points of an asymmetric group were left out if all are zero (0.7.1 does, 0.9.4 does not).
_COMPLETE_FROM = (0, 9)


class StoredModule:
    """The tensors of the module `name` by part, `weight` or one of PARTS; `args` are those of its config group."""

    def __init__(self, name: str, parts: Mapping[str, Tensor], args: WeightArgs, version: tuple[int, int]) -> None:
        """`version` is that of the library that wrote them: major, minor."""
        self._name = name
        self._parts = parts
        self._args = args
        self._is_dense = version >= _DENSE_FROM
        self._is_complete = version >= _COMPLETE_FROM

    def weight(self) -> QuantisedWeight:
        """The weight `[N, K]`. Raises BadModel for tensors that do not fit the config group."""
        args = self._args
        codes = self._packed() if "weight_packed" in self._parts else self._plain()
        shape = (codes.shape[0], codes.shape[1])
        scale, zero_points, order = self._scale(shape), self._zero_points(shape), self._order(shape)
        minimum, zero = None, 0.0 if args.is_float else float(1 << (args.bits - 1))
        # Weights of one config group have one form, whatever their zero points happen to be.
        if zero_points is not None and not (args.is_symmetric and (zero_points == zero).all()):
            minimum, zero = scale * -zero_points, 0.0
        table = float_table(args.bits) if args.is_float else None
        codes = codes if order is None else codes[:, order]
        return QuantisedWeight(args.bits, codes, scale, minimum, zero, table, order)

    def _packed(self) -> Tensor:
        """Codes uint8 `[N, K]` of words."""
        with self._part("weight_packed", torch.uint8 if self._args.is_float else torch.int32) as words:
            if words.ndim != 2:
                raise ValueError(f"its shape is {list(words.shape)}, and a matrix is needed")
            num_inputs = words.shape[1] * words.element_size() * 8 // self._args.bits
            if "weight_shape" in self._parts:
                num_rows, num_inputs = self._parts["weight_shape"].tolist()
                if num_rows != len(words):
                    raise ValueError(f"it has {len(words)} rows, and weight_shape says {num_rows}")
            return unpack(words, self._args.bits, num_inputs, is_dense=self._is_dense)

    def _plain(self) -> Tensor:
        """Codes uint8 `[N, K]` of a byte each: int8, or e4m3."""
        with self._part("weight", torch.float8_e4m3fn if self._args.is_float else torch.int8) as weight:
            if weight.ndim != 2:
                raise ValueError(f"its shape is {list(weight.shape)}, and a matrix is needed")
            if self._args.is_float:
                return float8_codes(weight, f"{self._name}.weight")[0]
            # Signed numbers become codes from 0 on: uint8 addition wraps.
            codes = weight.view(torch.uint8) + (1 << (self._args.bits - 1))
            if self._args.bits < 8 and (codes >= 1 << self._args.bits).any():
                raise ValueError(f"it has numbers of more than {self._args.bits} bits")
            return codes

    def _scale(self, shape: tuple[int, int]) -> Tensor:
        """Scales float32 `[N, K / group]`. A global scale divides them."""
        with self._part("weight_scale") as stored:
            scale = finite(stored)
            if "weight_global_scale" in self._parts:
                scale = finite(scale / self._global_scale())
            return by_group(scale, shape, self._args)

    def _global_scale(self) -> Tensor:
        with self._part("weight_global_scale") as stored:
            if stored.numel() != 1:
                raise ValueError(f"its shape is {list(stored.shape)}, and one number is needed")
            return stored.float().reshape(())

    def _zero_points(self, shape: tuple[int, int]) -> Tensor | None:
        """Zero points float32 `[N, K / group]`, as codes: packed along N, or int8 in older files and for one tensor.

        Older files have zeros of a symmetric group too.
        """
        bits = self._args.bits
        if "weight_zero_point" not in self._parts and (self._args.is_symmetric or not self._is_complete):
            return None
        with self._part("weight_zero_point") as stored:
            if self._args.is_float:
                values = stored.float()
                if bits < 8 and values.any():
                    raise ValueError("floats of 4 and 6 bits have no zero points")
            elif stored.dtype == torch.int32:
                values = unpack(stored.t(), bits, shape[0], is_dense=self._is_dense).t().float()
            else:
                values = stored.float() + (1 << (bits - 1))
            return by_group(values, shape, self._args)

    def _order(self, shape: tuple[int, int]) -> Tensor | None:
        """The inputs by group, int64 `[K]`; None if they lie in order."""
        if "weight_g_idx" not in self._parts:
            return None
        with self._part("weight_g_idx") as groups:
            if list(groups.shape) != [shape[1]]:
                raise ValueError(f"its shape is {list(groups.shape)}, and {shape[1]} inputs need a group each")
            return order_of(groups, self._args.group)

    @contextmanager
    def _part(self, part: str, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
        """The tensor of a part; a ValueError about it becomes BadModel."""
        name, tensor = f"{self._name}.{part}", self._parts.get(part)
        if tensor is None:
            raise BadModel(f"the checkpoint lacks {name}; download it again")
        if dtype is not None and tensor.dtype != dtype:
            given, needed = (str(each).removeprefix("torch.") for each in (tensor.dtype, dtype))
            raise BadModel(f"{name} is {given}, and its config group needs {needed}; download the checkpoint again")
        try:
            yield tensor
        except ValueError as exc:
            raise BadModel(f"{name} does not fit its config group: {exc}; quantise the model again") from exc
