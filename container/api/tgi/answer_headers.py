"""The headers TGI measures an answer with (tgi-http-api.md 1.8). Errors have none of them."""

from __future__ import annotations

import time

from flask import Response

from container.generation import Generation


def add_stream_headers(response: Response, compute_type: str, inputs: str) -> None:
    """What is known before the first token."""
    response.headers["x-compute-type"] = compute_type
    response.headers["x-compute-characters"] = str(len(inputs))


def add_whole_headers(
    response: Response, compute_type: str, inputs: str, generation: Generation, started_s: float
) -> None:
    """Times are whole milliseconds, but for x-compute-time; `started_s` is when the body had been read."""
    add_stream_headers(response, compute_type, inputs)
    timings = generation.timings
    total_s = time.monotonic() - started_s
    num_tokens = max(1, generation.num_tokens)
    values = {
        "x-compute-time": f"{total_s:.6f}",
        "x-total-time": _milliseconds(total_s),
        "x-validation-time": _milliseconds(timings.started_s - started_s),
        "x-queue-time": _milliseconds(timings.queue_s),
        "x-inference-time": _milliseconds(timings.inference_s),
        "x-time-per-token": _milliseconds(timings.inference_s / num_tokens),
        "x-prompt-tokens": len(generation.prompt.token_ids),
        "x-generated-tokens": generation.num_tokens,
    }
    for name, value in values.items():
        response.headers[name] = str(value)


def _milliseconds(seconds: float) -> int:
    return round(max(0.0, seconds) * 1000)
