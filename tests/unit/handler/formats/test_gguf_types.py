"""ggml's block types against gguf's own reading of the same bytes, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.formats.gguf.block_types import BLOCK_TYPES
from handler.formats.gguf.manifest import SourceTensor
from handler.formats.gguf.tensors import _MADE_DENSE, check_kind, quantised, read_tensor
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

Kind = GGMLQuantizationType
# Where a block has its float16 numbers; at its start where nothing is said.
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2)}
HALVES |= {"Q6_K": (208,), "TQ2_0": (64,), "MXFP4": (), "Q8_K": (), "TQ1_0": (52,), "IQ1_M": ()}
# float16: both zeros, the least number, the largest.
EXTREMES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x7BFF, 0xFBFF]
# gguf 0.19.0 does not dequantise these.
ALONE = {"Q1_0", "Q8_K"}


def raw(kind: str, rows: int, blocks: int, seed: int, scales: list[int] | None = None) -> Any:
    """Rows of random bytes; `scales` are the float16 numbers that the blocks have, else ordinary ones."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 256, (rows, blocks, GGML_QUANT_SIZES[Kind[kind]][1]), dtype=np.uint8)
    for first in HALVES.get(kind, (0,)):
        if scales is None:
            halves = (rng.standard_normal(found.shape[:2]) * 0.01).astype(np.float16)
        else:
            halves = rng.choice(np.array(scales, dtype=np.uint16), found.shape[:2]).view(np.float16)
        found[..., first : first + 2] = halves[..., None].view(np.uint8)
    return found.reshape(rows, -1)


def read(kind: str, data: Any) -> QuantisedWeight | torch.Tensor:
    weights, size = GGML_QUANT_SIZES[Kind[kind]]
    shape = (*data.shape[:-1], data.shape[-1] // size * weights)
    held = torch.from_numpy(data).flatten()
    tensor = SourceTensor(file=0, kind=kind, shape=shape, offset=0, num_bytes=held.numel())
    return read_tensor(tensor, lambda first, count: held[first : first + count])


@settings(max_examples=8)
@given(rows=st.integers(1, 4), blocks=st.integers(1, 3), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("scales", [None, EXTREMES], ids=["ordinary", "extreme"])
@pytest.mark.parametrize("kind", sorted(set(BLOCK_TYPES) - ALONE))
def test_blocks_are_what_the_format_says(
    kind: str, scales: list[int] | None, rows: int, blocks: int, seed: int
) -> None:
    data = raw(kind, rows, blocks, seed, scales)
    found = read(kind, data)
    assert isinstance(found, QuantisedWeight)
    assert (found.bits, found.group) == (BLOCK_TYPES[kind].bits, BLOCK_TYPES[kind].group)
    assert int(found.codes.max()) < 2**found.bits
    with np.errstate(over="ignore"):
        assert np.array_equal(found.dequantise(torch.float32).numpy(), dequantize(data, Kind[kind]))


@pytest.mark.parametrize("kind", sorted(BLOCK_TYPES))
def test_sizes_are_those_of_the_format(kind: str) -> None:
    assert (BLOCK_TYPES[kind].weights, BLOCK_TYPES[kind].num_bytes) == GGML_QUANT_SIZES[Kind[kind]]


def test_one_bit_is_a_sign() -> None:
    data = np.zeros((1, 18), np.uint8)
    data[0, :2] = np.array([0.5], np.float16).view(np.uint8)
    data[0, 2] = 0b0000_0110
    found = read("Q1_0", data)
    assert isinstance(found, QuantisedWeight)
    assert found.dequantise(torch.float32)[0, :4].tolist() == [-0.5, 0.5, 0.5, -0.5]


def test_eight_bits_of_a_product() -> None:
    codes = np.arange(-128, 128, dtype=np.int8)
    data = np.concatenate([np.array([0.25], np.float32).view(np.uint8), codes.view(np.uint8), np.ones(32, np.uint8)])
    found = read("Q8_K", data[None])
    assert isinstance(found, QuantisedWeight)
    assert np.array_equal(found.dequantise(torch.float32).numpy()[0], codes * np.float32(0.25))


@pytest.mark.parametrize("kind", sorted(_MADE_DENSE))
def test_types_without_groups_are_made_dense(kind: str) -> None:
    data = raw(kind, 3, 2, 1)
    if kind == "IQ1_M":  # its scale lies in four nibbles
        data[:] &= 0x0F
    found = read(kind, data)
    assert isinstance(found, torch.Tensor)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(found.numpy(), dequantize(data, Kind[kind]), equal_nan=True)


@pytest.mark.parametrize(("kind", "dtype"), [("F32", np.float32), ("F16", np.float16)])
def test_dense_types_are_as_stored(kind: str, dtype: Any) -> None:
    values = np.arange(6, dtype=dtype).reshape(2, 3)
    found = read(kind, values.view(np.uint8))
    assert isinstance(found, torch.Tensor)
    assert np.array_equal(found.numpy(), values)


def test_a_long_matrix_is_read_in_pieces() -> None:
    """The parts fit together, and no more than one piece is asked for."""
    data = raw("Q4_K", 40, 128, 7)
    held, asked = torch.from_numpy(data).flatten(), []

    def part(first: int, count: int) -> torch.Tensor:
        asked.append(count)
        return held[first : first + count]

    found = quantised("Q4_K", (40, 128 * 256), part)
    assert np.array_equal(found.dequantise(torch.float32).numpy(), dequantize(data, Kind.Q4_K))
    assert len(asked) > 1
    assert max(asked) <= held.numel() / 40 * 33


@pytest.mark.parametrize("kind", ["Q8_1", "NVFP4", "I32", "F64"])
def test_other_types_are_refused_by_name(kind: str) -> None:
    with pytest.raises(
        BadModel, match=rf"the tensor blk\.0\.x of the GGUF file is of type {kind}, which is not read; "
    ):
        check_kind("blk.0.x", kind)
