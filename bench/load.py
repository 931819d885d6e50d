"""Closed-loop load of streamed chats against any OpenAI endpoint, at a fixed concurrency."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_SUBJECTS = ("deep learning", "volcanoes", "jazz", "the Roman empire", "black holes", "bread", "whales", "chess")


@dataclass
class Stream:
    """Measurements of one stream. Times are in seconds."""

    first_token_s: float = 0.0
    total_s: float = 0.0
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    gaps_s: list[float] = field(default_factory=list)
    error: str = ""


@dataclass
class Figures:
    """One row of a benchmark table. Times are medians unless named p95 or p99; gaps are between tokens."""

    concurrency: int
    num_requests: int
    num_errors: int
    tokens_per_s: float
    first_token_ms: float
    first_token_p95_ms: float
    gap_ms: float
    gap_p99_ms: float
    num_prompt_tokens: int


def question(index: int, num_words: int) -> str:
    """A prompt with `num_words` words of filler, different for each index, so that no prefix cache helps."""
    filler = " ".join(_SUBJECTS[(index * 7 + i * i) % len(_SUBJECTS)] for i in range(num_words))
    return f"[{index}] Write a long essay about {_SUBJECTS[index % len(_SUBJECTS)]}. {filler}"


async def _one(session: aiohttp.ClientSession, url: str, index: int, options: dict[str, Any], num_words: int) -> Stream:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": question(index, num_words)}],
        "stream": True,
        "stream_options": {"include_usage": True},
    } | options
    seen = Stream()
    started = last = time.perf_counter()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            seen.error = f"{response.status} {(await response.text())[:120]}"
            return seen
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                seen.num_tokens = event["usage"]["completion_tokens"]
                seen.num_prompt_tokens = event["usage"]["prompt_tokens"]
            if event.get("choices") and event["choices"][0]["delta"].get("content"):
                now = time.perf_counter()
                if seen.first_token_s:
                    seen.gaps_s.append(now - last)
                else:
                    seen.first_token_s = now - started
                last = now
    seen.total_s = time.perf_counter() - started
    return seen


async def measure(
    url: str, concurrency: int, num_requests: int, options: dict[str, Any], num_words: int = 10, first: int = 0
) -> Figures:
    """Run `num_requests` streams, `concurrency` at a time. Prompts are numbered from `first`."""
    queue = iter(range(first, first + num_requests))
    streams: list[Stream] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for index in queue:
            streams.append(await _one(session, url, index, options, num_words))

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=900)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
        wall_s = time.perf_counter() - started
    good = [stream for stream in streams if not stream.error]
    firsts = sorted(stream.first_token_s for stream in good) or [float("nan")]
    gaps = sorted(gap for stream in good for gap in stream.gaps_s) or [float("nan")]
    return Figures(
        concurrency=concurrency,
        num_requests=num_requests,
        num_errors=len(streams) - len(good),
        tokens_per_s=sum(stream.num_tokens for stream in good) / wall_s,
        first_token_ms=1000 * statistics.median(firsts),
        first_token_p95_ms=1000 * firsts[int(0.95 * (len(firsts) - 1))],
        gap_ms=1000 * statistics.median(gaps),
        gap_p99_ms=1000 * gaps[int(0.99 * (len(gaps) - 1))],
        num_prompt_tokens=int(statistics.median([stream.num_prompt_tokens for stream in good] or [0])),
    )


async def measure_repeat(
    url: str, num_prompts: int, options: dict[str, Any], num_words: int, first: int = 0
) -> tuple[float, float]:
    """Median milliseconds to the first token, for new prompts and for the same prompts repeated, one at a time.

    Raises RuntimeError if a request fails.
    """
    new, again = [], []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=900)) as session:
        for index in range(first, first + num_prompts):
            for times in (new, again):
                stream = await _one(session, url, index, options, num_words)
                if stream.error:
                    raise RuntimeError(stream.error)
                times.append(stream.first_token_s)
    return 1000 * statistics.median(new), 1000 * statistics.median(again)
