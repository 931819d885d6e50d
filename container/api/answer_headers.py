"""The headers in which TGI reports measurements, on every route that generates (`router/src/server.rs` of TGI v3.3.7).

Errors have none.
"""

from __future__ import annotations

from collections.abc import Sequence

from flask import Response

from container.generation.generation import Generation
from container.monitoring.request_record import RequestRecord
from container.serving.served_model import ServedModel
from container.settings import Settings


def add_stream_headers(response: Response, settings: Settings, served: ServedModel, num_chars: int) -> None:
    """What is known before the first token; `num_chars` is the length of the final prompts."""
    response.headers["x-compute-type"] = settings.compute_type or served.card.device.split(":")[0]
    response.headers["x-compute-characters"] = str(num_chars)


def add_whole_headers(
    response: Response, record: RequestRecord, prompts: Sequence[Generation], answers: Sequence[Generation]
) -> None:
    """Times and token counts of whole answers; each of `prompts` counts once.

    Times are whole milliseconds. Total and validation time start when the body has been read, as in TGI; the engine's
    times are added up over all answers.
    """
    num_tokens = sum(each.num_tokens for each in answers)
    inference_s = sum(each.timings.inference_s for each in answers)
    values = {
        "x-total-time": _milliseconds(record.elapsed_s - record.read_s),
        "x-validation-time": _milliseconds(record.validation_s - record.read_s),
        "x-queue-time": _milliseconds(sum(each.timings.queue_s for each in answers)),
        "x-inference-time": _milliseconds(inference_s),
        "x-time-per-token": _milliseconds(inference_s / max(1, num_tokens)),
        "x-prompt-tokens": sum(each.num_prompt_tokens for each in prompts),
        "x-generated-tokens": num_tokens,
    }
    for name, value in values.items():
        response.headers[name] = str(value)
    add_time_limit(response, answers)


def add_time_limit(response: Response, answers: Sequence[Generation]) -> None:
    """`x-timed-out`, on whole answers that the time limit ended; their finish reason is `length` as at any limit."""
    if any(each.timed_out for each in answers):
        response.headers["x-timed-out"] = "true"


def add_compute_time(response: Response, record: RequestRecord) -> None:
    """Seconds since the body was read, with a decimal point; TGI sends it on all routes but /v1/completions."""
    response.headers["x-compute-time"] = f"{record.elapsed_s - record.read_s:.6f}"


def _milliseconds(seconds: float) -> int:
    return round(max(0.0, seconds) * 1000)
