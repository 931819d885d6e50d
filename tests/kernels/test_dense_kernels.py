"""Products with bfloat16 weights by the matrix unit, against float32 products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handler.linears.choice import Replaced, prepack_linears, prepacked
from handler.linears.kernel_linear import KernelLinear
from handler.linears.onednn_linear import OneDnnLinear

pytestmark = [
    pytest.mark.usefixtures("several_threads"),
    pytest.mark.needs("amx"),
]

SHAPES = [(64, 32), (192, 576), (128, 1536)]


def weight_of(shape: tuple[int, int]) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) * 0.05).bfloat16()


def rows(count: int, width: int) -> Tensor:
    return torch.randn(1, count, width, generator=torch.Generator().manual_seed(count)).bfloat16()


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.float(), expected, atol=1e-3, rtol=8e-3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_the_weights(shape: tuple[int, int], bias: bool) -> None:
    weight = weight_of(shape)
    offset = torch.randn(shape[0]).bfloat16() if bias else None
    made = prepacked(weight, offset)
    assert isinstance(made, KernelLinear)
    for count in (1, 2, 15, 16, 17, 31, 32, 33, 64, 70):
        x = rows(count, shape[1])
        expected = x.float() @ weight.float().T + (0 if offset is None else offset.float())
        other = torch.randn_like(expected).bfloat16()
        close(made(x), expected)
        close(made.silu(x), F.silu(expected))
        close(made.times(x, other), expected * other.float())
        close(made.plus(x, other), expected + other.float())


def test_a_row_has_the_same_bits_among_any_number_and_on_any_number_of_threads() -> None:
    made = prepacked(weight_of((192, 576)))
    x = rows(70, 576)
    alone = torch.cat([made(x[:, i : i + 1]) for i in range(70)], 1)
    before = torch.get_num_threads()
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        try:
            for count in (2, 3, 15, 16, 17, 32, 33, 70):
                assert torch.equal(made(x[:, :count]), alone[:, :count])
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize(("shape", "count"), [((64, 64), 600), ((64, 32768), 70)], ids=str)
def test_more_rows_than_the_cache_has_room_for(shape: tuple[int, int], count: int) -> None:
    made, x = prepacked(weight_of(shape)), rows(count, shape[1])
    got = made(x)
    torch.testing.assert_close(got.float(), x.float() @ weight_of(shape).float().T, atol=1e-2, rtol=1e-2)
    for i in (0, 31, 32, 69, count - 1):
        assert torch.equal(made(x[:, i : i + 1])[0, 0], got[0, i])


def test_nan_and_infinity_stay_in_their_rows() -> None:
    made = prepacked(weight_of((64, 64)))
    x = rows(34, 64)
    x[0, 3, 7], x[0, 20, 9] = float("nan"), float("inf")
    spoiled = {i for i, fine in enumerate(made(x).isfinite().all(-1)[0].tolist()) if not fine}
    assert spoiled == {3, 20}


def test_the_weight_can_be_read_back() -> None:
    weight = weight_of((128, 96))
    assert torch.equal(prepacked(weight).weight, weight)


def test_other_shapes_and_types_go_to_onednn() -> None:
    for weight in (weight_of((48, 64)), weight_of((64, 48)), weight_of((64, 64)).float()):
        assert type(prepacked(weight)) is OneDnnLinear


def test_a_models_linears_are_replaced_and_put_back() -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64, bias=False)).bfloat16()
    x, before = rows(3, 64), model[0].weight.clone()
    expected = model(x)
    plain = list(model)
    replaced: list[Replaced] = []
    prepack_linears(model, replaced)
    assert all(type(layer) is KernelLinear for layer in model)
    torch.testing.assert_close(model(x), expected, atol=2e-3, rtol=2e-2)
    for one in replaced:
        one.restore()
    assert list(model) == plain
    assert torch.equal(model[0].weight, before)
