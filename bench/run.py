"""`make bench`: start the server on the bundled model, measure it at several concurrencies, print a table.

Compare figures only within one run on one quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench.load import Figures, measure
from bench.servers import ours, started

_OPTIONS = {"max_tokens": 64, "temperature": 0, "ignore_eos": True}
_LOG = Path(tempfile.gettempdir()) / "tgi-heir-bench.log"


def main() -> int:
    """Measure the server at --url, or start one. Returns 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running server; default: start one on a free port")
    parser.add_argument("--plan", default="1:4,8:24,32:64", help="concurrency:requests, comma-separated")
    parser.add_argument("--words", type=int, default=10, help="words of filler in each prompt")
    arguments = parser.parse_args()
    if arguments.url:
        rows = asyncio.run(_plan(arguments.url, arguments.plan, arguments.words))
    else:
        with started(ours(), _LOG) as running:
            print(f"first token {running.first_token_s:.1f} s after exec")
            rows = asyncio.run(_plan(running.url, arguments.plan, arguments.words))
    _print(rows)
    return 1 if any(row.num_errors for row in rows) else 0


async def _plan(url: str, plan: str, num_words: int) -> list[Figures]:
    await measure(url, 2, 2, _OPTIONS | {"max_tokens": 8}, num_words, first=10**6)
    rows = []
    for i, step in enumerate(plan.split(",")):
        concurrency, num_requests = map(int, step.split(":"))
        rows.append(await measure(url, concurrency, num_requests, _OPTIONS, num_words, first=10_000 * (i + 1)))
    return rows


def _print(rows: list[Figures]) -> None:
    print("| streams | requests | errors | tok/s | vs 1 stream | first token ms p50 / p95 | gap ms p50 / p99 |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.concurrency} | {row.num_requests} | {row.num_errors} | {row.tokens_per_s:.1f} "
            f"| {row.tokens_per_s / rows[0].tokens_per_s:.1f} "
            f"| {row.first_token_ms:.0f} / {row.first_token_p95_ms:.0f} "
            f"| {row.gap_ms:.1f} / {row.gap_p99_ms:.1f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
