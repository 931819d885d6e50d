"""Peaks beside weights and KV memory: a long prompt, its log-probabilities, softcapped scores."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tools.gpu_check import expected
from tools.gpu_check.client import Client
from tools.gpu_check.lines import Line, check
from tools.gpu_check.models import build, choose, serve_config, sizes_8b, sizes_gemma2
from tools.gpu_check.rows import Rows, new_sequence
from tools.gpu_check.setting import Setting


def memory(setting: Setting) -> Iterator[Line]:
    """A prompt of 4,096 tokens in one step, over the engine's own sizes."""
    length = setting.pick(4096, 300)
    yield from _long_prompt(setting, length)
    gc.collect()
    torch.cuda.empty_cache()
    config = _config(setting, length)
    runner, limits, _ = choose(config, build("gemma2", sizes_gemma2(setting)))
    rows = Rows(runner, runner.kv_manager(limits), 1, length)
    peak = _peak(rows.whole)
    yield setting.speed("softcapped scores: peak", peak, "GB", expected.SOFTCAP_PEAK_GB, tokens=length)


def _long_prompt(setting: Setting, length: int) -> Iterator[Line]:
    config = _config(setting, length)
    runner, limits, board = choose(config, build("llama", sizes_8b(setting)))
    rows = Rows(runner, runner.kv_manager(limits), 1, length)
    peak = _peak(rows.whole)
    yield setting.speed("prompt: peak", peak, "GB", expected.PREFILL_PEAK_GB, tokens=length)
    seconds = setting.seconds_of(rows.whole, setting.pick(3, 1))
    yield setting.speed("prompt: time", seconds, "s", expected.PREFILL_4096_S, tokens=length)
    rows.release()
    client = Client(config, runner, limits, board)
    answer = client.submit(new_sequence(1, length, runner.vocab_size).token_ids, max_tokens=1, num_prompt_logprobs=2)
    peak = _peak(client.run)
    yield setting.speed("prompt log-probabilities: peak", peak, "GB", expected.SCORING_PEAK_GB, tokens=length)
    found = answer.error or answer.num_prompt_logprobs
    yield check("prompt log-probabilities: tokens", found, length - 1)
    client.close()


def _config(setting: Setting, length: int) -> Any:
    sizes = {"max_model_len": length + 8, "max_num_batched_tokens": length, "kv_capacity_tokens": 4 * length}
    return serve_config(setting, max_num_seqs=setting.pick(8, 2), **sizes)


def _peak(action: Callable[[], object]) -> float:
    """GB that `action` has allocated at its peak, beside what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e9
