"""GET /metrics: TGI's names kept, and what TGI never told. Counts of all web workers together.

Each worker keeps its counts in mapped files below PROMETHEUS_MULTIPROC_DIR, which PID 1 sets; a scrape merges them and
adds the engine's numbers from the status board. Durations are in seconds, lengths in tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from flask import Blueprint, Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from container.api.operation import Operation, describe
from container.generation import Generation
from handler.status import Phase, StatusBoard

blueprint = Blueprint("metrics", __name__)

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# TGI's: 35 steps from 0.15 ms, each half as long again (tgi-http-api.md section 6).
_SECONDS = [0.00015 * 1.5**i for i in range(35)]
_TOKENS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072]

_registry = CollectorRegistry()
_requests = Counter("tgi_request_count", "Requests that asked for text.", registry=_registry)
_successes = Counter("tgi_request_success", "Requests that were answered to their end.", registry=_registry)
_failures = Counter("tgi_request_failure", "Requests that were not, by reason.", ["err"], registry=_registry)


def _seconds(name: str, text: str) -> Histogram:
    return Histogram(name, text, buckets=_SECONDS, registry=_registry)


def _tokens(name: str, text: str) -> Histogram:
    return Histogram(name, text, buckets=_TOKENS, registry=_registry)


_stray = Counter("heir_stray_messages", "Engine messages that came late, twice or for nobody.", registry=_registry)
_duration = _seconds("tgi_request_duration", "From arrival to the last token.")
_validation = _seconds("tgi_request_validation_duration", "From arrival to the engine.")
_queue = _seconds("tgi_request_queue_duration", "In the engine's queue.")
_inference = _seconds("tgi_request_inference_duration", "In the model.")
_per_token = _seconds("tgi_request_mean_time_per_token_duration", "Time in the model for each token.")
_first_token = _seconds("heir_time_to_first_token_seconds", "From arrival to the first token.")
_between_tokens = _seconds("heir_inter_token_seconds", "Mean time between two tokens of a request.")
_input_length = _tokens("tgi_request_input_length", "Tokens of the prompt.")
_generated = _tokens("tgi_request_generated_tokens", "Tokens generated.")
_max_new = _tokens("tgi_request_max_new_tokens", "Tokens asked for at most.")


def observe(generation: Generation, error_type: str | None) -> None:
    """Count one generation that has ended. Failed ones record no durations, as in TGI."""
    _requests.inc()
    if error_type is not None:
        _failures.labels(error_type).inc()
        return
    timings, num_tokens = generation.timings, generation.num_tokens
    total = timings.total_s
    _successes.inc()
    _duration.observe(total)
    _validation.observe(max(0.0, total - timings.queue_s - timings.inference_s))
    _queue.observe(timings.queue_s)
    _inference.observe(timings.inference_s)
    _per_token.observe(timings.inference_s / max(1, num_tokens))
    if timings.first_token_s is not None:
        _first_token.observe(timings.first_token_s)
        if num_tokens > 1:
            _between_tokens.observe((total - timings.first_token_s) / (num_tokens - 1))
    _input_length.observe(len(generation.prompt.token_ids))
    _generated.observe(num_tokens)
    _max_new.observe(generation.prompt.sampling.max_tokens)


def count_refused(reason: str) -> None:
    """Count a request that ended before it was submitted."""
    _requests.inc()
    _failures.labels(reason).inc()


def count_stray() -> None:
    """Count an engine message that belongs to no open request, comes late or comes twice."""
    _stray.inc()


class _Engine(Collector):
    """The engine's numbers, read from the status board at each scrape."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Gauges and counters."""
        numbers = self._board.numbers()
        numbers["ready"] = int(self._board.phase is Phase.READY)
        for name, source, text in _GAUGES:
            yield GaugeMetricFamily(name, text, value=numbers[source])
        for name, source, text in _COUNTERS:
            yield CounterMetricFamily(name, text, value=numbers[source])


_GAUGES = (
    ("tgi_queue_size", "waiting", "Requests in the engine's queue."),
    ("tgi_batch_current_size", "running", "Sequences that run."),
    ("tgi_batch_current_max_tokens", "kv_used_tokens", "KV memory in use, in tokens."),
    ("tgi_batch_max_total_tokens", "kv_capacity_tokens", "KV memory, in tokens."),
    ("heir_ready", "ready", "1 if the engine serves."),
    ("heir_draining", "draining", "1 if the server is shutting down."),
    ("heir_self_test", "self_test", "Verdict of the start-up self-test: 0 not run, 1 passed, 2 fell back."),
)
_COUNTERS = (
    ("heir_steps", "steps", "Forward passes."),
    ("heir_prompt_tokens", "prompt_tokens", "Prompt tokens computed."),
    ("heir_generated_tokens", "generated_tokens", "Tokens generated."),
    ("heir_preemptions", "preemptions", "Sequences that gave their memory back to be run again."),
    ("heir_aborts", "aborts", "Requests whose client went away or that met a stop string."),
    ("heir_engine_failures", "failures", "Requests that failed in the engine."),
    ("heir_engine_restarts", "restarts", "Engines that died and were restarted."),
    ("heir_prefix_query_tokens", "prefix_query_tokens", "Prompt tokens looked up in the prefix cache."),
    ("heir_prefix_hit_tokens", "prefix_hit_tokens", "Prompt tokens found there."),
)


@blueprint.get("/metrics")
@describe(
    Operation(tag="Server", summary="Numbers for Prometheus", answer=str, answer_media_type="text/plain", keyed=False)
)
def metrics() -> Response:
    """Prometheus text format 0.0.4."""
    registry = CollectorRegistry()
    if os.environ.get(MULTIPROCESS_VARIABLE):
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_Engine(current_app.extensions["service"].board))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
