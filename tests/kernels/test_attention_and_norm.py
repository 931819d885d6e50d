"""The compiled kernels against what they stand for, written with torch in float32."""

from __future__ import annotations

import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from handler.kernels import compiler
from handler.kernels.attention.row_attention import RowAttention, row_attention
from handler.kernels.compiler import compile_kernel, multiplies_bfloat16, usable
from handler.kernels.norm.row_norm import RowNorm
from handler.kernels.primitives import BITS_BFLOAT16, BITS_FLOAT32, elements, load, store
from handler.kernels.team import Call, scratch

pytestmark = pytest.mark.usefixtures("several_threads")

DTYPES = [torch.bfloat16, torch.float32]
TOLERANCE = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
# By vectors, and by the matrix unit.
UNITS = [pytest.param(False, id="vectors"), pytest.param(True, id="matrices", marks=pytest.mark.needs("amx"))]
NUM_SLOTS, MAX_LEN = 4, 96


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What attention multiplies by."""
    row_attention.cache_clear()
    if not request.param:
        monkeypatch.setattr("handler.kernels.attention.row_attention.attends_by_matrices", lambda *_: False)


class Layer:
    """Random keys and values of one layer, and rows that come to it."""

    def __init__(
        self, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, max_len: int = MAX_LEN
    ) -> None:
        torch.manual_seed(0)
        self.shape, self.max_len = (num_heads, num_kv_heads, head_dim, dtype), max_len
        self.cache = tuple(torch.randn(NUM_SLOTS, max_len, num_kv_heads, head_dim).to(dtype) for _ in range(2))

    def rows(self, places: list[tuple[int, int]]) -> dict[str, Tensor]:
        """Rows for `places`, each a slot and a position, as the fused layer makes them: in one tensor, side by side."""
        num_heads, num_kv_heads, head_dim, dtype = self.shape
        generator = torch.Generator().manual_seed(len(places))
        joined = torch.randn(len(places), num_heads + 2 * num_kv_heads, head_dim, generator=generator).to(dtype)
        slots, positions = (torch.tensor(part) for part in zip(*places, strict=True))
        angles = positions[:, None] * torch.rand(head_dim // 2, generator=generator)
        angles = torch.cat((angles, angles), dim=1)
        return {
            "heads": joined[:, : num_heads + num_kv_heads],
            "values": joined[:, num_heads + num_kv_heads :],
            "cosines": angles.cos().to(dtype),
            "sines": angles.sin().to(dtype),
            "flat_index": slots * self.max_len + positions,
            "positions": positions,
        }

    def expected(self, rows: dict[str, Tensor], scale: float, window: int) -> Tensor:
        """Writes to the cache as the kernel does."""
        num_heads, num_kv_heads, head_dim, dtype = self.shape
        heads = rows["heads"].float()
        turned = torch.cat((-heads[..., head_dim // 2 :], heads[..., : head_dim // 2]), dim=-1)
        heads = heads * rows["cosines"].float()[:, None] + turned * rows["sines"].float()[:, None]
        for cached, new in zip(self.cache, (heads[:, num_heads:].to(dtype), rows["values"]), strict=True):
            cached.view(-1, num_kv_heads, head_dim)[rows["flat_index"]] = new
        out = []
        for row, (flat, position) in enumerate(zip(rows["flat_index"], rows["positions"], strict=True)):
            first = max(0, int(position) + 1 - window) if window else 0
            seen = slice(first, int(position) + 1)
            keys, values = (part[int(flat) // self.max_len, seen].float().transpose(0, 1) for part in self.cache)
            query = heads[row, :num_heads].view(num_kv_heads, -1, head_dim)
            out.append(F.scaled_dot_product_attention(query, keys, values, scale=scale).reshape(-1))
        return torch.stack(out)


def run(kernel: RowAttention, layer: Layer, rows: dict[str, Tensor], scale: float = 0.2, window: int = 0) -> Tensor:
    return kernel(**rows, cache=(layer.cache[0], layer.cache[1]), scale=scale, window=window)


MIXED = [(0, 0), (1, 95), (2, 3), (2, 4), (2, 5), (2, 6), (3, 40)]


@pytest.mark.usefixtures("unit")
@pytest.mark.parametrize("window", [0, 5, 33])
@pytest.mark.parametrize("shape", [(9, 3, 64), (4, 1, 128), (2, 2, 32), (4, 4, 16), (6, 1, 80), (2, 2, 10)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_that_of_torch(dtype: torch.dtype, shape: tuple[int, int, int], window: int) -> None:
    layer, reference = Layer(*shape, dtype), Layer(*shape, dtype)
    got = run(row_attention(*shape, dtype), layer, layer.rows(MIXED), window=window)
    expected = reference.expected(reference.rows(MIXED), 0.2, window)
    assert got.dtype is dtype
    # The matrix unit takes weights that are rounded.
    torch.testing.assert_close(got.float(), expected, atol=2 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for one, other in zip(layer.cache, reference.cache, strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_more_threads_get_more_scratch() -> None:
    """One thread over long slots, then two over short ones, whose scratch together would fit into the first."""
    before = torch.get_num_threads()
    try:
        for num_threads, max_len in ((1, 4096), (2, 64), (1, 64)):
            torch.set_num_threads(num_threads)
            found = scratch(max_len)
            assert found.shape[0] >= num_threads
            assert found.shape[1] >= max_len
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("unit")
@pytest.mark.parametrize("window", [0, 33])
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_alone_and_on_any_number_of_threads(
    dtype: torch.dtype, num_threads: int, window: int
) -> None:
    together, apart = Layer(9, 3, 64, dtype), Layer(9, 3, 64, dtype)
    kernel = row_attention(9, 3, 64, dtype)
    places = MIXED + [(0, position) for position in range(30, 50)]
    rows = together.rows(places)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        got = run(kernel, together, rows, window=window)
    finally:
        torch.set_num_threads(before)
    for i in range(len(places)):
        one = {name: part[i : i + 1] for name, part in rows.items()}
        assert torch.equal(run(kernel, apart, one, window=window)[0], got[i])


# A prompt's rows in one call, and in calls of so many rows beside a row of another sequence.
CHUNKS = (1, 1, 40, 2, 3, 18, 100, 1, 7, 64, 33)


@pytest.mark.parametrize("window", [0, 150])
@pytest.mark.parametrize("shape", [(9, 3, 64), (2, 2, 32), (8, 1, 128)], ids=str)
def test_a_prompt_has_the_same_bits_in_any_chunks(shape: tuple[int, int, int], window: int) -> None:
    """Longer than a block of keys: rows of a block see different numbers of blocks."""
    length = sum(CHUNKS)
    whole, cut, reference = (Layer(*shape, torch.bfloat16, max_len=272) for _ in range(3))
    rows = whole.rows([(1, position) for position in range(length)])
    other = whole.rows([(2, 200)])
    kernel = row_attention(*shape, torch.bfloat16)
    got = run(kernel, whole, rows, window=window)
    torch.testing.assert_close(got.float(), reference.expected(rows, 0.2, window), atol=2e-2, rtol=1e-2)
    for start, size in zip(accumulate((0, *CHUNKS)), CHUNKS, strict=False):
        part = {name: torch.cat((other[name], each[start : start + size])) for name, each in rows.items()}
        assert torch.equal(run(kernel, cut, part, window=window)[1:], got[start : start + size])


@pytest.mark.usefixtures("unit")
@pytest.mark.parametrize("head_dim", [16, 64])
def test_nan_stays_with_its_row(head_dim: int) -> None:
    layer = Layer(4, 2, head_dim, torch.bfloat16)
    rows = layer.rows([(0, 10), (1, 10), (2, 10)])
    rows["heads"][1, 0, 3] = float("nan")
    layer.cache[0][3] = float("nan")  # nobody's slot
    for part in layer.cache:
        part[2, 11:] = float("nan")  # what lies behind the last row's sequence
    got = run(row_attention(4, 2, head_dim, torch.bfloat16), layer, rows)
    assert got[1, :head_dim].isnan().all()
    assert got[[0, 2]].isfinite().all()


def test_scores_far_apart_do_not_overflow() -> None:
    layer = Layer(2, 2, 16, torch.float32)
    rows = layer.rows([(0, 20)])
    rows["heads"] *= 1e4
    got = run(row_attention(2, 2, 16, torch.float32), layer, rows)
    assert got.isfinite().all()


@pytest.mark.parametrize("num_rows", [1, 7, 200])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_is_that_of_torch(dtype: torch.dtype, num_rows: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(576).to(dtype), torch.randn(1, num_rows, 576).to(dtype)
    got = RowNorm(weight, 1e-5)(x)
    expected = torch.rms_norm(x.float(), (576,), weight.float(), 1e-5)
    assert got.shape == x.shape
    torch.testing.assert_close(got.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert torch.equal(RowNorm(weight, 1e-5)(x[:, :1]), got[:, :1])


def copy(arguments):  # type: ignore[no-untyped-def]  # pragma: no cover
    """A kernel: float32 to bfloat16."""
    source, target = elements(arguments[1], BITS_FLOAT32), elements(arguments[2], BITS_BFLOAT16)
    for i in range(arguments[0]):
        store(target, i, load(source, i))


def test_bfloat16_is_rounded_to_nearest_even_and_nan_stays_nan() -> None:
    bits = [
        0x3F808000,
        0x3F818000,
        0x3F808001,
        0x7F7FFFFF,
        0x7F800000,
        -0x7FFFFF,
        -0x40800000,
        0x7FFFFFFF,
        0x7F800001,
        -1,
    ]
    numbers = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    out = torch.empty(len(bits), dtype=torch.bfloat16)
    call = Call(compile_kernel(copy), 3)
    call.arguments[:] = (len(bits), numbers.data_ptr(), out.data_ptr())
    call.run(parallel=False)
    torch.testing.assert_close(out, numbers.bfloat16(), atol=0, rtol=0, equal_nan=True)


# Each kernel does something and says what, in an interpreter of its own.
PROGRAM = """
import pathlib, sys, torch
from handler.kernels.compiler import multiplies_bfloat16, use_cache_dir
use_cache_dir(pathlib.Path(sys.argv[1]))
from handler.kernels.norm.row_norm import RowNorm
from handler.kernels.attention.row_attention import row_attention
for dtype in (torch.float32, torch.bfloat16):
    print(RowNorm(torch.ones(4, dtype=dtype), 0.0)(torch.ones(1, 4, dtype=dtype)).tolist())
    cache = torch.zeros(1, 16, 1, 32, dtype=dtype), torch.zeros(1, 16, 1, 32, dtype=dtype)
    ones, place = torch.ones(1, 32, dtype=dtype), torch.zeros(1, dtype=torch.long)
    heads = torch.ones(1, 2, 32, dtype=dtype)
    print(row_attention(1, 1, 32, dtype)(heads, heads[:, 1:], ones, ones, cache, place, place, 1.0, 0).tolist())
if multiplies_bfloat16():
    from handler.kernels.product.block_form import BlockForm
    from handler.kernels.product.block_layout import PackedBlocks, packed_codes, packed_scales
    from handler.kernels.product.product import BlockProduct
    one = torch.ones(64, 1)
    for bits in (4, 8):
        codes = packed_codes(torch.ones(64, 32, dtype=torch.uint8), bits)
        packed = PackedBlocks(BlockForm(bits), codes, packed_scales(one, one))
        print(BlockProduct(packed, None)(torch.ones(1, 32).bfloat16()).tolist())
"""


def test_kernels_are_kept_and_damaged_ones_compiled_again(tmp_path: Path) -> None:
    def start() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    expected = start().stdout
    assert "[[1.0, 1.0, 1.0, 1.0]]" in expected
    kept = list((tmp_path / "kernels").iterdir())
    assert len(kept) == (7 if multiplies_bfloat16() else 4)
    written = [one.stat().st_mtime_ns for one in kept]
    assert start().stdout == expected
    assert [one.stat().st_mtime_ns for one in kept] == written
    for one in kept:
        held = bytearray(one.read_bytes())
        held[len(held) // 2] ^= 1
        one.write_bytes(held)
    found = start()
    assert found.stdout == expected
    assert found.stderr.count("a cached kernel is damaged") == len(kept)


def test_a_place_that_cannot_be_written_costs_time_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kernels").write_text("in the way")
    before = compiler._CACHE.directory
    compiler.use_cache_dir(tmp_path)
    try:
        assert compile_kernel(copy)
    finally:
        compiler._CACHE.directory = before
    assert "kernels are not cached" in caplog.text


def test_a_kernel_takes_only_numbers_from_around_it(tmp_path: Path) -> None:
    """Else what is kept could not be told from another."""

    def kernel(arguments: object) -> None:
        helper(arguments)

    helper = print
    before = compiler._CACHE.directory
    compiler.use_cache_dir(tmp_path)
    try:
        with pytest.raises(TypeError, match="only integers"):
            compile_kernel(kernel)
    finally:
        compiler._CACHE.directory = before


def test_no_kernels_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable(torch.bfloat16)
    assert not usable(torch.float16)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not usable(torch.bfloat16)
