"""Durations of the engine's steps, under TGI's names; `/metrics` merges them with the web workers' metrics.

Drafts are counted under vLLM's names and TGI's.

A step with any prompt chunk counts as `prefill`, all others as `decode`. PID 1 sets PROMETHEUS_MULTIPROC_DIR, so a
restarted engine continues its predecessor's counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from handler.scheduling.scheduler import ScheduledBatch

# TGI's durations: 35 steps from 0.15 ms, each 1.5 times the last (router/src/server.rs of text-generation-inference).
# Sizes double here; TGI has one bucket per size.
_SECONDS = [0.00015 * 1.5**i for i in range(35)]
_SIZES = [2**i for i in range(11)]
_SKIPPED = [0, *(2**i for i in range(7))]

_registry = CollectorRegistry()
_count = Counter("tgi_batch_inference_count", "Steps started.", ["method"], registry=_registry)
_success = Counter("tgi_batch_inference_success", "Steps that succeeded.", ["method"], registry=_registry)
_failure = Counter("tgi_batch_inference_failure", "Steps that failed.", ["method"], registry=_registry)
_duration = Histogram("tgi_batch_inference_duration", "A whole step.", ["method"], buckets=_SECONDS, registry=_registry)
_forward = Histogram(
    "tgi_batch_forward_duration", "The model's part of a step.", ["method"], buckets=_SECONDS, registry=_registry
)
_size = Histogram("tgi_batch_next_size", "Sequences of a step.", buckets=_SIZES, registry=_registry)
_drafts = Counter("vllm:spec_decode_num_drafts", "Drafts that were verified.", registry=_registry)
_draft_tokens = Counter("vllm:spec_decode_num_draft_tokens", "Tokens of drafts.", registry=_registry)
_accepted = Counter("vllm:spec_decode_num_accepted_tokens", "Tokens of drafts that were right.", registry=_registry)
_accepted_at = Counter(
    "vllm:spec_decode_num_accepted_tokens_per_pos",
    "Tokens of drafts that were right, by their position in the draft.",
    ["position"],
    registry=_registry,
)
_skipped = Histogram(
    "tgi_request_skipped_tokens", "Tokens of a message beyond its first.", buckets=_SKIPPED, registry=_registry
)
for _metric in (_count, _success, _failure, _duration, _forward):
    for _name in ("prefill", "decode"):
        _metric.labels(_name)  # exports the label at 0 before the first step


def method_of(batch: ScheduledBatch) -> str:
    """TGI's label for the step."""
    return "prefill" if any(item.num_prompt_tokens for item in batch.items) else "decode"


@contextmanager
def measured_step(batch: ScheduledBatch) -> Iterator[None]:
    """Record the block as the step of `batch`."""
    method = method_of(batch)
    started_s = time.perf_counter()
    _count.labels(method).inc()
    _size.observe(len(batch.items))
    try:
        yield
    except BaseException:
        _failure.labels(method).inc()
        raise
    _success.labels(method).inc()
    _duration.labels(method).observe(time.perf_counter() - started_s)


@contextmanager
def measured_forward(batch: ScheduledBatch) -> Iterator[None]:
    """Record the block as the model's part of a step. On CUDA that is only the launch: nothing synchronises."""
    started_s = time.perf_counter()
    yield
    _forward.labels(method_of(batch)).observe(time.perf_counter() - started_s)


def count_draft(num_tokens: int, num_accepted: int) -> None:
    """Count a sequence's part in a step of an engine that speculates; a part without a draft has 0 tokens."""
    _skipped.observe(num_accepted)
    if num_tokens:
        _drafts.inc()
        _draft_tokens.inc(num_tokens)
        _accepted.inc(num_accepted)
        for position in range(num_accepted):
            _accepted_at.labels(str(position)).inc()
