"""The span of a request, made of its log line: names of OpenTelemetry's conventions, and of vLLM for what they lack.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/ and .../gen-ai/gen-ai-spans/. No text of a prompt, an
answer, a stop string or a tool, no key, no query string.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from container.monitoring.request_ids import Trace
from container.monitoring.tracing.span import Event, Span, Value
from handler.seam.protocol import SamplingParams

_PROVIDER = "tgi-heir"
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
# Attributes that are fields of the log line. `usage.prompt_tokens`, `usage.completion_tokens`, `request.id` and all of
# `latency` are vLLM's (its `SpanAttributes`); the conventions call the first two by the names beside them.
_HTTP = {
    "http.request.method": "method",
    "http.route": "route",
    "http.response.status_code": "status",
    "heir.outcome": "outcome",
    "heir.client_request_id": "client_request_id",
}
_GENERATION = {
    "gen_ai.request.id": "request_id",
    "gen_ai.request.model": "model",
    "gen_ai.response.model": "model",
    "heir.adapter": "adapter",
    "gen_ai.request.stream": "stream",
    "gen_ai.request.n": "num_sequences",
    "gen_ai.usage.input_tokens": "prompt_tokens",
    "gen_ai.usage.prompt_tokens": "prompt_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
    "gen_ai.usage.completion_tokens": "output_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cached_tokens",
    "gen_ai.latency.time_in_queue": "queue_s",
    "gen_ai.latency.time_to_first_token": "first_token_s",
    "gen_ai.latency.time_in_model_prefill": "prefill_s",
    "gen_ai.latency.time_in_model_decode": "decode_s",
    "gen_ai.latency.e2e": "total_s",
    "heir.timed_out": "timed_out",
}


def new_span_id() -> str:
    """A random span id."""
    return secrets.token_hex(8)


def request_span(
    fields: Mapping[str, Any],
    moments: Mapping[str, float],
    *,
    caller: Trace | None,
    trace_state: str,
    path: str,
    started_s: float,
    generation: dict[str, Value] | None,
) -> Span:
    """The span of an answered request, which ends now.

    `fields` are those of its log line; `moments` says, on `time.monotonic` as `started_s`, when a phase of it ended.
    `generation` are attributes of a request to generate text, None for any other.
    """
    to_epoch_s = time.time() - time.monotonic()

    def epoch_ns(moment_s: float) -> int:
        return int((moment_s + to_epoch_s) * 1e9)

    method = fields["method"]
    found: dict[str, Value] = {name: fields[field] for name, field in _HTTP.items() if field in fields}
    found |= {"url.scheme": "http", "url.path": path}
    if method not in _METHODS:
        found["http.request.method"] = "_OTHER"
    if generation is not None:
        found |= _of_generation(fields) | generation
    error = _error(fields)
    if error:
        found["error.type"] = error
    return Span(
        name=f"{method if method in _METHODS else 'HTTP'} {fields.get('route', '')}".rstrip(),
        trace_id=fields["trace_id"],
        span_id=fields["span_id"],
        parent_id="" if caller is None else caller.parent_id,
        parent_flags=0 if caller is None else caller.flags,
        trace_state=trace_state,
        start_ns=epoch_ns(started_s),
        end_ns=time.time_ns(),
        attributes=found,
        events=[
            Event(name, epoch_ns(moment), fields[f"{name}_s"])
            for name, moment in sorted(moments.items(), key=lambda item: item[1])
            if f"{name}_s" in fields
        ],
        error=error,
    )


def sampling_attributes(sampling: SamplingParams) -> dict[str, Value]:
    """What was asked of the sampler, as it is applied; what is off has no attribute."""
    found: dict[str, Value] = {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
    }
    optional = {
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
    }
    return found | {name: value for name, value in optional.items() if value}


def _of_generation(fields: Mapping[str, Any]) -> dict[str, Value]:
    found: dict[str, Value] = {name: fields[field] for name, field in _GENERATION.items() if field in fields}
    found["gen_ai.provider.name"] = _PROVIDER
    # Only chats have a template.
    found["gen_ai.operation.name"] = "chat" if "template_s" in fields else "text_completion"
    if "finish_reason" in fields:
        found["gen_ai.response.finish_reasons"] = fields["finish_reason"].split(",")
    if "prefill_s" in fields:
        found["gen_ai.latency.time_in_model_inference"] = round(fields["prefill_s"] + fields["decode_s"], 6)
    return found


def _error(fields: Mapping[str, Any]) -> str:
    """The outcome of a request that the server failed: by its status, or in a stream that had begun.

    The conventions leave a server's span without an error where the client is at fault (4xx).
    """
    outcome: str = fields["outcome"]
    failed = fields["status"] >= 500 or (fields["status"] < 400 and outcome not in {"ok", "dropped"})
    return outcome if failed else ""
