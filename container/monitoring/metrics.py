"""The metrics: TGI's under TGI's names, and our own. `container.api.server.metrics_page` serves them.

Each web worker and the engine keep their counts in mapped files below PROMETHEUS_MULTIPROC_DIR, which PID 1 sets.
Durations are in seconds, lengths in tokens. A request counts once; each of its sequences (`n`, `best_of`, a list of
prompts) has its own tokens and times.
"""

from __future__ import annotations

from bisect import bisect_left

from prometheus_client import CollectorRegistry, Counter, Histogram

from container.generation.generation import Generation

# TGI's buckets (`router/src/server.rs`, `duration_buckets`): 35 from 0.15 ms, each 1.5 times the one before.
_SECONDS = [0.00015 * 1.5**i for i in range(35)]
# Observed for every token, so few buckets.
_GAP_SECONDS = [0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0]
_TOKENS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072]
# TGI's labels, then ours.
FAILURES = (
    *("validation", "overloaded", "template", "incomplete", "generation", "dropped"),
    *("timeout", "unhealthy", "internal"),
)
# How a request that the hook answers may end; `ok` too.
HOOK_OUTCOMES = (
    *("ok", "hook", "overloaded", "timeout", "unhealthy", "dropped", "payload_too_large", "request_timeout"),
    *("validation", "internal"),
)

_registry = CollectorRegistry()
_requests = Counter("tgi_request_count", "Requests to generate text.", registry=_registry)
_successes = Counter("tgi_request_success", "Requests that succeeded.", registry=_registry)
_failures = Counter("tgi_request_failure", "Requests that failed, by reason.", ["err"], registry=_registry)
_responses = Counter(
    "heir_http_responses",
    "Answers by route and status; 499: the client disconnected.",
    ["method", "route", "status"],
    registry=_registry,
)
_hook_requests = Counter(
    "heir_hook_requests", "Requests that the user's code answered, by outcome.", ["outcome"], registry=_registry
)
for _outcome in HOOK_OUTCOMES:
    _hook_requests.labels(_outcome)
for _failure in FAILURES:
    _failures.labels(_failure)  # exists from the start, so that the first failure is an increase


def _seconds(name: str, text: str) -> Histogram:
    return Histogram(name, text, buckets=_SECONDS, registry=_registry)


def _tokens(name: str, text: str) -> Histogram:
    return Histogram(name, text, buckets=_TOKENS, registry=_registry)


class HeldHistogram(Histogram):
    """A histogram without labels that holds its counts back until `flush`.

    An observation then costs a twentieth: writing the mapped file takes two locks and two system calls.
    """

    def _metric_init(self) -> None:
        super()._metric_init()
        self._held = [0] * len(self._upper_bounds)
        self._held_sum = 0.0

    def hold(self, amount: float) -> None:
        """Observe `amount` at the next `flush`."""
        self._held[bisect_left(self._upper_bounds, amount)] += 1
        self._held_sum += amount

    def flush(self) -> None:
        """Write what is held back."""
        if not any(self._held):
            return
        self._sum.inc(self._held_sum)
        for bucket, count in zip(self._buckets, self._held, strict=True):
            if count:
                bucket.inc(count)
        self._held = [0] * len(self._upper_bounds)
        self._held_sum = 0.0


_stray = Counter(
    "heir_stray_messages", "Engine messages that came late, twice or for no open request.", registry=_registry
)
_duration = _seconds("tgi_request_duration", "From arrival to the end of the answer, for requests that succeeded.")
_validation = _seconds("tgi_request_validation_duration", "From arrival to the engine.")
_queue = _seconds("tgi_request_queue_duration", "In the engine's queue.")
_inference = _seconds("tgi_request_inference_duration", "In the model.")
_per_token = _seconds("tgi_request_mean_time_per_token_duration", "Time in the model per token.")
_first_token = _seconds("heir_time_to_first_token_seconds", "From arrival to the first token.")
_between_tokens = HeldHistogram(
    "heir_inter_token_seconds", "Between two tokens of a sequence.", buckets=_GAP_SECONDS, registry=_registry
)
_hook_duration = _seconds("heir_hook_duration_seconds", "From arrival to the end of an answer of the user's code.")
_input_length = _tokens("tgi_request_input_length", "Tokens of the prompt.")
_generated = _tokens("tgi_request_generated_tokens", "Tokens generated.")
_adapters = Counter("heir_adapter_sequences", "Finished sequences of each adapter.", ["adapter"], registry=_registry)
# Names are those of adapters that are loaded, but in time there may be any number of them, and each keeps its place.
_MAX_ADAPTERS = 256
_counted_adapters: set[str] = set()
_max_new = _tokens("tgi_request_max_new_tokens", "Limit on generated tokens, as requested.")


def count_response(method: str, route: str | None, status: int) -> None:
    """Count an answer; `route` is a rule of the URL map, None if none matches."""
    _responses.labels(method if route else "other", route or "none", str(status)).inc()


def count_request(failure: str | None, total_s: float, validation_s: float) -> None:
    """Count a request to generate text. Failed ones record no durations, as in TGI."""
    _requests.inc()
    if failure is not None:
        _failures.labels(failure).inc()
        return
    _successes.inc()
    _duration.observe(total_s)
    _validation.observe(validation_s)


def count_hook_request(outcome: str, total_s: float) -> None:
    """Count a request that the user's code answers; durations of those that succeeded alone."""
    _hook_requests.labels(outcome).inc()
    if outcome == "ok":
        _hook_duration.observe(total_s)


def observe_generation(generation: Generation, arrived_s: float) -> None:
    """Record a finished sequence of a request that arrived at `arrived_s`."""
    timings, num_tokens = generation.timings, generation.num_tokens
    _queue.observe(timings.queue_s)
    _inference.observe(timings.inference_s)
    _per_token.observe(timings.inference_s / max(1, num_tokens))
    if timings.first_token_at_s is not None:
        _first_token.observe(timings.first_token_at_s - arrived_s)
    _input_length.observe(generation.num_prompt_tokens)
    _generated.observe(num_tokens)
    _max_new.observe(generation.prompt.sampling.max_tokens)
    if generation.prompt.adapter is not None:
        _adapters.labels(_label(generation.prompt.adapter)).inc()


def _label(adapter: str) -> str:
    """`adapter`, or "other" once this process has counted too many of them."""
    if len(_counted_adapters) < _MAX_ADAPTERS:
        _counted_adapters.add(adapter)
    return adapter if adapter in _counted_adapters else "other"


def observe_gap(seconds: float) -> None:
    """Record the time between two tokens of a sequence, at the next `flush`."""
    _between_tokens.hold(seconds)


def flush() -> None:
    """Write what `observe_gap` has held back. Call it often, and when a sequence ends."""
    _between_tokens.flush()


def count_stray() -> None:
    """Count an engine message that belongs to no open request, comes late or comes twice."""
    _stray.inc()
