"""`python -m bench.adapters`: decode steps of a model where each row has an adapter of its own, on CPU.

Adapters are random, of one rank, on all linear layers. Steps of the base alone, of adapters alone and of both mixed
take turns in one process; printed is the least time of each, for machines that do other things too.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from handler.adapters.adapter import Adapter, LowRank
from handler.kernels import compiler
from handler.model.gguf_model import bundled_gguf, converted
from handler.model.loader import LoadedModel, load
from handler.runners.slots.runner import SlotRunner
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import EngineConfig, Quantize
from handler.seam.protocol import GenerateRequest, SamplingParams

_Sizes = Mapping[str, tuple[int, int]]


def main() -> None:
    """Print a line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a directory; the bundled model if not given")
    parser.add_argument("--rows", default="1,8,32", help="sequences of a step, comma-separated")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--context", type=int, default=128, help="tokens before the new one")
    parser.add_argument("--chunk", type=int, default=0, help="measure prompt chunks of so many tokens instead")
    parser.add_argument("--quantize", default="auto")
    parser.add_argument("--dtype", default="auto", help="type of weights: auto, bfloat16 or float32")
    parser.add_argument("--threads", type=int, default=2, help="1: processor time is measured, not wall time")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each line")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("CACHE_DIR", tempfile.gettempdir()))
    compiler.use_cache_dir(cache)
    torch.set_num_threads(arguments.threads)
    counts = [int(rows) for rows in arguments.rows.split(",")]
    loaded = _loaded(cache, arguments)
    sizes = _linear_sizes(loaded)
    runner = SlotRunner(loaded, max(counts), arguments.context + max(arguments.chunk, 1))
    runner.accelerate()
    runner.prove()
    _fill(runner)
    times = [_load(runner, slot, sizes, arguments.rank) for slot in range(max(counts))]
    for name, each in zip(("preparing an adapter", "loading it into a slot"), zip(*times, strict=True), strict=True):
        print(f"{name}: {1000 * min(each):.1f} to {1000 * max(each):.1f} ms")
    for num_rows in counts:
        found = _best(runner, num_rows, arguments)
        parts = ", ".join(f"{name} {ms:.2f} ms ({found['base'] / ms:.3f})" for name, ms in found.items())
        print(f"{num_rows} rows: {parts}", flush=True)


def _loaded(cache: Path, arguments: argparse.Namespace) -> LoadedModel:
    quantize = Quantize(arguments.quantize)
    config = EngineConfig(quantize=quantize, device="cpu", dtype=arguments.dtype, cache_dir=str(cache))
    model = arguments.model or converted(bundled_gguf(), cache, lambda *_: None)
    return load(config, model, lambda *_: None)


def _linear_sizes(loaded: LoadedModel) -> _Sizes:
    """Outputs and inputs of each linear layer but the output layer, by path."""
    named = loaded.model.model.named_modules(prefix="model")
    return {path: (one.out_features, one.in_features) for path, one in named if hasattr(one, "in_features")}


def _load(runner: SlotRunner, slot: int, sizes: _Sizes, rank: int) -> tuple[float, float]:
    """Seconds of preparing a random adapter and of loading it."""
    generator = torch.Generator().manual_seed(slot)
    products = {}
    for path, (outputs, inputs) in sizes.items():
        down = torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs)
        products[path] = LowRank(down, torch.randn(outputs, rank, generator=generator) / 30, 2.0)
    adapter = Adapter(products=products, max_rank=rank)
    began = time.perf_counter()
    prepared = runner.prepare_adapter(adapter)
    ended = time.perf_counter()
    runner.load_adapter(slot, prepared)
    return ended - began, time.perf_counter() - ended


def _best(runner: SlotRunner, num_rows: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Least time of a step in milliseconds: of the base, of an adapter for each row, of half the rows with one."""
    own = list(range(num_rows))
    kinds = {"base": [-1] * num_rows, "adapters": own, "half": [slot if slot % 2 else -1 for slot in own]}
    kinds["one"] = [0] * num_rows
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    batches = {name: _batch(slots, arguments.context, max(arguments.chunk, 1)) for name, slots in kinds.items()}
    best = dict.fromkeys(kinds, math.inf)
    end, rounds = time.monotonic() + arguments.seconds, 0
    while time.monotonic() < end or rounds < 5:
        rounds += 1
        for name, batch in batches.items():
            for _ in range(3):
                began = clock()
                runner.run(batch)
                best[name] = min(best[name], (clock() - began) * 1000)
    return best


def _batch(slots: list[int], context: int, chunk: int) -> ScheduledBatch:
    items = []
    for row, slot in enumerate(slots):
        request = GenerateRequest("", [1] * (context + chunk), SamplingParams(max_tokens=1, seed=0), 1.0)
        sequence = Sequence(request, b"", 0.0, 1.0, slot=row, adapter_slot=slot)
        items.append(ScheduledSequence(sequence, context, chunk))
    return ScheduledBatch(items)


@torch.inference_mode()
def _fill(runner: SlotRunner) -> None:
    """Touch all memory of the cache: untouched pages would be read from one page of zeros."""
    for parts in runner.cache._layers.values():
        for part in parts:
            part.fill_(1)


if __name__ == "__main__":
    main()
