"""Layers over packed weights, kept on disk in the layout of this machine's kernels, so that later starts map them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import handler
from handler.kernels.compiler import multiplies_matrices
from handler.linears.choice import computes_blocks
from handler.linears.kernel_linear import KernelLinear
from handler.linears.packed_linear import PackedLinear
from handler.seam.atomic_file import atomic_write
from handler.seam.source_digest import source_digest

logger = logging.getLogger(__name__)

# What decides the content of the file, beside the weights.
_SOURCES = (
    *("linears/block_packing.py", "linears/packed_linear.py", "linears/weight_blocks.py", "linears/packed_file.py"),
    *("kernels/product/block_layout.py", "kernels/product/block_form.py", "kernels/product/tile_layout.py"),
    "kernels/product/code_packing.py",
)
_TORCH, _KERNEL = "torch", "kernel"
# The safetensors library's names of the types that packed weights have.
_TYPES = {torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32"}
_TYPES |= {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


class PackedFile:
    """The packed layers of one model by the names of their weights.

    Layers of the file are views of the mapped file. A damaged file is made anew.
    """

    def __init__(self, name: str, directories: Sequence[Path], dtype: torch.dtype) -> None:
        """`name` stands for the model's weights. The file is looked for in all `directories`, written in the last.

        `dtype` is that of activations.
        """
        file = f"{name}-{file_name(dtype)}"
        paths = [directory / "packed" / file for directory in directories]
        self._target = paths[-1]
        self._file = next((found for path in paths if path.is_file() and (found := _opened(path)) is not None), None)
        # What kind of layer each weight has, as `_kind` says.
        self._kinds: dict[str, str] = {} if self._file is None else dict(self._file.metadata() or {})
        self._made: dict[str, nn.Module] = {}

    def __deepcopy__(self, memo: object) -> PackedFile:
        """Itself: transformers copies the configuration that holds it."""
        return self

    def __contains__(self, name: str) -> bool:
        return name in self._kinds

    def layer(self, name: str, bias: Tensor | None, dense: Tensor | None) -> PackedLinear | KernelLinear:
        """The layer over the weight `name` of the file, with `bias` `[N]`.

        `dense` `[N, K]` is kept where the layer has use for it.
        """
        return _made_of(self._kinds[name], self._tensors(name), bias, dense)

    def keep(self, name: str, layer: nn.Module) -> None:
        """Note a layer for `save`, unless the file has it or it is of a kind that is not kept."""
        if name not in self and _kind(layer) is not None:
            self._made[name] = layer

    def save(self) -> None:
        """Write the file if layers were noted; one that cannot be written costs the next start time only."""
        if not self._made:
            return
        tensors = {key: tensor for name in self._kinds for key, tensor in _keys(name, self._tensors(name))}
        kinds = {**self._kinds}
        for name, layer in self._made.items():
            kinds[name] = str(_kind(layer))
            tensors.update(_keys(name, _parts(layer)))
        try:
            with atomic_write(self._target) as scratch:
                _write(scratch, tensors, kinds)
                # Any uid may serve it.
                scratch.chmod(0o644)
        except OSError as exc:
            reason = exc.strerror or exc
            logger.warning("packed weights are not kept: %s cannot be written: %s", self._target.parent, reason)
        self._made.clear()

    def _tensors(self, name: str) -> list[Tensor]:
        file: Any = self._file
        return [file.get_tensor(f"{name}|{number}") for number in range(int(self._kinds[name].split()[1]))]


def file_name(dtype: torch.dtype) -> str:
    """The layout depends on the processor, and perhaps on torch; scales are of the activations' `dtype`."""
    digest = source_digest(Path(handler.__path__[0], name) for name in _SOURCES)
    if computes_blocks(dtype):
        return f"{'tiles' if multiplies_matrices() else 'blocks'}-{digest}.safetensors"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return f"{capability}-{torch.__version__}-{str(dtype).removeprefix('torch.')}-{digest}.safetensors"


def _kind(layer: nn.Module) -> str | None:
    """Kind, number of tensors, and what else makes the layer of them, in words; None for layers that are not kept."""
    if isinstance(layer, PackedLinear):
        return f"{_TORCH} 2 {layer.bits}"
    if isinstance(layer, KernelLinear) and layer.packed is not None:
        packed = layer.packed
        return f"{_KERNEL} {len(packed.tensors)} {packed.form.number} {packed.factor.hex()}"
    return None


def _parts(layer: nn.Module) -> Sequence[Tensor]:
    if isinstance(layer, PackedLinear):
        return layer.packed, layer.scales_and_zeros
    assert isinstance(layer, KernelLinear)
    return () if layer.packed is None else layer.packed.tensors


def _made_of(
    kind: str, tensors: Sequence[Tensor], bias: Tensor | None, dense: Tensor | None
) -> PackedLinear | KernelLinear:
    """The layer of `_kind` and `_parts`."""
    name, _, number, *rest = kind.split()
    if name == _TORCH:
        return PackedLinear(int(number), tensors[0], tensors[1], bias, dense)
    from handler.kernels.product.block_form import BlockForm
    from handler.kernels.product.block_layout import PackedBlocks

    codes, scales, *table = tensors
    form, factor = BlockForm.of_number(int(number)), float.fromhex(rest[0])
    return KernelLinear.of_blocks(PackedBlocks(form, codes, scales, table[0] if table else None, factor), bias)


def _keys(name: str, tensors: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    return [(f"{name}|{number}", tensor) for number, tensor in enumerate(tensors)]


def _opened(path: Path) -> Any:
    """The open file; None if its header cannot be read or does not fit its length, and the log says so."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as exc:
        logger.warning("%s is damaged or cut short, and is made anew: %s", path, exc)
        return None


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """As safetensors writes, but one tensor after the other: the library copies them all into memory first."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            file.write(tensor.contiguous().view(torch.uint8).numpy().data)
