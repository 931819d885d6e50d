"""AWQ in 4 bits: `gemm` packs codes along the outputs, `gemv` along the inputs, `gemv_fast` in tiles for tensor cores.

Sources: autoawq 0.2.9 (`awq/modules/linear`, `awq/modules/act`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from handler.formats.integer_codes import unpack, with_zero_points
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

METHODS = ("awq",)
_PARTS = ("qweight", "qzeros", "scaled_zeros", "scales")
_BITS = 4
# Where the outputs 0 to 7 lie in a word of `gemm`.
_PLACES = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
# The activations of these modules' inputs have scales of their own, in `<activation>.scales` beside them.
_AFTER_ACTIVATION = ("c_proj", "down_proj", "dense_4h_to_h", "fc_out")
_WAY_OUT = "take a checkpoint of the same model in the version gemm or gemv, or in 16 bits"

# Of the tensors of a module by part, and the group size of config.json (-1: all inputs).
Read = Callable[[Mapping[str, Tensor], int], QuantisedWeight]


class AwqFormat:
    """A `StoredFormat`."""

    def __init__(self, tensors: TensorFiles, read: Read, group: int) -> None:
        """`read` makes a weight of the tensors of a module; `group` is the group size of config.json."""
        self._tensors, self._read, self._group = tensors, read, group
        self._sources = self._found()

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """See `StoredFormat`."""
        return self._sources

    def _found(self) -> Mapping[str, tuple[str, ...]]:
        modules = [name.removesuffix(".qweight") for name in self._tensors if name.endswith(".qweight")]
        found = {f"{module}.weight": [*self._parts(module).values()] for module in modules}
        for name in self._tensors:
            is_alone = name.endswith(".scales") and f"{name.removesuffix('scales')}qweight" not in self._tensors
            if is_alone and (weight := self._after(name)):
                found[weight].append(name)
        return {name: tuple(parts) for name, parts in found.items()}

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """See `StoredFormat`. Dense behind an activation with scales of its own."""
        module = name.removesuffix(".weight")
        parts = self._parts(module)
        try:
            weight = self._read({part: self._tensors[each] for part, each in parts.items()}, self._group)
        except (KeyError, RuntimeError, ValueError) as exc:
            shapes = ", ".join(f"{part} {list(self._tensors.shape(each))}" for part, each in parts.items())
            raise BadModel(f"the tensors of {module} do not fit together as AWQ: {shapes}; {_WAY_OUT}") from exc
        if len(self._sources[name]) == len(parts):
            return weight
        return weight.dequantise(torch.float32) / self._tensors[self._sources[name][-1]].float()

    def _parts(self, module: str) -> dict[str, str]:
        return {part: f"{module}.{part}" for part in _PARTS if f"{module}.{part}" in self._tensors}

    def _after(self, scales: str) -> str:
        """The weight whose inputs are divided by the tensor `scales` of an activation; "" if it is another tensor."""
        parent = scales.rsplit(".", 2)[0]
        weights = (f"{parent}.{name}" for name in _AFTER_ACTIVATION)
        return next((f"{weight}.weight" for weight in weights if f"{weight}.qweight" in self._tensors), "")


def _gemm(parts: Mapping[str, Tensor], group: int) -> QuantisedWeight:
    """`qweight` int32 `[K, N / 8]`, `qzeros` `[G, N / 8]`, `scales` `[G, N]`."""
    scales = parts["scales"].t()
    codes = _interleaved(parts["qweight"]).t()
    zeros = _interleaved(parts["qzeros"]).t() if "qzeros" in parts else torch.full_like(scales, 2 ** (_BITS - 1))
    return _checked(codes, scales, zeros)


def _interleaved(words: Tensor) -> Tensor:
    """uint8 `[rows, N]` of int32 `[rows, N / 8]`."""
    codes = unpack(words, _BITS, words.shape[1] * 8).view(len(words), -1, 8)
    return codes[..., _PLACES].flatten(-2)


def _gemv(parts: Mapping[str, Tensor], group: int) -> QuantisedWeight:
    """`qweight` int32 `[N, K / 8]`, `qzeros` `[N, W]`, `scales` `[N, 8 W]`, W words for at least G groups."""
    codes = unpack(parts["qweight"], _BITS, parts["qweight"].shape[1] * 8)
    num_groups = _num_groups(codes.shape[1], group)
    scales = parts["scales"][:, :num_groups]
    return _checked(codes, scales, unpack(parts["qzeros"], _BITS, num_groups))


def _gemv_fast(parts: Mapping[str, Tensor], group: int) -> QuantisedWeight:
    """`qweight` int16 `[N / 4, K]`, `scales` and `qzeros` float16 `[8 W, N]`: zero points as products, to be added."""
    words = parts["qweight"]
    num_inputs = words.shape[1]
    # Four outputs by 64 inputs lie together, 32 inputs of them in pairs of four, and the pairs apart.
    codes = unpack(words, _BITS, num_inputs * 4).view(-1, num_inputs // 64, 4, 64).transpose(1, 2)
    codes = codes.reshape(-1, num_inputs // 32, 4, 2, 4).transpose(-1, -2).reshape(-1, num_inputs // 32, 4, 4, 2)
    codes = codes.transpose(2, 3).reshape(-1, num_inputs)
    num_groups = _num_groups(num_inputs, group)
    zeros = parts["qzeros"] if "qzeros" in parts else parts["scaled_zeros"]
    scale, minimum = (each[:num_groups].t().float().contiguous() for each in (parts["scales"], zeros))
    _check_sizes(codes, scale, minimum)
    return QuantisedWeight(_BITS, codes, scale, minimum=minimum)


def _num_groups(num_inputs: int, group: int) -> int:
    size = num_inputs if group <= 0 else group
    if num_inputs % size:
        raise ValueError(f"{num_inputs} inputs are no groups of {size}")
    return num_inputs // size


def _checked(codes: Tensor, scales: Tensor, zeros: Tensor) -> QuantisedWeight:
    _check_sizes(codes, scales, zeros)
    return with_zero_points(_BITS, codes, scales, zeros)


def _check_sizes(codes: Tensor, scales: Tensor, zeros: Tensor) -> None:
    """Raise ValueError unless each output has its codes, and each group a scale and a zero point."""
    if scales.shape != zeros.shape or scales.shape[0] != codes.shape[0] or codes.shape[1] % scales.shape[1]:
        raise ValueError("sizes differ")


_VERSIONS: Mapping[str, Read] = {"gemm": _gemm, "gemv": _gemv, "gemv_fast": _gemv_fast, "llm-awq": _gemv_fast}


def reader(values: Mapping[str, Any], tensors: TensorFiles) -> AwqFormat:
    """See `stored_format`."""
    named = values.get("version") or values.get("format") or values.get("checkpoint_format") or "gemm"
    version = "llm-awq" if values.get("backend") == "llm-awq" else str(named).lower()
    group = int(values.get("group_size", values.get("q_group_size", 128)))
    return AwqFormat(tensors, _VERSIONS[version], group)
