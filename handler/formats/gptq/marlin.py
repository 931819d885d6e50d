"""Marlin: symmetric codes of 4 bits in the order in which the threads of one CUDA kernel read them.

Source: IST-DASLab/marlin (`Layer.pack`, commit 0f102e1), which AutoGPTQ's Marlin checkpoints follow: `B` int32
`[K / 16, 2 N]`, `s` float16 `[G, N]`, one group of all inputs or groups of 128.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from handler.formats.integer_codes import unpack
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

# Inputs and outputs of the codes that 32 threads read at once.
_INPUTS, _OUTPUTS = 16, 64
_ZERO = 8
_WORKSPACE = ".workspace"


class MarlinFormat:
    """A `StoredFormat`."""

    def __init__(self, tensors: TensorFiles) -> None:
        self._tensors = tensors

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """See `StoredFormat`."""
        modules = [name.removesuffix(".B") for name in self._tensors if name.endswith(".B")]
        found = {f"{module}.weight": (f"{module}.B", f"{module}.s") for module in modules}
        return found | {"": tuple(name for name in self._tensors if name.endswith(_WORKSPACE))}

    def read(self, name: str) -> QuantisedWeight:
        """See `StoredFormat`."""
        module = name.removesuffix(".weight")
        if f"{module}.s" not in self._tensors:
            raise BadModel(f"the Marlin weight {module} has no s, its scales, in the files")
        words, scales = self._tensors[f"{module}.B"], self._tensors[f"{module}.s"]
        num_groups, num_outputs = scales.shape
        num_inputs = words.shape[0] * _INPUTS
        if num_outputs % _OUTPUTS or words.shape[1] != 2 * num_outputs or num_inputs % num_groups:
            shapes = f"{list(words.shape)} and {list(scales.shape)}"
            raise BadModel(f"B and s of {module} do not fit together as Marlin: {shapes}")
        return QuantisedWeight(4, _codes(words, num_outputs), _scales(scales).t().float().contiguous(), zero=_ZERO)


def _codes(words: Tensor, num_outputs: int) -> Tensor:
    """uint8 `[N, K]`.

    Thread `4 c + q` of 32 holds, of each of four tiles of 16 x 16, the inputs 2 q and 2 q + 1 of both halves, and the
    output c of both halves. Its eight codes come in the order of (odd input, upper outputs, upper inputs).
    """
    tiles = unpack(words, 4, 8 * words.shape[1]).view(-1, num_outputs // _OUTPUTS, 8, 4, 4, 2, 2, 2)
    # [K / 16, N / 64, c, q, tile, odd input, upper outputs, upper inputs]
    return tiles.permute(1, 4, 6, 2, 0, 7, 3, 5).reshape(num_outputs, -1)


def _scales(scales: Tensor) -> Tensor:
    """`[G, N]` in the order of the outputs: each thread reads those of the outputs that it holds."""
    num_groups, num_outputs = scales.shape
    if num_groups > 1:
        return scales.view(num_groups, -1, 8, 8).transpose(-1, -2).reshape(num_groups, num_outputs)
    return scales.view(1, -1, 4, 4, 2).transpose(-2, -3).reshape(1, num_outputs)


def is_marlin(tensors: TensorFiles) -> bool:
    """True for the names of Marlin's tensors, whatever config.json calls them."""
    return any(name.endswith(".B") for name in tensors) and not any(name.endswith(".qweight") for name in tensors)
