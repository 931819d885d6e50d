"""Attention over keys and values in int8, against torch in float32 over exactly the numbers that the codes mean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from handler.kernels.attention import byte_attention
from handler.kernels.attention.row_attention import RowAttention, row_attention
from handler.runners.quantised_keys import dequantise, quantise
from tests.kernels.test_attention_and_norm import MAX_LEN, MIXED, Layer

pytestmark = pytest.mark.usefixtures("several_threads")

# Of a result: bfloat16's own rounding, or a query's to 15 bits.
TOLERANCE = {torch.bfloat16: 4e-3, torch.float32: 3e-4}
# By products of bytes, and by numbers one by one.
UNITS = [pytest.param(True, id="bytes", marks=pytest.mark.needs("avx512_vnni")), pytest.param(False, id="any")]
# A line of 64 codes, a line and a half in float32; for any processor, a head that fills none.
SHAPES = {True: [(9, 3, 64, torch.bfloat16), (6, 2, 96, torch.float32)], False: [(4, 2, 80, torch.bfloat16)]}


@pytest.fixture(params=UNITS, scope="module")
def unit(request: pytest.FixtureRequest) -> Iterator[bool]:
    row_attention.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setattr(byte_attention, "multiplies_bytes", lambda: False)
        yield request.param
    row_attention.cache_clear()


class ByteLayer(Layer):
    """A layer whose cache holds codes and scales."""

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__(num_heads, num_kv_heads, head_dim, dtype)
        (keys, of_keys), (values, of_values) = (quantise(part, torch.int8) for part in self.cache)
        self.cache = (keys, values, *(part.transpose(1, 2).contiguous() for part in (of_keys, of_values)))

    def numbers(self) -> list[Tensor]:
        """Keys and values that the codes mean."""
        pairs = zip(self.cache[:2], self.cache[2:], strict=True)
        return [dequantise(codes, scales.transpose(1, 2), torch.float32) for codes, scales in pairs]

    def embedded(self, rows: dict[str, Tensor]) -> Tensor:
        """Queries and keys after rotary embedding, float32."""
        heads, half = rows["heads"].float(), self.shape[2] // 2
        turned = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
        return heads * rows["cosines"].float()[:, None] + turned * rows["sines"].float()[:, None]

    def attended(self, rows: dict[str, Tensor], scale: float, window: int) -> Tensor:
        """Over what the cache holds."""
        num_heads, num_kv_heads, head_dim, _ = self.shape
        out, heads, numbers = [], self.embedded(rows), self.numbers()
        for row, (flat, position) in enumerate(zip(rows["flat_index"], rows["positions"], strict=True)):
            first = max(0, int(position) + 1 - window) if window else 0
            seen = slice(first, int(position) + 1)
            keys, values = (part[int(flat) // MAX_LEN, seen].transpose(0, 1) for part in numbers)
            query = heads[row, :num_heads].view(num_kv_heads, -1, head_dim)
            out.append(F.scaled_dot_product_attention(query, keys, values, scale=scale).reshape(-1))
        return torch.stack(out)


def run(kernel: RowAttention, layer: Layer, rows: dict[str, Tensor], window: int = 0) -> Tensor:
    return kernel(**rows, cache=tuple(layer.cache), scale=0.2, window=window)


def test_attention_is_torchs_over_the_numbers_that_the_codes_mean(unit: bool) -> None:
    for *shape, dtype in SHAPES[unit]:
        for window in (0, 5, 33):
            layer = ByteLayer(*shape, dtype)
            rows = layer.rows(MIXED)
            got = run(row_attention(*shape, dtype, in_bytes=True), layer, rows, window)
            expected = layer.attended(rows, 0.2, window)
            assert got.dtype is dtype
            torch.testing.assert_close(got.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_new_keys_and_values_are_rounded_to_the_nearest_code(unit: bool) -> None:
    for shape in SHAPES[unit]:
        layer = ByteLayer(*shape)
        rows = layer.rows(MIXED)
        run(row_attention(*shape, in_bytes=True), layer, rows)
        heads, places = layer.embedded(rows)[:, shape[0] :], rows["flat_index"]
        for numbers, scales, new in zip(layer.numbers(), layer.cache[2:], (heads, rows["values"]), strict=True):
            step = scales.transpose(1, 2).flatten(0, 1)[places]
            torch.testing.assert_close(step, new.float().abs().amax(-1) / 127)
            assert ((numbers.flatten(0, 1)[places] - new.float()).abs() <= 0.502 * step[..., None]).all()


def test_a_row_has_the_same_bits_alone_and_among_others(unit: bool) -> None:
    places = MIXED + [(0, position) for position in range(30, 50)]
    for shape in SHAPES[unit]:
        kernel = row_attention(*shape, in_bytes=True)
        for window in (0, 33):
            together, apart = ByteLayer(*shape), ByteLayer(*shape)
            rows = together.rows(places)
            got = run(kernel, together, rows, window)
            for i in range(len(places)):
                one = {name: part[i : i + 1] for name, part in rows.items()}
                assert torch.equal(run(kernel, apart, one, window)[0], got[i])
            assert all(map(torch.equal, together.cache, apart.cache))


def test_nan_stays_with_its_row_and_its_sequence(unit: bool) -> None:
    shape = SHAPES[unit][0]
    layer, head_dim = ByteLayer(*shape), shape[2]
    rows = layer.rows([(0, 10), (1, 10), (2, 10), (1, 11)])
    rows["heads"][0, 0, 3] = float("nan")  # a query
    rows["values"][1, 0, 5] = float("inf")
    layer.cache[2][3] = layer.cache[3][3] = float("nan")  # nobody's slot
    layer.cache[2][2, :, 11:] = layer.cache[3][2, :, 11:] = float("nan")  # behind the last row's sequence
    got = run(row_attention(*shape, in_bytes=True), layer, rows)
    assert got[0, :head_dim].isnan().all()
    assert got[0, head_dim:].isfinite().all()
    assert not got[[1, 3], :head_dim].isfinite().any()
    assert got[2].isfinite().all()


def test_zeros_have_scale_zero(unit: bool) -> None:
    shape = SHAPES[unit][0]
    layer = ByteLayer(*shape)
    rows = {name: part * 0 if part.is_floating_point() else part for name, part in layer.rows([(0, 0)]).items()}
    assert not run(row_attention(*shape, in_bytes=True), layer, rows).any()
    assert not layer.cache[2][0, :, 0].any()
