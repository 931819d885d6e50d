"""Weights that bitsandbytes has stored are those that it dequantises itself, whatever their shape and blocks."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from handler.formats.stored_format import StoredFormat, reader_of
from handler.formats.tensor_files import open_tensors
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

NAME = "model.layers.0.mlp.up_proj.weight"
MODULE = NAME.removesuffix("weight")


@functools.cache
def library() -> ModuleType:
    import bitsandbytes.functional

    return bitsandbytes.functional


def opened(directory: Path, tensors: Mapping[str, Tensor], look: Callable[[StoredFormat], Any]) -> Any:
    """What `look` finds in the reader of a checkpoint with these tensors."""
    save_file({name: each.contiguous() for name, each in tensors.items()}, directory / "model.safetensors")
    with open_tensors(directory) as files:
        found = reader_of("bitsandbytes", {"load_in_4bit": True}, files)
        assert found is not None
        return look(found)


def read(directory: Path, tensors: Mapping[str, Tensor]) -> Any:
    return opened(directory, tensors, lambda reader: reader.read(NAME))


def dense(found: QuantisedWeight | Tensor) -> Tensor:
    return found.dequantise(torch.float32) if isinstance(found, QuantisedWeight) else found


def weights(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))


def of_4_bits(
    weight: Tensor, form: str = "nf4", block: int = 64, *, nested: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors that bitsandbytes stores, and what it dequantises.

    By its general function: that of 0.50.2 for CPUs begins a block in each row, where they do not lie so.
    """
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    packed, state = library().quantize_4bit(weight, blocksize=block, compress_statistics=nested, quant_type=form)
    parts = {f"{NAME}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
    scale = library().dequantize_blockwise(state.absmax, state.state2) + state.offset if nested else state.absmax
    with torch.compiler.set_stance("force_eager"):
        exact = _dequantize_4bit_compute(packed.flatten(), scale, state.code, block, weight.shape, torch.float32)
    return {NAME: packed, **parts}, exact


def of_8_bits(weight: Tensor) -> dict[str, Tensor]:
    codes, scale, _ = library().int8_vectorwise_quant(weight.half())
    return {NAME: codes, f"{MODULE}SCB": scale, f"{MODULE}weight_format": torch.tensor(0, dtype=torch.uint8)}


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
@pytest.mark.parametrize("form", ["nf4", "fp4"])
@pytest.mark.parametrize(
    ("shape", "block", "group"),
    [
        ((64, 128), 64, 64),
        ((48, 96), 64, 32),
        ((7, 80), 64, 16),
        ((5, 100), 64, None),
        ((64, 256), 128, 128),
        ((3, 72), 64, None),
    ],
)
def test_weights_of_4_bits(
    shape: tuple[int, int], block: int, group: int | None, form: str, nested: bool, tmp_path: Path
) -> None:
    """Blocks may cross rows and the end; where no group of 16 is left, the weight is dense."""
    tensors, exact = of_4_bits(weights(*shape), form, block, nested=nested)
    found = read(tmp_path, tensors)
    assert (found.group if isinstance(found, QuantisedWeight) else None) == group
    assert torch.allclose(dense(found), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32, torch.int8])
def test_bytes_are_stored_in_any_type(storage: torch.dtype, tmp_path: Path) -> None:
    tensors, exact = of_4_bits(weights(32, 64))
    tensors[NAME] = tensors[NAME].flatten().view(storage).view(-1, 1)
    assert torch.allclose(dense(read(tmp_path, tensors)), exact, rtol=1e-6, atol=0)


def test_weights_of_8_bits(tmp_path: Path) -> None:
    tensors = of_8_bits(weights(48, 80))
    exact = library().int8_vectorwise_dequant(tensors[NAME], tensors[f"{MODULE}SCB"])
    found = read(tmp_path, tensors)
    assert (found.bits, found.group, found.zero) == (8, 80, 128)
    assert torch.allclose(found.dequantise(torch.float32), exact, rtol=1e-6, atol=0)
    assert int(tensors[NAME].min()) == -127


def test_each_tensor_belongs_to_its_weight(tmp_path: Path) -> None:
    other = "model.layers.1.mlp.up_proj"
    eight = {name.replace(MODULE, f"{other}."): each for name, each in of_8_bits(weights(16, 16)).items()}
    four, _ = of_4_bits(weights(16, 64), nested=True)
    dense_ones = {"model.norm.weight": torch.ones(4), "lm_head.weight": torch.ones(4, 4)}
    sources = opened(tmp_path, four | eight | dense_ones, lambda reader: reader.sources())
    assert {name: set(parts) for name, parts in sources.items()} == {NAME: set(four), f"{other}.weight": set(eight)}


def without(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: each for name, each in tensors.items() if name != f"{NAME}{part}"}


def described(tensors: dict[str, Tensor], **values: Any) -> dict[str, Tensor]:
    """`tensors` with these values in the description of the weight."""
    name = f"{NAME}.quant_state.bitsandbytes__nf4"
    text = json.dumps({**json.loads(bytes(tensors[name].tolist())), **values})
    return {**tensors, name: torch.tensor(list(text.encode()), dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda found: without(found, ""), "without model.layers.0.mlp.up_proj.weight"),
        (lambda found: without(found, ".absmax"), "up_proj.weight.absmax is missing"),
        (lambda found: without(found, ".quant_map"), "which does not fit"),
        (lambda found: without(found, ".nested_absmax"), "nested_absmax does not fit"),
        (lambda found: {**found, NAME: found[NAME][:-1]}, "stored in 1023 bytes with 32 scales"),
        (lambda found: described(found, blocksize=32), "stored in 1024 bytes with 32 scales for blocks of 32"),
        (lambda found: described(found, blocksize=0), "blocks of 0"),
        (lambda found: described(found, shape=None), "not bitsandbytes' description"),
        (lambda found: {**found, f"{NAME}.nested_absmax": torch.tensor([torch.nan])}, "hold NaN"),
    ],
)
def test_a_weight_of_4_bits_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], sentence: str, tmp_path: Path
) -> None:
    tensors, _ = of_4_bits(weights(32, 64), nested=True)
    with pytest.raises(BadModel, match=sentence):
        read(tmp_path, change(tensors))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({f"{MODULE}weight_format": torch.tensor(2, dtype=torch.uint8)}, "layout 2 of an older bitsandbytes"),
        ({f"{MODULE}SCB": torch.ones(3)}, r"torch.int8 \[16, 16\] with 3 scales"),
        ({NAME: torch.ones(16, 16)}, r"torch.float32 \[16, 16\] with 16 scales"),
        ({f"{MODULE}SCB": torch.full((16,), torch.inf)}, "hold NaN or infinity"),
    ],
)
def test_a_weight_of_8_bits_that_does_not_fit_is_refused(
    change: Mapping[str, Tensor], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(BadModel, match=sentence):
        read(tmp_path, {**of_8_bits(weights(16, 16)), **change})
