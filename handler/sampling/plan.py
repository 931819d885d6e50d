"""The draws of one step, planned on the host: rows that are truncated alike stand together, as `[m]`-shaped arrays.

No row's numbers depend on which rows are beside it: what a group shares is kernels, never widths or thresholds.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handler.seam.protocol import SamplingParams

# Candidates tried before the whole vocabulary is sorted; a nucleus rarely holds more. CPU looks at few first. A GPU
# would have to ask the host for the second look, so its first one is wide.
_NUM_CANDIDATES = 256
_MAX_CANDIDATES = 1024
# Second try, for a row whose nucleus is larger.
_MANY_CANDIDATES = 4096
# Rows that a GPU sorts whole at a time: each takes 70 bytes a token of the vocabulary meanwhile.
_MOST_SORTED = 64
# Never above any probability, and below each.
_ALWAYS, _LEAST = float("inf"), 1e-300


class Kind(enum.IntEnum):
    """How a row is truncated: not, among its best tokens, among all, or by typicality, which changes their order."""

    PLAIN = 0
    HEAD = 1
    WHOLE = 2
    TYPICAL = 3


@dataclass(frozen=True, slots=True)
class Group:
    """Rows `[first, last)` of the plan, the slice `rows`, truncated alike among their `width` best tokens.

    The first `num_nucleus` of them have no top-k, so that lower tokens may be needed. `most` is how many tokens top-k
    leaves of each row, at most `width`. `by_*` say which limits any row of the group has.
    """

    kind: Kind
    width: int
    first: int
    last: int
    rows: slice
    num_nucleus: int
    most: list[int]
    by_top_k: bool
    by_top_p: bool
    by_min_p: bool


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """`order[j]` is the row of the batch that stands at place j; `groups` cover all places, untruncated rows first."""

    order: list[int]
    groups: list[Group]
    params: list[SamplingParams]
    uniforms: list[float]

    @property
    def num_plain(self) -> int:
        """Places, all at the beginning, of PLAIN rows."""
        return self.groups[0].last if self.groups and self.groups[0].kind is Kind.PLAIN else 0

    @property
    def num_open(self) -> int:
        """Places, all at the beginning, whose rows need the sum over the vocabulary: PLAIN and nucleus."""
        return self.num_plain + sum(group.num_nucleus for group in self.groups)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Per place: the row and all numbers that a group reads. Limits that a row does not have are neutral."""
        if not self.order:
            return {}
        params = self.params
        found: dict[str, NDArray[Any]] = {
            "order": np.array(self.order),
            "temperature": np.array([p.temperature for p in params], np.float32),
            "uniform": np.array(self.uniforms),
        }
        if any(group.by_top_k for group in self.groups):
            found["top_k"] = np.array([p.top_k or np.iinfo(np.int64).max for p in params])
            found["places"] = np.arange(max(g.width for g in self.groups if g.by_top_k), dtype=np.int32)
        if any(group.by_top_p for group in self.groups):
            found["top_p"] = np.array([max(p.top_p, _LEAST) if p.top_p < 1.0 else _ALWAYS for p in params])
        if any(group.by_min_p for group in self.groups):
            found["min_p"] = np.array([p.min_p for p in params])
        if self.groups[-1].kind is Kind.TYPICAL:
            found["typical_p"] = np.array([p.typical_p if p.typical_p < 1.0 else _ALWAYS for p in params])
        return found


def plan_draws(
    rows: Sequence[int],
    params: Sequence[SamplingParams],
    uniforms: Sequence[float],
    vocab_size: int,
    device: torch.device,
    attempt: int = 0,
) -> Plan:
    """Plan the draws of `rows`, none of them greedy. A nucleus is looked for among ever more tokens with `attempt`."""
    if not rows:
        return Plan([], [], [], [])
    on_cpu = device.type == "cpu"
    keys = [_key(p, vocab_size, on_cpu, attempt) for p in params]
    places = sorted(range(len(rows)), key=keys.__getitem__)
    groups: list[Group] = []
    first = 0
    for (kind, width), members in groupby(places, key=lambda i: keys[i][:2]):
        members_ = list(members)
        # On CPU a row that is sorted whole is a group of its own: its sums are then over its own tokens alone.
        size = len(members_) if kind < Kind.WHOLE else 1 if on_cpu else _MOST_SORTED
        parts = [members_[i : i + size] for i in range(0, len(members_), size)]
        for part in parts:
            groups.append(_group(Kind(kind), width, first, [params[i] for i in part]))
            first += len(part)
    return Plan([rows[i] for i in places], groups, [params[i] for i in places], [uniforms[i] for i in places])


def _group(kind: Kind, width: int, first: int, params: list[SamplingParams]) -> Group:
    most = [min(p.top_k, width) or width for p in params]
    return Group(
        kind,
        width,
        first,
        first + len(params),
        slice(first, first + len(params)),
        num_nucleus=[p.top_k for p in params].count(0) if kind is Kind.HEAD else 0,
        most=most,
        by_top_k=max([p.top_k for p in params]) > 0,
        by_top_p=min([p.top_p for p in params]) < 1.0,
        by_min_p=max([p.min_p for p in params]) > 0.0,
    )


def _key(params: SamplingParams, vocab_size: int, on_cpu: bool, attempt: int) -> tuple[int, int, int]:
    """Kind, width, and whether the row has a top-k: rows with equal kind and width make a group."""
    if not _truncates(params):
        return Kind.PLAIN, 0, 0
    if params.typical_p < 1.0:
        return Kind.TYPICAL, vocab_size, 0
    if attempt == 0 and params.top_k <= _MAX_CANDIDATES:
        least = _NUM_CANDIDATES if on_cpu else _MAX_CANDIDATES
        width = min(vocab_size, max(least, params.top_k))
        if params.top_k <= width:
            return Kind.HEAD, width, params.top_k > 0
    elif attempt <= 1 and (on_cpu or attempt) and params.top_k <= _MANY_CANDIDATES < vocab_size:
        return Kind.HEAD, _MANY_CANDIDATES, params.top_k > 0
    return Kind.WHOLE, vocab_size, 0


def _truncates(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0 or params.typical_p < 1.0
