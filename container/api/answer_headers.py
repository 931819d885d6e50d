"""The headers TGI measures an answer with, on every route that generates (tgi-http-api.md 1.8). Errors have none."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flask import Response

from container.generation.generation import Generation
from container.serving.served_model import ServedModel
from container.settings import Settings


def add_stream_headers(response: Response, settings: Settings, served: ServedModel, num_chars: int) -> None:
    """What is known before the first token; `num_chars` are those of the final prompts."""
    response.headers["x-compute-type"] = settings.compute_type or served.card.device.split(":")[0]
    response.headers["x-compute-characters"] = str(num_chars)


def add_whole_headers(
    response: Response, prompts: Sequence[Generation], answers: Sequence[Generation], started_s: float
) -> None:
    """What `answers` took, after `add_stream_headers`; each prompt of `prompts` counts once.

    Times are whole milliseconds on the clock, of the engine for all answers together; `started_s` is when the body
    had been read.
    """
    total_s = time.monotonic() - started_s
    num_tokens = sum(each.num_tokens for each in answers)
    inference_s = sum(each.timings.inference_s for each in answers)
    values = {
        "x-total-time": _milliseconds(total_s),
        "x-validation-time": _milliseconds(min(each.timings.started_s for each in answers) - started_s),
        "x-queue-time": _milliseconds(sum(each.timings.queue_s for each in answers)),
        "x-inference-time": _milliseconds(inference_s),
        "x-time-per-token": _milliseconds(inference_s / max(1, num_tokens)),
        "x-prompt-tokens": sum(len(each.prompt.token_ids) for each in prompts),
        "x-generated-tokens": num_tokens,
    }
    for name, value in values.items():
        response.headers[name] = str(value)


def add_compute_time(response: Response, started_s: float) -> None:
    """Seconds since `started_s` with a decimal point; TGI has it everywhere but on /v1/completions."""
    response.headers["x-compute-time"] = f"{time.monotonic() - started_s:.6f}"


def _milliseconds(seconds: float) -> int:
    return round(max(0.0, seconds) * 1000)
