"""What transformers does to weights while it loads them gives the same weight, and keeps codes where it can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.core_model_loading import Chunk, Concatenate, MergeModulelist, Transpose

from handler.linears.quantised_weight import QuantisedWeight
from handler.model.loading.carried_weight import CarriedWeight, DenseWeight


def carried(seed: int, **changes: Any) -> CarriedWeight:
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(16, (8, 64), generator=draw, dtype=torch.uint8)
    scale = torch.rand(8, 2, generator=draw)
    made = QuantisedWeight(4, codes, scale, minimum=-scale, zero=8.0)
    return CarriedWeight(replace(made, **changes), torch.float32)


def merged(parts: list[Any]) -> Any:
    """As transformers makes one weight of the gates and the up projections of two experts."""
    given = {"gate": parts[:2], "up": parts[2:]}
    stacked = MergeModulelist(dim=0).convert(given, ["gate", "up"], ["both"])
    return Concatenate(dim=1).convert(stacked, ["gate", "up"], ["both"])["both"]


def second_half(parts: list[Any]) -> Any:
    return Chunk(dim=0).convert({"all": [parts[0]]}, ["all"], ["q", "k"])["k"]


def transposed(parts: list[Any]) -> Any:
    return Transpose(dim0=0, dim1=1).convert({"all": [parts[0]]}, ["all"], ["all"])["all"]


@pytest.mark.parametrize(
    ("work", "keeps_codes"),
    [
        (merged, True),
        (second_half, True),
        (transposed, False),
        (lambda parts: torch.cat(parts, dim=0), True),
        (lambda parts: torch.cat(parts, dim=-2), True),
        (lambda parts: torch.cat(parts, 1), False),
        (lambda parts: torch.stack(parts, 1), False),
        (lambda parts: torch.split(parts[0], [2, 6])[1], True),
        (lambda parts: torch.split(parts[0], [40, 24], dim=1)[1], False),
        (lambda parts: parts[0].reshape(16, 32), False),
        (lambda parts: parts[0][...].to("cpu", torch.bfloat16), True),
        (lambda parts: parts[0][2:4], False),
    ],
)
def test_it_is_the_weight_it_stands_for(work: Callable[[list[Any]], Any], keeps_codes: bool) -> None:
    parts = [carried(seed) for seed in range(4)]
    found, expected = work(parts), work([part.dense() for part in parts])
    assert isinstance(found, CarriedWeight) is keeps_codes
    given = found.dense() if keeps_codes else found
    assert given.dtype is expected.dtype
    assert torch.equal(given, expected)


@pytest.mark.parametrize(
    "changes",
    [{"zero": 7.0}, {"minimum": None}, {"bits": 3}, {"order": torch.arange(63, -1, -1)}, {"table": torch.rand(16)}],
)
def test_weights_of_other_forms_are_joined_dense(changes: dict[str, Any]) -> None:
    parts = [carried(0), carried(1, **changes)]
    found = torch.cat(parts)  # type: ignore[arg-type]
    assert not isinstance(found, CarriedWeight)
    assert torch.equal(found, torch.cat([part.dense() for part in parts]))


def test_tables_with_nan_are_of_one_form() -> None:
    table = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    assert table.isnan().any()
    parts = [carried(seed, bits=8, table=table.clone()) for seed in range(2)]
    found = torch.cat(parts)  # type: ignore[arg-type]
    assert isinstance(found, CarriedWeight)
    assert torch.equal(found.dense(), torch.cat([part.dense() for part in parts]))


def test_columns_in_another_order_go_back_to_their_inputs() -> None:
    plain, order = carried(0).weight, torch.randperm(64)
    moved = replace(plain, codes=plain.codes[:, order], scale=plain.scale[:, :1], minimum=None, order=order)
    still = replace(plain, scale=plain.scale[:, :1], minimum=None)
    assert torch.equal(moved.dequantise(torch.float32), still.dequantise(torch.float32))


def test_a_dense_weight_of_a_reader_stays_one() -> None:
    """It has the orientation of `[N, K]`, which a module may have the other way round."""
    tensor = torch.rand(8, 64)
    found = DenseWeight(tensor, torch.float32, 300)[...].to(dtype=torch.bfloat16)
    assert isinstance(found, DenseWeight)
    assert torch.equal(found.dense(), tensor.bfloat16())
    assert torch.equal(torch.cat([found, found]), torch.cat([tensor, tensor]).bfloat16())  # type: ignore[list-item]
