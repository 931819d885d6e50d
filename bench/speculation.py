"""`python -m bench.speculation`: one server with speculation, one without, on the same prompts in turn.

`--model PAIR/served --draft-model PAIR/draft` measures a draft model (`bench.models --pair`), else n-grams alone guess;
with `--without N` too, against n-grams.

Printed for each kind of prompt and number of streams: tokens a second of both, their ratio (above 1 speculation is
faster), the ratio of the engines' processor time for a token, which other load disturbs less (below 1 is better), and
tokens of a step. Each answer of one server must be the other's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from bench.servers import Running, ours, started

_PROMPTS = Path(__file__).parent / "data" / "speculation.json"


def main() -> None:
    """Print a line for each number of streams and kind of prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speculate", type=int, default=16)
    parser.add_argument(
        "--without", type=int, default=0, help="SPECULATE of the other server, whose n-grams then count"
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--kinds", nargs="+", default=list(_prompts()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--model", default="", help="empty: the bundled one")
    parser.add_argument("--draft-model", default="", help="SPECULATIVE_MODEL of the server with speculation")
    parser.add_argument("--cache-dir", default="", help="empty: a new one, whose kernels are compiled first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        servers = [
            stack.enter_context(
                started(_contender(num, draft, arguments, directory), Path(directory, f"log-{num}{bool(draft)}"))
            )
            for num, draft in ((arguments.without, ""), (arguments.speculate, arguments.draft_model))
        ]
        print(f"{'streams':>7} {'kind':10} {'without':>8} {'with':>8} {'ratio':>6} {'cpu':>6} {'tok/step':>8}")
        for streams in arguments.streams:
            for kind in arguments.kinds:
                _print_line(kind, streams, _rounds(servers, kind, streams, arguments))


def _print_line(kind: str, streams: int, rounds: list[list[_Round]]) -> None:
    without, with_drafts = (statistics.median(one.tokens_per_s for one in row) for row in zip(*rounds, strict=True))
    ratio = statistics.median(two.tokens_per_s / one.tokens_per_s for one, two in rounds)
    cpu = statistics.median(two.cpu_s_per_token / one.cpu_s_per_token for one, two in rounds)
    per_step = statistics.median(two.tokens_per_step for _, two in rounds) / streams
    line = f"{without:8.1f} {with_drafts:8.1f} {ratio:6.2f} {cpu:6.2f} {per_step:8.2f}"
    print(f"{streams:7} {kind:10} {line}", flush=True)


class _Round:
    """What one server did with one round of prompts."""

    def __init__(self, answers: list[str], tokens: int, seconds: float, cpu_s: float, steps: float) -> None:
        self.answers = answers
        self.tokens_per_s = tokens / seconds
        self.cpu_s_per_token = cpu_s / tokens
        self.tokens_per_step = tokens / max(1.0, steps)


def _prompts() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(_PROMPTS.read_text())
    return found


def _contender(num: int, draft: str, arguments: Any, directory: str) -> Any:
    environ = {"SPECULATE": str(num), "CACHE_DIR": arguments.cache_dir or f"{directory}/cache"}
    if arguments.model:
        environ["HF_MODEL_ID"] = arguments.model
    if draft:
        environ["SPECULATIVE_MODEL"] = draft
    return replace(ours(), environ=environ)


def _rounds(servers: list[Running], kind: str, streams: int, arguments: Any) -> list[list[_Round]]:
    """Rounds of both servers in turn, after one that is not counted. Raises SystemExit if answers differ."""
    found = []
    for number in range(arguments.rounds + 1):
        row = [_round(server, kind, streams, number, arguments.max_tokens) for server in servers]
        if row[0].answers != row[1].answers:
            raise SystemExit(f"{kind}: answers differ with and without speculation")
        found.append(row)
    return found[1:]


def _round(server: Running, kind: str, streams: int, number: int, max_tokens: int) -> _Round:
    prompts = _prompts()[kind]
    # A number in front keeps prefixes from being reused.
    asked = [f"({number}.{i}) {prompts[i % len(prompts)]}" for i in range(max(streams, len(prompts)))]
    steps, cpu_s, began = _steps(server), _engine_cpu_s(server), time.perf_counter()
    answers = asyncio.run(_ask_all(server.url, asked, streams, max_tokens))
    seconds = time.perf_counter() - began
    tokens = sum(num for _, num in answers)
    return _Round([text for text, _ in answers], tokens, seconds, _engine_cpu_s(server) - cpu_s, _steps(server) - steps)


async def _ask_all(url: str, prompts: list[str], streams: int, max_tokens: int) -> list[tuple[str, int]]:
    """Text and number of tokens of each answer, `streams` at a time."""
    found: dict[int, tuple[str, int]] = {}
    queue = iter(enumerate(prompts))

    async def client(session: aiohttp.ClientSession) -> None:
        for index, prompt in queue:
            found[index] = await _ask(session, url, prompt, max_tokens)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=900)) as session:
        await asyncio.gather(*(client(session) for _ in range(streams)))
    return [found[i] for i in range(len(prompts))]


async def _ask(session: aiohttp.ClientSession, url: str, prompt: str, max_tokens: int) -> tuple[str, int]:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    options = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    text, tokens = "", 0
    async with session.post(f"{url}/v1/chat/completions", json=body | options) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                tokens = event["usage"]["completion_tokens"] if event.get("usage") else tokens
                text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    return text, tokens


def _metrics(server: Running) -> str:
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        return str(response.read().decode())


def _steps(server: Running) -> float:
    return sum(map(float, re.findall(r"^heir_steps_total(?:\{.*\})? (\S+)$", _metrics(server), re.MULTILINE)))


def _engine_cpu_s(server: Running) -> float:
    """Processor time of the server's engine process so far, from /proc."""
    port = server.url.rsplit(":", 1)[1]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command, environ = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
            if b"\0-m\0handler\0" in command and f"PORT={port}\0".encode() in environ:
                fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
                return (int(fields[11]) + int(fields[12])) / 100
        except OSError:
            continue
    return 0.0


if __name__ == "__main__":
    main()
