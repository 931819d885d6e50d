"""The draws of one step: temperature, truncation group by group, and a token for each row at its uniform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.sampling.distribution import Distribution, distribution
from handler.sampling.plan import Group, Kind, Plan, plan_draws
from handler.sampling.reports import Reports, num_sought
from handler.sampling.transfer import upload
from handler.sampling.warping import Choice, truncate


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """What a group left, and the places of its tokens `[m, 1]` among that; None where nothing truncates."""

    group: Group
    choice: Choice | None
    places: Tensor | None


class Draws:
    """`tokens` int64 `[m]` in the plan's order; `rows[j]` is the row of the batch at place j.

    `beyond`, bool, is true for each nucleus, from place `first_nucleus` on, that needs more candidates; None if none
    can.
    """

    def __init__(self, plan: Plan, rows: list[int], found: Distribution, sent: Mapping[str, Tensor]) -> None:
        self.rows = rows
        self._plan = plan
        self._distribution = found
        self._drawn: list[_Drawn] = []
        self.beyond: Tensor | None = None
        self.first_nucleus = 0
        tokens = [self._draw(group, sent) for group in plan.groups]
        self.tokens = tokens[0] if len(tokens) == 1 else torch.cat(tokens)

    def _draw(self, group: Group, sent: Mapping[str, Tensor]) -> Tensor:
        uniforms = sent["uniform"][group.rows]
        if group.kind is Kind.PLAIN:
            self._drawn.append(_Drawn(group, None, None))
            return self._distribution.draw(group.last, uniforms)
        totals = self._distribution.totals
        if totals is not None:
            totals = totals[group.first : group.first + group.num_nucleus]
        choice = truncate(self._distribution.scores[group.rows], totals, group, sent)
        if choice.beyond is not None:
            self.beyond, self.first_nucleus = choice.beyond, group.first
        tokens, places = choice.draw(uniforms)
        self._drawn.append(_Drawn(group, choice, places))
        return tokens

    def again(self, places: list[int], attempt: int) -> Draws:
        """The draws of the rows at `places`, which need more candidates."""
        plan = self._plan
        scores, totals = self._distribution.scores, self._distribution.totals
        chosen = plan_draws(
            places,
            [plan.params[place] for place in places],
            [plan.uniforms[place] for place in places],
            scores.shape[1],
            scores.device,
            attempt,
        )
        sent = upload(chosen.arrays(), scores.device)
        found = _Selected(
            scores.index_select(0, sent["order"]), None if totals is None else totals.index_select(0, sent["order"])
        )
        return Draws(chosen, [self.rows[place] for place in chosen.order], found, sent)

    def report(self, reports: Reports, wanted: Mapping[int, int]) -> None:
        """Add the log-probabilities of the warped distributions of the batch's rows in `wanted`: row -> most likely
        tokens."""
        for drawn in self._drawn:
            group = drawn.group
            rows = [row if row in wanted else None for row in self.rows[group.rows]]
            if not any(row is not None for row in rows):
                continue
            if self.tokens.device.type == "cpu":
                for i, row in enumerate(rows):
                    if row is not None:
                        self._report_row(reports, drawn, i, row, wanted[row])
            else:
                self._report_group(reports, drawn, rows, wanted)

    def _report_row(self, reports: Reports, drawn: _Drawn, i: int, row: int, num_top: int) -> None:
        if drawn.choice is None or drawn.places is None:
            place = drawn.group.first + i
            own = self.tokens[place].view(1, 1)
            reports.add([row], [num_top], self._distribution.log_probs(place)[None], own)
            return
        assert drawn.choice.counts is not None
        left = slice(0, drawn.choice.counts[i])
        logprobs, ids = drawn.choice.probs[i, left].log()[None], drawn.choice.token_ids[i, left][None]
        reports.add([row], [num_top], logprobs, drawn.places[i : i + 1], ids)

    def _report_group(self, reports: Reports, drawn: _Drawn, rows: list[int | None], wanted: Mapping[int, int]) -> None:
        """All rows of a group: the others cost less than choosing would."""
        scores = self._distribution.scores
        sought = [0 if row is None else num_sought(wanted[row], scores.shape[1], scores.device) for row in rows]
        for width in sorted({num for num, row in zip(sought, rows, strict=True) if row is not None}):
            those = [row if num == width else None for num, row in zip(sought, rows, strict=True)]
            num_top = [wanted[row] if row is not None else width for row in those]
            if drawn.choice is None or drawn.places is None:
                reports.add(those, num_top, scores[drawn.group.rows], self.tokens[drawn.group.rows][:, None])
            else:
                probs = drawn.choice.probs / drawn.choice.probs.sum(-1, keepdim=True)
                reports.add(those, num_top, probs.log(), drawn.places, drawn.choice.token_ids)


@dataclass(slots=True)
class _Selected:
    """Rows of another distribution, all of them truncated."""

    scores: Tensor
    totals: Tensor | None

    def draw(self, count: int, uniforms: Tensor) -> Tensor:
        raise NotImplementedError

    def log_probs(self, place: int) -> Tensor:
        raise NotImplementedError


def draw(plan: Plan, given: Tensor, highest: Callable[[], Tensor], sent: Mapping[str, Tensor]) -> Draws:
    """Draw from `given` `[m, vocab]`, any float dtype, in the plan's order; `highest` tells its maxima `[m]`."""
    temperature = sent["temperature"]
    scaled = given / temperature[:, None]
    # Rounding keeps order: the highest quotient is that of the highest.
    found = distribution(scaled, lambda: highest() / temperature, plan.num_plain, plan.num_open)
    return Draws(plan, plan.order, found, sent)
