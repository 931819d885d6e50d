"""What a decode step launches, as the engine has fused it: kernels a layer, and the device's idle time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, supported_activities

from tools.gpu_check import expected
from tools.gpu_check.lines import Line, check, fact
from tools.gpu_check.models import build, choose, serve_config, sizes_8b
from tools.gpu_check.rows import Rows
from tools.gpu_check.setting import Setting

_LAYERS, _STEPS, _SHOWN = 8, 10, 12


def launches(setting: Setting) -> Iterator[Line]:
    """Kernels a layer: the difference of a step over twice as many layers."""
    yield from _norm(setting)
    if ProfilerActivity.CUDA not in supported_activities():
        yield fact("kernels", None, reason="this torch has no profiler for the device")
        return
    few, events = _profiled(setting, _LAYERS)
    many, _ = _profiled(setting, 2 * _LAYERS)
    yield fact("most launched", dict(Counter(event.name[:80] for event in events).most_common(_SHOWN)))
    for layers, (kernels, idle) in {_LAYERS: few, 2 * _LAYERS: many}.items():
        yield fact(f"step of {layers} layers", round(kernels, 1), "kernels", idle_percent=round(100 * idle, 1))
    yield setting.speed("kernels a layer", (many[0] - few[0]) / _LAYERS, "", expected.KERNELS_A_LAYER)


def _profiled(setting: Setting, layers: int) -> tuple[tuple[float, float], list[Any]]:
    """Kernels of one decode step and the device's idle share, and all kernels that ran."""
    sizes = {"max_model_len": 256, "max_num_seqs": 8, "kv_capacity_tokens": 4096}
    runner, limits, _ = choose(serve_config(setting, **sizes), build("llama", sizes_8b(setting, layers)))
    rows = Rows(runner, runner.kv_manager(limits), 1, 16)
    rows.prefill()
    rows.decode()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        started = time.perf_counter()
        for _ in range(_STEPS):
            rows.decode()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    kernels = [event for event in found.events() if event.device_type.name == "CUDA"]
    busy = sum(event.device_time for event in kernels) / 1e6
    return (len(kernels) / _STEPS, 1 - busy / seconds), kernels


def _norm(setting: Setting) -> Iterator[Line]:
    """torch's own norm in one kernel against the model's in seven."""
    x = torch.randn(1, 1, setting.pick(4096, 64), device="cuda").bfloat16()
    weight = torch.ones_like(x[0, 0])

    def parts() -> torch.Tensor:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).bfloat16()

    def whole() -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-6)

    for name, action in (("norm in parts", parts), ("norm of torch", whole)):
        seconds = setting.seconds_of(action, setting.pick(200, 2))
        yield setting.speed(name, 1e6 * seconds, "us")
    yield check("norm of torch is right", bool((parts() - whole()).abs().max() < 0.05))
