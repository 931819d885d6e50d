"""GET /metrics: the counts of all processes, and the engines' state from the status boards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from container.api.operation import Operation, describe
from container.run_dir import METRICS_DIR_VARIABLE
from container.serving.service import Service, service
from container.version import VERSION
from handler.seam.status import Phase

blueprint = Blueprint("metrics", __name__)

# The client library appends _total to every counter. TGI's counters have no suffix, and dashboards query those names.
_TGI_COUNTER = re.compile(rb"^((?:# (?:HELP|TYPE) )?tgi_\w+?)_total\b", re.MULTILINE)


class _Engines(Collector):
    """The sum of the engines' status boards, read at each scrape."""

    def __init__(self, owner: Service) -> None:
        self._service = owner

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Gauges and counters."""
        boards = [client.board for client in self._service.engines.clients]
        snapshots = [board.numbers() for board in boards]
        numbers = {name: sum(each[name] for each in snapshots) for name in snapshots[0]}
        num_ready = sum(board.phase is Phase.READY for board in boards)
        # Not sums: how many engines serve, whether PID 1 drains, the worst verdict of the start-up trial.
        num_engines = len(boards) if self._service.has_engine else 0
        numbers |= {"engines": num_engines, "engines_ready": num_ready, "ready": int(self._serves(num_ready))}
        numbers |= {name: max(each[name] for each in snapshots) for name in ("draining", "self_test")}
        for name, source, text in _GAUGES:
            yield GaugeMetricFamily(name, text, value=numbers[source])
        for name, source, text in _COUNTERS:
            yield CounterMetricFamily(name, text, value=numbers[source])
        used, capacity = numbers["kv_used_tokens"], numbers["kv_capacity_tokens"]
        yield GaugeMetricFamily("heir_kv_use_ratio", "KV memory in use, 0 to 1.", value=used / max(1, capacity))
        adapters = self._service.adapters.entries
        yield GaugeMetricFamily("heir_adapters", "Adapters that are loaded.", value=len(adapters))
        yield self._build()
        yield from self._hook()

    def _serves(self, num_ready_engines: int) -> bool:
        hook = self._service.hook
        has_hook = hook is None or hook.board.phase is Phase.READY
        return has_hook and (num_ready_engines > 0 or not self._service.has_engine)

    def _hook(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Zeros without a user's code."""
        board = None if self._service.hook is None else self._service.hook.board
        found = (0, 0, 0) if board is None else (int(board.ready), board["running"], board["restarts"])
        yield GaugeMetricFamily("heir_hook_ready", "1 if the user's code is loaded.", value=found[0])
        yield GaugeMetricFamily("heir_hook_running", "Calls of the user's code in flight.", value=found[1])
        text = "Processes of the user's code that died and were restarted."
        yield CounterMetricFamily("heir_hook_restarts", text, value=found[2])

    def _build(self) -> GaugeMetricFamily:
        labels = ["version", "model", "dtype", "device", "quantize", "runner"]
        info = GaugeMetricFamily("heir_build_info", "What is served; always 1.", labels=labels)
        if self._service.ready and self._service.has_engine:
            card = self._service.model.card
            info.add_metric([VERSION, card.model_id, card.dtype, card.device, card.quantize, card.runner], 1)
        return info


_GAUGES = (
    ("tgi_queue_size", "waiting", "Requests in the engine's queue."),
    ("tgi_batch_current_size", "running", "Running sequences."),
    ("tgi_batch_current_max_tokens", "kv_used_tokens", "KV memory in use, in tokens."),
    ("tgi_batch_max_total_tokens", "kv_capacity_tokens", "KV memory, in tokens."),
    ("heir_ready", "ready", "1 if requests are answered."),
    ("heir_engines", "engines", "Engines in this container."),
    ("heir_engines_ready", "engines_ready", "Engines that serve."),
    ("heir_adapters_resident", "adapters_resident", "Adapters in a place on a device, over all engines."),
    ("heir_adapter_bytes", "adapter_bytes", "Host memory of the adapters of all engines, in bytes."),
    ("heir_draining", "draining", "1 if the server is shutting down."),
    ("heir_self_test", "self_test", "Verdict of the start-up trial: 0 not run, 1 passed, 2 fell back."),
)
_COUNTERS = (
    ("heir_steps", "steps", "Forward passes."),
    ("heir_prompt_tokens", "prompt_tokens", "Prompt tokens computed."),
    ("heir_generated_tokens", "generated_tokens", "Tokens generated."),
    ("heir_preemptions", "preemptions", "Sequences that lost their KV memory and were queued again."),
    ("heir_aborts", "aborts", "Requests aborted: the client disconnected or a stop string matched."),
    ("heir_engine_failures", "failures", "Requests that failed in the engine."),
    ("heir_engine_restarts", "restarts", "Engines that died and were restarted."),
    ("heir_prefix_query_tokens", "prefix_query_tokens", "Prompt tokens looked up in the prefix cache."),
    ("heir_prefix_hit_tokens", "prefix_hit_tokens", "Prompt tokens found in the prefix cache."),
    ("heir_adapter_loads", "adapter_loads", "Times an adapter took a place on a device."),
    ("heir_adapter_evictions", "adapter_evictions", "Times an adapter gave its place to another."),
)


@blueprint.get("/metrics")
@describe(
    Operation(tag="Server", summary="Numbers for Prometheus", answer=str, answer_media_type="text/plain", keyed=False)
)
def metrics() -> Response:
    """Prometheus text format 0.0.4."""
    registry = CollectorRegistry()
    if os.environ.get(METRICS_DIR_VARIABLE):
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_Engines(service()))
    text = _TGI_COUNTER.sub(rb"\1", generate_latest(registry))
    return Response(text, content_type=CONTENT_TYPE_PLAIN_0_0_4)
