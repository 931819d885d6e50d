"""The account of one HTTP request: opened as it arrives, closed when its answer has been sent or its client has gone.

Closing it counts the request in the metrics and writes its one line to the log. No text of a prompt or an answer is
in that line.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, Response, g, has_request_context, request

from container.generation.generation import Generation
from container.monitoring import metrics
from container.monitoring.request_ids import REQUEST_ID, TRACEPARENT, client_id, trace_of

logger = logging.getLogger("container.requests")

# Asked every few seconds by platforms and scrapers; in the log at DEBUG only.
_QUIET_BLUEPRINTS = {"health", "metrics"}
_WARNING_STATUSES = {429, 503, 504}
# TGI's labels in tgi_request_failure, where they differ from the error types in its bodies (tgi-http-api.md 6).
_LABELS = {"template_error": "template", "incomplete_generation": "incomplete"}
DROPPED = "dropped"


class RequestRecord:
    """What is known of one request. `id` is 128 random bits of ours; the engine's ids are made of it."""

    def __init__(self, generates: bool) -> None:
        """`generates`: the route runs the model."""
        self.id = secrets.token_hex(16)
        self.arrived_s = time.monotonic()
        self.client_id = client_id(request.headers.get(REQUEST_ID))
        self.trace = trace_of(request.headers.get(TRACEPARENT))
        self.model_id: str | None = None
        self._method = request.method
        self._route = None if request.url_rule is None else request.url_rule.rule
        self._path = request.path[:200] if self._route is None else None
        self._quiet = request.blueprint in _QUIET_BLUEPRINTS
        self._generates = generates
        self._phases: dict[str, float] = {}
        self._generations: list[Generation] = []
        self._error: str | None = None
        self._dropped = False
        self._closed = False

    @property
    def shown_id(self) -> str:
        """The caller's id if there is one, else ours."""
        return self.client_id or self.id

    def spend(self, phase: str, seconds: float) -> None:
        """Add to the time of one phase."""
        self._phases[phase] = self._phases.get(phase, 0.0) + seconds

    def next_generation_id(self) -> str:
        """The engine's id for one more sequence of this request."""
        return f"{self.id}-{len(self._generations)}"

    def add(self, generation: Generation) -> None:
        """One more sequence of this request."""
        self._generations.append(generation)

    def fail(self, error_type: str) -> None:
        """The request ends with an error; the first one counts. `error_type` is TGI's, or DROPPED."""
        self._error = self._error or _LABELS.get(error_type, error_type)

    def gap(self, seconds: float) -> None:
        """So long after a token the next one came."""
        metrics.observe_gap(seconds)

    def end(self, generation: Generation, error_type: str | None) -> None:
        """One of its sequences has ended. That one was left says nothing yet: its neighbour may have failed."""
        if error_type is None:
            metrics.observe_generation(generation, self.arrived_s)
        elif error_type == DROPPED:
            self._dropped = True
        else:
            self.fail(error_type)

    @property
    def outcome(self) -> str:
        """`ok`, or the label of the failure as in `tgi_request_failure`."""
        return self._error or (DROPPED if self._dropped else "ok")

    def close(self, response: Response) -> None:
        """Count it and write its line, once."""
        if self._closed:
            return
        self._closed = True
        total_s = time.monotonic() - self.arrived_s
        outcome = self.outcome
        metrics.count_response(self._method, self._route, response.status_code)
        if self._generates and (self._generations or outcome != "ok"):
            metrics.count_request(None if outcome == "ok" else outcome, total_s, self._validation_s())
        level = self._level(response.status_code)
        if logger.isEnabledFor(level):
            fields = self._fields(response, total_s)
            logger.log(level, "%s %s %d %s", *self._line(response), extra={"fields": fields})

    def _line(self, response: Response) -> tuple[str, str, int, str]:
        return self._method, self._route or self._path or "", response.status_code, self.outcome

    def _level(self, status: int) -> int:
        if self._quiet:
            return logging.DEBUG
        if status in _WARNING_STATUSES:
            return logging.WARNING
        return logging.ERROR if status >= 500 or self._error == "internal" else logging.INFO

    def _validation_s(self) -> float:
        """From arrival to the engine: the body read, checked and tokenised."""
        submitted = [each.timings.submitted_s for each in self._generations if each.timings.submitted_s is not None]
        return min(submitted, default=time.monotonic()) - self.arrived_s

    def _fields(self, response: Response, total_s: float) -> dict[str, Any]:
        """What the line holds; absent is what the request never came to."""
        found: dict[str, Any] = {
            "request_id": self.id,
            "client_request_id": self.client_id,
            "trace_id": None if self.trace is None else self.trace.trace_id,
            "parent_id": None if self.trace is None else self.trace.parent_id,
            "method": self._method,
            "route": self._route,
            "path": self._path,
            "status": response.status_code,
            "outcome": self.outcome,
            "stream": response.mimetype == "text/event-stream" if self._generates else None,
            "model": self.model_id,
            **(self._generation_fields() if self._generations else {}),
            **self._seconds(total_s),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _generation_fields(self) -> dict[str, Any]:
        """Tokens of all its sequences; a prompt that several continue counts once for each."""
        every = self._generations
        return {
            "num_sequences": len(every),
            "finish_reason": ",".join(str(each.finish_reason or "none") for each in every),
            "prompt_tokens": sum(len(each.prompt.token_ids) for each in every),
            "cached_tokens": sum(each.num_cached_tokens for each in every),
            "output_tokens": sum(each.num_tokens for each in every),
        }

    def _seconds(self, total_s: float) -> dict[str, float]:
        """Every phase in seconds. Where several sequences ran, the one that took longest."""
        phases = {f"{name}_s": seconds for name, seconds in self._phases.items()}
        if self._generations:
            phases["validate_s"] = max(0.0, self._validation_s() - sum(self._phases.values()))
            timings = [each.timings for each in self._generations]
            started = [each.first_token_at_s - self.arrived_s for each in timings if each.first_token_at_s is not None]
            phases["queue_s"] = max(each.queue_s for each in timings)
            phases["prefill_s"] = max(each.prefill_s for each in timings)
            phases["decode_s"] = max(each.inference_s - each.prefill_s for each in timings)
            phases |= {"first_token_s": min(started)} if started else {}
        return {name: round(seconds, 6) for name, seconds in (phases | {"total_s": total_s}).items()}


def register(app: Flask, generates: Callable[[], bool]) -> None:
    """Open and close a record around every request of `app`. `generates`: whether its route runs the model."""

    def open_record() -> None:
        g.record = RequestRecord(generates())

    app.before_request(open_record)
    app.after_request(_answer)


def current_record() -> RequestRecord | None:
    """The record of the request being answered, None outside of one."""
    found: RequestRecord | None = g.get("record") if has_request_context() else None
    return found


@contextmanager
def timed(phase: str) -> Iterator[None]:
    """The block's duration counts for one phase of the current request."""
    started_s = time.monotonic()
    try:
        yield
    finally:
        record = current_record()
        if record is not None:
            record.spend(phase, time.monotonic() - started_s)


def _answer(response: Response) -> Response:
    record = current_record()
    if record is not None:
        response.headers[REQUEST_ID] = record.shown_id
        if record.trace is not None:
            response.headers[TRACEPARENT] = record.trace.header
        response.call_on_close(lambda: record.close(response))
    return response
