"""`make bench-quant`: perplexity, memory and speed of each HF_MODEL_QUANTIZE on this machine's CPU.

The text is bench/data/perplexity.txt: the first two paragraphs of the Declaration of Independence, the beginning of the
Gettysburg Address (both public domain), and text written for this file. Each form runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_FORMS = ("none", "auto", "int8", "int4", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")
TEXT = Path(__file__).parent / "data" / "perplexity.txt"
WINDOW = 256
_ROWS = (1, 8, 32)


def main() -> int:
    """Measure every form and print a table; with --form, measure one in this process and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=_FORMS)
    parser.add_argument("--forms", default=",".join(_FORMS), help="forms to measure, comma-separated")
    parser.add_argument("--dtype", default="auto", help="type of activations: auto, bfloat16 or float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.form:
        print(json.dumps(_measure(arguments.form, arguments.dtype, arguments.threads)))
        return 0
    print("| HF_MODEL_QUANTIZE | stored as | perplexity | weights MiB | RSS MiB | ms at " + " / ".join(map(str, _ROWS)))
    print("|---|---|---|---|---|---|")
    for form in arguments.forms.split(","):
        command = [sys.executable, "-m", "bench.perplexity", "--form", form, "--dtype", arguments.dtype]
        run = subprocess.run(
            [*command, "--threads", str(arguments.threads)], stdout=subprocess.PIPE, text=True, check=True
        )
        row = json.loads(run.stdout.splitlines()[-1])
        times = " / ".join(f"{value:.1f}" for value in row["ms"])
        print(
            f"| `{form}` | {row['stored']} {row['dtype']} | {row['perplexity']:.3f} | {row['weights']} | {row['rss']} "
            f"| {times} |",
            flush=True,
        )
    return 0


def _measure(form: str, dtype: str, threads: int) -> dict[str, Any]:
    import psutil
    import torch
    from tokenizers import Tokenizer

    from handler.linears.packed_linear import KERNEL, Kernel
    from handler.model.gguf_model import bundled_gguf, converted
    from handler.model.loader import load
    from handler.seam.config import EngineConfig, Quantize

    torch.set_num_threads(threads)
    cache = os.environ.get("CACHE_DIR", tempfile.gettempdir())
    directory = converted(bundled_gguf(), Path(cache), lambda *_: None)
    config = EngineConfig(quantize=Quantize(form), device="cpu", dtype=dtype, cache_dir=cache)
    loaded = load(config, directory, lambda *_: None)
    ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(TEXT.read_text()).ids
    with torch.inference_mode():
        # Windows have many rows, for which the dense weights would be used; this measures the packed ones.
        with KERNEL.using(Kernel.PACKED):
            found = [losses(loaded.model, ids[i : i + WINDOW]) for i in range(0, len(ids) - 1, WINDOW)]
        milliseconds = [_milliseconds(loaded.model, ids[:rows]) for rows in _ROWS]
    return {
        "stored": loaded.quantize,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "perplexity": math.exp(float(torch.cat(found).mean())),
        "tokens": len(ids),
        "weights": _weight_bytes(loaded.model) >> 20,
        "rss": psutil.Process().memory_info().rss >> 20,
        "ms": milliseconds,
    }


def losses(model: Any, ids: list[int]) -> Any:
    """Negative log-likelihood of each token of a window except the first."""
    import torch

    tokens = torch.tensor([ids])
    logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")


def _milliseconds(model: Any, ids: list[int]) -> float:
    """Fastest of eight passes over `ids`: as many tokens as a decode step has rows."""
    import torch

    tokens = torch.tensor([ids])
    best = math.inf
    for _ in range(8):
        started = time.perf_counter()
        model(input_ids=tokens, use_cache=False)
        best = min(best, time.perf_counter() - started)
    return best * 1000


def _weight_bytes(model: Any) -> int:
    """Bytes of parameters, buffers and packed weights; shared memory counts once."""
    from handler.linears.kernel_linear import KernelLinear
    from handler.linears.packed_linear import PackedLinear

    packed: list[Any] = []
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            packed += [part for part in (layer.packed, layer.scales_and_zeros, layer.dense) if part is not None]
        elif isinstance(layer, KernelLinear):
            packed += () if layer.packed is None else layer.packed.tensors
    storages = {}
    for tensor in [*model.parameters(), *model.buffers(), *packed]:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


if __name__ == "__main__":
    sys.exit(main())
