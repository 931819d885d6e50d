"""`python -m bench.kv_cache`: perplexity of the bundled model with KV memory in each type, through the engine's slots.

The text is that of bench/perplexity.py, in windows. Floats of 8 bits are refused on CPU when a server starts; here they
run through the same cache with torch's attention, for their perplexity. With --speed, milliseconds of decode steps too.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from bench.perplexity import TEXT
from handler.kernels import compiler
from handler.model.gguf_model import bundled_gguf, converted
from handler.model.loader import LoadedModel, load
from handler.runners.slots.runner import SlotRunner
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import EngineConfig, Quantize
from handler.seam.protocol import GenerateRequest, SamplingParams

_CODES = {"auto": None, "int8": torch.int8, "fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
_CHUNK = 256


def main() -> int:
    """Print a line for each type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", default=",".join(_CODES), help="types to measure, comma-separated")
    parser.add_argument("--window", type=int, default=1024, help="tokens of a window")
    parser.add_argument("--dtype", default="auto", help="type of weights: auto, bfloat16 or float32")
    parser.add_argument("--speed", default="", help="contexts of decode steps to measure, in tokens, comma-separated")
    parser.add_argument("--rows", default="1,8,32", help="sequences of a measured step, comma-separated")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("CACHE_DIR", tempfile.gettempdir()))
    compiler.use_cache_dir(cache)
    ids = []
    for name in filter(None, arguments.types.split(",")):
        loaded = _bundled(cache, arguments.dtype, _CODES[name])
        ids = ids or Tokenizer.from_file(str(_directory(cache) / "tokenizer.json")).encode(TEXT.read_text()).ids
        print(
            f"{name}: perplexity {_perplexity(_runner(loaded, 1, arguments.window + 1), ids, arguments.window):.4f}",
            flush=True,
        )
    contexts = [int(context) for context in arguments.speed.split(",") if context]
    for context in contexts:
        for rows in map(int, arguments.rows.split(",")):
            times = _step_times(cache, arguments.dtype, context, rows)
            print(
                f"{context} tokens, {rows} rows: " + ", ".join(f"{n} {t:.1f} ms" for n, t in times.items()), flush=True
            )
    return 0


def _directory(cache: Path) -> Path:
    return converted(bundled_gguf(), cache, lambda *_: None)


def _bundled(cache: Path, dtype: str, codes: torch.dtype | None) -> LoadedModel:
    config = EngineConfig(quantize=Quantize.AUTO, device="cpu", dtype=dtype, cache_dir=str(cache))
    return dataclasses.replace(load(config, _directory(cache), lambda *_: None), kv_codes=codes)


def _runner(loaded: LoadedModel, num_slots: int, max_len: int) -> SlotRunner:
    runner = SlotRunner(loaded, num_slots, max_len)
    runner.accelerate()
    runner.prove()
    return runner


def _sequence(ids: list[int], slot: int) -> Sequence:
    params = SamplingParams(max_tokens=1, seed=0, num_prompt_logprobs=0)
    return Sequence(GenerateRequest("", ids, params, 1.0), b"", 0.0, 1.0, slot=slot)


def _perplexity(runner: SlotRunner, ids: list[int], window: int) -> float:
    losses = []
    for first in range(0, len(ids) - 1, window):
        part = ids[first : first + window]
        sequence, rows = _sequence(part, 0), []
        for start in range(0, len(part), _CHUNK):
            item = ScheduledSequence(sequence, start, min(_CHUNK, len(part) - start))
            rows += [logits.float() for _, logits in runner.run(ScheduledBatch([item])).prompt]
        logits = torch.cat(rows)[: len(part) - 1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(part[1:]), reduction="none"))
    return math.exp(float(torch.cat(losses).mean()))


def _step_times(cache: Path, dtype: str, context: int, num_rows: int) -> dict[str, float]:
    """Fastest decode step over `context` tokens of each of `num_rows` sequences, in milliseconds; types alternate."""
    batches: dict[str, tuple[SlotRunner, ScheduledBatch]] = {}
    for name in ("auto", "int8"):
        runner = _runner(_bundled(cache, dtype, _CODES[name]), num_rows, context + 1)
        _fill(runner)
        items = [ScheduledSequence(_sequence([1] * (context + 1), slot), context, 1) for slot in range(num_rows)]
        batches[name] = runner, ScheduledBatch(items)
    best = dict.fromkeys(batches, math.inf)
    for _ in range(12):
        for name, (runner, batch) in batches.items():
            started = time.perf_counter()
            runner.run(batch)
            best[name] = min(best[name], (time.perf_counter() - started) * 1000)
    return best


@torch.inference_mode()
def _fill(runner: SlotRunner) -> None:
    """Touch all memory of the cache: untouched pages would be read from one page of zeros."""
    layers: Any = runner.cache._layers.values()
    for part in (part for parts in layers for part in parts):
        part.fill_(1)


if __name__ == "__main__":
    sys.exit(main())
