"""`make bench-rivals`: measures this server and its rivals in turn on one machine; prints figures and ratios.

Each round starts one server after the other, alone on the machine, and sends each the same requests. A figure in the
table is the median of the rounds. Compare figures only within one run on one quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections import defaultdict

import aiohttp

from bench.load import measure, measure_repeat
from bench.rivals.contenders import rivals
from bench.rivals.install import HOME
from bench.servers import Contender, DidNotStart, Running, ours, started

# Words of filler for a prompt of about 1,000 tokens; the table shows the server's count.
_LONG_WORDS = 430
# (concurrency, requests, words of filler)
_PLAN = ((1, 4, 10), (8, 24, 10), (32, 64, 10), (64, 128, 10), (1, 3, _LONG_WORDS), (8, 16, _LONG_WORDS))
_LIGHT_PLAN = ((1, 2, 10), (8, 16, 10), (32, 32, 10))
_SMOKE_PLAN = ((1, 1, 10), (2, 2, 10))
_NUM_REPEATED = 3

# Measurement -> one value for each round.
Table = dict[str, list[float]]


def main() -> int:
    """Measure all servers and print the table. Returns 1 if any request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of times each server is started and measured")
    parser.add_argument("--only", help="only rivals whose name contains this")
    parser.add_argument("--smoke", action="store_true", help="send only a few requests, to check that everything runs")
    arguments = parser.parse_args()
    others = [each for each in rivals() if not arguments.only or arguments.only in each.name]
    contenders = [ours(), *others]
    tables: dict[str, Table] = {each.name: defaultdict(list) for each in contenders}
    for number in range(arguments.rounds):
        for contender in contenders:
            sys.stderr.write(f"round {number + 1}: {contender.name}\n")
            try:
                _measure(contender, tables[contender.name], number, smoke=arguments.smoke)
            except DidNotStart as exc:
                sys.stderr.write(f"{exc}\n")
                tables[contender.name]["failed requests"].append(1)
            # Print as soon as known, so that a later failure does not lose an hour of measurements.
            sys.stderr.write(f"{_medians(tables[contender.name])}\n")
    print(_report({name: _medians(table) for name, table in tables.items()}))
    return 1 if any(sum(table["failed requests"]) for table in tables.values()) else 0


def _measure(contender: Contender, table: Table, number: int, *, smoke: bool) -> None:
    """Start a server, run the plan, add the results to `table`."""
    log = HOME / f"{contender.name.split()[0]}.log"
    with started(contender, log) as running:
        table["exec to first token, s"].append(running.first_token_s)
        try:
            asyncio.run(_run_plan(contender, running, table, number, smoke=smoke))
        except aiohttp.ClientError as exc:
            # The server died under load; earlier results count.
            sys.stderr.write(f"{contender.name}: {type(exc).__name__}: {exc}\n")
            table["failed requests"].append(1)


async def _run_plan(contender: Contender, running: Running, table: Table, number: int, *, smoke: bool) -> None:
    options = dict(contender.options)
    await measure(running.url, 2, 2, options, first=10**6)
    failed = 0
    plan = _SMOKE_PLAN if smoke else _LIGHT_PLAN if contender.light else _PLAN
    for i, (concurrency, num_requests, num_words) in enumerate(plan):
        row = await measure(running.url, concurrency, num_requests, options, num_words, first=1000 * (10 * number + i))
        failed += row.num_errors
        prompt = "" if num_words < _LONG_WORDS else ", 1,000-token prompts"
        at = f"{concurrency} streams{prompt}"
        table[f"tok/s, {at}"].append(row.tokens_per_s)
        table[f"first token ms, {at}"].append(row.first_token_ms)
        table[f"gap ms, {at}"].append(row.gap_ms)
        if prompt:
            table["tokens of a long prompt"].append(row.num_prompt_tokens)
    table["failed requests"].append(failed)
    if not contender.light:
        new, again = await measure_repeat(running.url, _NUM_REPEATED, options, _LONG_WORDS, first=2 * 10**6)
        table["first token ms, long prompt, new"].append(new)
        table["first token ms, long prompt, again"].append(again)
        table["new / again"].append(new / again)


def _medians(table: Table) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in table.items()}


def _report(columns: dict[str, dict[str, float]]) -> str:
    """A Markdown table: our figure, then each rival's figure with the ratio (ours / theirs) in brackets."""
    mine, *others = columns
    lines = [
        f"| | {mine} | {' | '.join(f'{name} (ours / theirs)' for name in others)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row, value in columns[mine].items():
        cells = [_cell(value, columns[name].get(row)) for name in others]
        lines.append(f"| {row} | {value:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(mine: float, theirs: float | None) -> str:
    if theirs is None:
        return "-"
    return f"{theirs:.1f} ({mine / theirs:.2f})" if theirs else f"{theirs:.1f}"


if __name__ == "__main__":
    sys.exit(main())
