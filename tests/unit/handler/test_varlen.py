"""The CPU emulator against attention written out query by query, and torch's own function against our call of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest

from handler.runners.attention import LayerTraits, UnsupportedAttention
from handler.runners.paged.input import PagedInput
from handler.runners.paged.varlen import torch_varlen, varlen_attention, varlen_attn_cpu
from handler.runners.paged.windows import window_attention, window_parts

PAGE = 4
DIM = 8


def by_hand(q: Tensor, k: Tensor, v: Tensor, left: int, right: int, scale: float) -> Tensor:
    """`q` `[Q, Hq, D]` over `k`, `v` `[K, Hkv, D]`, one query and head at a time; the last query is at the last key."""
    out = torch.zeros_like(q)
    shift = len(k) - len(q)
    for i in range(len(q)):
        for head in range(q.shape[1]):
            kv_head = head // (q.shape[1] // k.shape[1])
            seen = [
                j
                for j in range(len(k))
                if (left < 0 or j >= i + shift - left) and (right < 0 or j <= i + shift + right)
            ]
            scores = torch.tensor([float(q[i, head] @ k[j, kv_head]) * scale for j in seen]).exp()
            out[i, head] = sum(w * v[j, kv_head] for w, j in zip(scores / scores.sum(), seen, strict=True))
    return out


def paged(lengths: list[tuple[int, int]], hq: int, hkv: int, seed: int) -> dict[str, Any]:
    """Arguments for sequences of (queries, keys), pages in random order, every key slot that is not theirs NaN."""
    gen = torch.Generator().manual_seed(seed)
    counts = [-(-keys // PAGE) for _, keys in lengths]
    order = (torch.randperm(sum(counts), generator=gen) + 1).tolist()
    key = torch.full((sum(counts) + 1, PAGE, hkv, DIM), float("nan"))
    value = key.clone()
    table = torch.zeros(len(lengths), max(counts) + 1, dtype=torch.int32)
    for i, (_, keys) in enumerate(lengths):
        pages, order = order[: counts[i]], order[counts[i] :]
        table[i, : counts[i]] = torch.tensor(pages)
        for j in range(keys):
            key[pages[j // PAGE], j % PAGE] = torch.randn(hkv, DIM, generator=gen)
            value[pages[j // PAGE], j % PAGE] = torch.randn(hkv, DIM, generator=gen)
    queries = torch.tensor([q for q, _ in lengths])
    used = torch.tensor([k for _, k in lengths])
    return {
        "query": torch.randn(int(queries.sum()), hq, DIM, generator=gen),
        "key": key,
        "value": value,
        "cu_seq_q": torch.cat([torch.zeros(1), queries.cumsum(0)]).int(),
        "cu_seq_k": torch.cat([torch.zeros(1), used.cumsum(0)]).int(),
        "max_q": int(queries.max()),
        "max_k": table.shape[1] * PAGE,
        "scale": 0.3,
        "enable_gqa": hq != hkv,
        "seqused_k": used.int(),
        "block_table": table,
    }


@settings(max_examples=40)
@given(
    lengths=st.lists(
        st.integers(1, 11).flatmap(lambda k: st.tuples(st.integers(1, k), st.just(k))), min_size=1, max_size=4
    ),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    window=st.sampled_from([(-1, -1), (-1, 0), (0, 0), (2, 0), (100, 0)]),
    seed=st.integers(0, 1000),
)
def test_emulator(lengths: list[tuple[int, int]], heads: tuple[int, int], window: tuple[int, int], seed: int) -> None:
    given_ = paged(lengths, *heads, seed)
    out, logsumexp = varlen_attention(**given_, window_size=window)
    key, value, table = given_["key"], given_["value"], given_["block_table"].long()
    row = 0
    for i, (queries, keys) in enumerate(lengths):
        k, v = (pool[table[i]].flatten(0, 1)[:keys] for pool in (key, value))
        expected = by_hand(given_["query"][row : row + queries], k, v, *window, given_["scale"])
        torch.testing.assert_close(out[row : row + queries], expected)
        if window == (-1, -1):
            scores = given_["query"][row : row + queries].transpose(0, 1) @ k.repeat_interleave(
                heads[0] // heads[1], 1
            ).permute(1, 2, 0)
            torch.testing.assert_close(logsumexp[:, row : row + queries], (scores * given_["scale"]).logsumexp(-1))
        row += queries


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 23), min_size=1, max_size=4),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    window=st.integers(1, 14),
    sinks=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_windows_in_parts_are_the_window(
    lengths: list[int], heads: tuple[int, int], window: int, sinks: bool, seed: int
) -> None:
    """Keys before the window, and those after a sequence's last, are NaN or another's."""
    given_ = paged([(1, keys) for keys in lengths], *heads, seed)
    query, key, value = (given_[name] for name in ("query", "key", "value"))
    step = PagedInput(
        *[torch.zeros(1, len(lengths)).long()] * 2, torch.zeros(len(lengths)).long(),
        *(given_[name] for name in ("cu_seq_q", "cu_seq_k", "seqused_k", "block_table", "max_q", "max_k")), None,
    )  # fmt: skip
    traits = LayerTraits(given_["scale"], window, sinks=torch.linspace(-1, 1, heads[0]) if sinks else None)
    found = window_attention(query, key, value, window_parts(step, window, PAGE), traits)
    expected, logsumexp = varlen_attention(**given_, window_size=(window - 1, 0))
    if traits.sinks is not None:
        expected = expected * torch.sigmoid(logsumexp - traits.sinks[:, None]).t()[..., None]
    torch.testing.assert_close(found, expected)


def test_torchs_function_takes_our_call() -> None:
    """On the meta device: names, types and shapes are checked, nothing is computed."""
    given_ = paged([(1, 5), (3, 9)], 4, 2, 0)
    meta = {name: arg.to("meta") if isinstance(arg, Tensor) else arg for name, arg in given_.items()}
    query, key, value, *rest = (meta.pop(name) for name in list(meta)[:7])
    out, logsumexp = torch_varlen()(
        query, key, value, *rest, **meta, window_size=(2, 0), return_aux=AuxRequest(lse=True)
    )
    assert (out.shape, logsumexp.shape) == (query.shape, (query.shape[1], query.shape[0]))
    meta["block_table"], flat = None, (pool.flatten(0, 1) for pool in (key, value))
    torch_varlen()(query, *flat, *rest, **meta, window_size=(-1, -1), return_aux=AuxRequest(lse=True))


def test_a_torch_without_block_tables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.nn.attention.varlen as young

    def varlen_attn(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
        return query * math.nan

    monkeypatch.setattr(young, "varlen_attn", varlen_attn)
    torch_varlen.cache_clear()
    try:
        with pytest.raises(UnsupportedAttention, match="window_size, enable_gqa, seqused_k, block_table, return_aux"):
            torch_varlen()
    finally:
        torch_varlen.cache_clear()


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("enable_gqa", lambda _: False, ValueError),
        ("block_table", lambda t: t.long(), ValueError),
        ("max_q", lambda _: 1, ValueError),
        ("max_k", lambda _: 8, ValueError),
        ("value", lambda t: t[..., :4], UnsupportedAttention),
        ("query", lambda t: t[..., :6], UnsupportedAttention),
    ],
)
def test_what_the_kernel_would_not_take_is_refused(name: str, change: Any, error: type[Exception]) -> None:
    given_ = paged([(1, 5), (3, 9)], 4, 2, 0)
    given_[name] = change(given_[name])
    with pytest.raises(error):
        varlen_attention(**given_, window_size=(-1, 0))


def test_the_emulator_has_a_shape_without_data() -> None:
    given_ = paged([(1, 5), (3, 9)], 4, 2, 0)
    meta = {name: arg.to("meta") if isinstance(arg, Tensor) else arg for name, arg in given_.items()}
    assert varlen_attn_cpu(**meta, window_size=(-1, 0))[0].shape == given_["query"].shape
