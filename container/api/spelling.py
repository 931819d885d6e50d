"""The known names that a misspelt one may stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

# Longer names than any of ours are not compared: clients choose them.
_MAX_CHARS = 64
_MAX_SHOWN = 3
# How many slips count in names of at least this length; in shorter ones they leave too little of the name.
_SLIPS = ((1, 1), (2, 6), (3, 12))


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The question that ends an error message; empty if no known name is near."""
    found = [f"`{each}`" for each in near(name, known)[:_MAX_SHOWN]]
    return f" Did you mean {' or '.join(found)}?" if found else ""


def near(name: str, known: Collection[str]) -> list[str]:
    """The nearest known names: in another style (`maxTokens`), else with the fewest slips."""
    if len(name) > _MAX_CHARS:
        return []
    plain = _plain(name)
    styled = [each for each in known if _plain(each) == plain]
    by_slips = (_within(slips, name, [each for each in known if len(each) >= least]) for slips, least in _SLIPS)
    return styled or next(filter(None, by_slips), [])


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _within(slips: int, name: str, known: Iterable[str]) -> list[str]:
    found = [each for each in known if _comparable(name, each, slips) and distance(name, each) <= slips]
    return sorted(found, key=lambda each: (each[:1] != name[:1], abs(len(each) - len(name)), each))


def _comparable(name: str, other: str, slips: int) -> bool:
    """False where the distance is certainly greater, or the names share nothing: any letter is a slip of `n`."""
    apart = len(set(name) ^ set(other))
    return abs(len(name) - len(other)) <= slips and apart <= 2 * slips and not set(name).isdisjoint(other)


def distance(one: str, other: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour to make `other` of `one`."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
