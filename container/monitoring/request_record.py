"""The record of one HTTP request: opened on arrival, closed when its answer has been sent or its client has gone.

Closing it counts the request in the metrics, writes its one log line and, with tracing, sends its span, which is made
of that line. Both hold no text of a prompt or an answer.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Request, Response, g, has_request_context

from container.generation.generation import Generation
from container.monitoring import metrics
from container.monitoring.request_ids import REQUEST_ID, TRACEPARENT, TRACESTATE, Trace, client_id, trace_of
from container.monitoring.tracing.request_span import new_span_id, request_span, sampling_attributes
from container.monitoring.tracing.sender import SpanSender
from container.monitoring.tracing.span import Value

logger = logging.getLogger("container.requests")

# Platforms and scrapers ask these every few seconds, so their lines are DEBUG.
_QUIET_BLUEPRINTS = {"health", "metrics"}
_WARNING_STATUSES = {429, 503, 504, 529}
DROPPED = "dropped"
# What W3C asks everybody to hand on.
_MAX_TRACE_STATE = 512


class RequestRecord:
    """One request, from arrival to end. Routes hand it on to all that need its time, its dialect or its id.

    `id` is 128 random bits of ours; the engine's request ids start with it. `arrived_s` is when the request's head had
    been read, on `time.monotonic`. `dialect` is the name of the dialect that errors are written in. `adapter` is what
    the request names, "" for the base model, None if it names nothing; `prompt_adapters` has one name for each of
    several prompts, "" for the base model, if they differ.
    """

    def __init__(self, request: Request, *, dialect: str, generates: bool, spans: SpanSender | None = None) -> None:
        """`generates`: the route runs the model. `spans`: where its span goes, None without tracing."""
        self.id = secrets.token_hex(16)
        self.arrived_s = time.monotonic()
        self.dialect = dialect
        self.client_id = client_id(request.headers.get(REQUEST_ID))
        self.model_id: str | None = None
        self.adapter: str | None = None
        self.prompt_adapters: tuple[str, ...] = ()
        self.response_id: str | None = None
        self._method = request.method
        self._route = None if request.url_rule is None else request.url_rule.rule
        self._path = request.path[:200]
        self._quiet = request.blueprint in _QUIET_BLUEPRINTS
        self._spans = None if self._quiet else spans
        self.trace: Trace | None = None
        self._trace_state = ""
        self.adopt(request.headers.get(TRACEPARENT), request.headers.get(TRACESTATE, ""))
        self._generates = generates
        self._runs_hook = False
        self._phases: dict[str, float] = {}
        # When each phase ended last, on `time.monotonic`.
        self._ended: dict[str, float] = {}
        self._generations: list[Generation] = []
        self._failure: str | None = None
        self._dropped = False
        self._closed = False

    @property
    def shown_id(self) -> str:
        """The client's id if it sent one, else ours."""
        return self.client_id or self.id

    @property
    def elapsed_s(self) -> float:
        """Seconds since arrival."""
        return time.monotonic() - self.arrived_s

    @property
    def read_s(self) -> float:
        """Seconds spent reading the body."""
        return self._phases.get("read", 0.0)

    def adopt(self, traceparent: str | None, trace_state: str = "") -> None:
        """Be part of the caller's trace, if this is one and none is known. `OTEL_PROPAGATORS` may forbid it."""
        if self.trace is None and (self._spans is None or self._spans.reads_parent):
            self.trace = trace_of(traceparent)
            self._trace_state = trace_state if self.trace and len(trace_state) <= _MAX_TRACE_STATE else ""

    def spend(self, phase: str, seconds: float) -> None:
        """Add to the time of one phase, which ends now."""
        self._phases[phase] = self._phases.get(phase, 0.0) + seconds
        self._ended[phase] = time.monotonic()

    def run_hook(self) -> None:
        """The user's code answers. What it asks of the engine are requests of their own."""
        self._runs_hook = True
        self._generates = False

    def next_generation_id(self) -> str:
        """The engine's id for one more sequence of this request."""
        return f"{self.id}-{len(self._generations)}"

    def add(self, generation: Generation) -> None:
        """Add a sequence to this request."""
        self._generations.append(generation)

    def fail(self, failure: str) -> None:
        """The request ends with an error: `ServiceError.outcome` or DROPPED. Only the first call counts."""
        self._failure = self._failure or failure

    def gap(self, seconds: float) -> None:
        """Count the time between two tokens of a sequence."""
        metrics.observe_gap(seconds)

    def end(self, generation: Generation, failure: str | None) -> None:
        """One sequence has ended. A dropped one alone decides nothing: another sequence may have failed first."""
        metrics.flush()
        if failure is None:
            metrics.observe_generation(generation, self.arrived_s)
        elif failure == DROPPED:
            self._dropped = True
        else:
            self.fail(failure)

    @property
    def outcome(self) -> str:
        """`ok`, or the failure's label in `tgi_request_failure`."""
        return self._failure or (DROPPED if self._dropped else "ok")

    @property
    def validation_s(self) -> float:
        """Seconds from arrival until the first sequence went to the engine: body read, checked and tokenized."""
        submitted = [each.timings.submitted_s for each in self._generations if each.timings.submitted_s is not None]
        return min(submitted, default=time.monotonic()) - self.arrived_s

    def show_ids(self, response: Response, id_header: str | None = None) -> None:
        """Send the request's id, also as `id_header` if given, and, if the client sent one, its trace."""
        for name in (REQUEST_ID, id_header):
            if name is not None:
                response.headers[name] = self.shown_id
        if self.trace is not None:
            response.headers[TRACEPARENT] = self.trace.header

    def close(self, response: Response) -> None:
        """Count the request, write its log line and send its span, once."""
        if self._closed:
            return
        self._closed = True
        total_s = self.elapsed_s
        outcome = self.outcome
        metrics.count_response(self._method, self._route, response.status_code)
        if self._generates and (self._generations or outcome != "ok"):
            metrics.count_request(None if outcome == "ok" else outcome, total_s, self.validation_s)
        if self._runs_hook:
            metrics.count_hook_request(outcome, total_s)
        level = self._level(response.status_code)
        if self._spans is None and not logger.isEnabledFor(level):
            return
        fields = self._fields(response, total_s)
        logger.log(level, "%s %s %d %s", *self._line(response), extra={"fields": fields})
        if self._spans is not None:
            self._send_span(self._spans, fields)

    def _send_span(self, spans: SpanSender, fields: dict[str, Any]) -> None:
        span = request_span(
            fields,
            self._ended | self._generation_moments(),
            caller=self.trace,
            trace_state=self._trace_state,
            path=self._path,
            started_s=self.arrived_s,
            generation=self._generation_attributes() if self._generates else None,
        )
        spans.send(span)

    def _line(self, response: Response) -> tuple[str, str, int, str]:
        return self._method, self._route or self._path, response.status_code, self.outcome

    def _level(self, status: int) -> int:
        if self._quiet:
            return logging.DEBUG
        if status in _WARNING_STATUSES:
            return logging.WARNING
        return logging.ERROR if status >= 500 or self._failure == "internal" else logging.INFO

    def _fields(self, response: Response, total_s: float) -> dict[str, Any]:
        """The line's fields; those of stages that the request never reached are absent."""
        found: dict[str, Any] = {
            "request_id": self.id,
            "client_request_id": self.client_id,
            **self._trace_fields(),
            "method": self._method,
            "route": self._route,
            "path": self._path if self._route is None else None,
            "status": response.status_code,
            "outcome": self.outcome,
            "stream": response.mimetype == "text/event-stream" if self._generates else None,
            "hook": self._runs_hook or None,
            "model": self.model_id,
            "adapter": self._adapters(),
            **(self._generation_fields() if self._generations else {}),
            **self._seconds(total_s),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _adapters(self) -> str | None:
        """The adapters that answer, None if the base model alone does."""
        names = {each.prompt.adapter: None for each in self._generations}
        return ",".join(filter(None, names)) or None

    def _trace_fields(self) -> dict[str, str]:
        """The caller's trace. With tracing also our span; the first of a trace gives it the request's id."""
        found = {} if self.trace is None else {"trace_id": self.trace.trace_id, "parent_id": self.trace.parent_id}
        return found if self._spans is None else {"trace_id": self.id, **found, "span_id": new_span_id()}

    def _generation_attributes(self) -> dict[str, Value]:
        """What the log line leaves out."""
        found: dict[str, Value] = {"heir.dialect": self.dialect}
        if self._generations:
            found |= sampling_attributes(self._generations[0].prompt.sampling)
        return found if self.response_id is None else found | {"gen_ai.response.id": self.response_id}

    def _generation_moments(self) -> dict[str, float]:
        """When the phases after tokenising ended; of several sequences as in `_seconds`."""
        timings = [each.timings for each in self._generations if each.timings.submitted_s is not None]
        if not timings:
            return {}
        submitted = [each.submitted_s for each in timings if each.submitted_s is not None]
        found = {"validate": min(submitted)}
        first = [each.first_token_at_s for each in timings if each.first_token_at_s is not None]
        if first:
            found["queue"] = max(at + each.queue_s for at, each in zip(submitted, timings, strict=True))
            found |= {"first_token": min(first), "prefill": max(first)}
            found["decode"] = max(each.last_token_at_s for each in timings)
        return found

    def _generation_fields(self) -> dict[str, Any]:
        """Tokens of all sequences; a prompt that several sequences share counts once for each."""
        every = self._generations
        return {
            "num_sequences": len(every),
            "timed_out": any(each.timed_out for each in every) or None,
            "finish_reason": ",".join(str(each.finish_reason or "none") for each in every),
            "prompt_tokens": sum(each.num_prompt_tokens for each in every),
            "cached_tokens": sum(each.num_cached_tokens for each in every),
            "output_tokens": sum(each.num_tokens for each in every),
        }

    def _seconds(self, total_s: float) -> dict[str, float]:
        """Every phase in seconds; of several sequences, the slowest one's."""
        phases = {f"{name}_s": seconds for name, seconds in self._phases.items()}
        if self._generations:
            phases["validate_s"] = max(0.0, self.validation_s - sum(self._phases.values()))
            timings = [each.timings for each in self._generations]
            started = [each.first_token_at_s - self.arrived_s for each in timings if each.first_token_at_s is not None]
            phases["queue_s"] = max(each.queue_s for each in timings)
            phases["prefill_s"] = max(each.prefill_s for each in timings)
            phases["decode_s"] = max(each.inference_s - each.prefill_s for each in timings)
            phases |= {"first_token_s": min(started)} if started else {}
        return {name: round(seconds, 6) for name, seconds in (phases | {"total_s": total_s}).items()}


def current_record() -> RequestRecord:
    """The record of the request being answered. Raises LookupError outside of one."""
    record = find_record()
    if record is None:
        raise LookupError("no request is being answered")
    return record


def find_record() -> RequestRecord | None:
    """The record of the request being answered, None outside of one."""
    found: RequestRecord | None = g.get("record") if has_request_context() else None
    return found


@contextmanager
def timed(phase: str) -> Iterator[None]:
    """Add the block's duration to a phase of the current request; outside a request, do nothing."""
    started_s = time.monotonic()
    try:
        yield
    finally:
        record = find_record()
        if record is not None:
            record.spend(phase, time.monotonic() - started_s)
