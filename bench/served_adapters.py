"""`python -m bench.served_adapters`: what adapters cost a server, and how fast peft's own mixed batch is.

Two servers of one model take turns, one with adapters (random, of one rank, on all linear layers), one without. Printed
for each number of streams, as tokens a second and as ratios: requests for the base on both servers, and streams that
each name another adapter. Then adapters are registered while streams run, and with `--peft` peft decodes the same
number of rows, each with an adapter, in this process while the servers are idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import aiohttp

from bench.load import question
from bench.servers import Running, ours, started

_NUM_REGISTERED = 4


def main() -> None:
    """Print a line for each number of streams, one for registering, and one for peft."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a checkpoint's directory; empty: the bundled model")
    parser.add_argument("--quantize", default="", help="HF_MODEL_QUANTIZE of both servers")
    parser.add_argument("--streams", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--peft", default="", choices=["", "float32", "bfloat16"], help="also measure peft, in this type"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        dense = _dense_checkpoint(arguments.model, directory)
        # Some more than are named at once: those that are registered while the server runs.
        numbers = range(max(arguments.streams) + 2 * _NUM_REGISTERED)
        adapters = [_adapter(dense, directory / f"a{i}", arguments.rank, i) for i in numbers]
        loads = adapters[: max(arguments.streams)]
        with ExitStack() as stack:
            plain, with_adapters = (
                stack.enter_context(
                    started(replace(ours(), environ=environ, options={"model": "tgi"}), directory / f"log{i}")
                )
                for i, environ in enumerate(_environs(arguments, loads))
            )
            for streams in arguments.streams:
                _compare(plain, with_adapters, streams, arguments)
            for streams, later in ((0, -2 * _NUM_REGISTERED), (min(arguments.streams), -_NUM_REGISTERED)):
                chosen = adapters[later : later + _NUM_REGISTERED or None]
                asyncio.run(_register(with_adapters.url, chosen, streams))
            if arguments.peft:
                _compare_peft(dense, adapters, with_adapters, arguments)


def _environs(arguments: argparse.Namespace, adapters: list[Path]) -> list[dict[str, str]]:
    """Variables of the server without adapters and of the one with them."""
    both = {"HF_MODEL_ID": arguments.model} if arguments.model else {}
    if arguments.quantize:
        both["HF_MODEL_QUANTIZE"] = arguments.quantize
    named = ",".join(f"{path.name}={path}" for path in adapters)
    limits = {"MAX_ADAPTERS": str(len(adapters)), "MAX_CPU_ADAPTERS": str(len(adapters) + 2 * _NUM_REGISTERED)}
    return [both, both | limits | {"LORA_ADAPTERS": named}]


def _dense_checkpoint(model: str, directory: Path) -> Path:
    if model:
        return Path(model)
    from bench.rivals.dense_checkpoint import dense_checkpoint

    return dense_checkpoint(directory)


def _adapter(model: Path, target: Path, rank: int, seed: int) -> Path:
    """Write a random adapter of all linear layers but the output layer, as peft stores one."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - a safetensors file is no dict
                if not key.endswith("_proj.weight"):
                    continue
                outputs, inputs = opened.get_slice(key).get_shape()
                place = f"base_model.model.{key.removesuffix('.weight')}"
                tensors[f"{place}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs)
                tensors[f"{place}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) / 30
    target.mkdir()
    save_file(tensors, target / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank}
    modules = sorted({key.split(".")[-3] for key in tensors})
    (target / "adapter_config.json").write_text(json.dumps(config | {"target_modules": modules}))
    return target


def _compare(plain: Running, with_adapters: Running, streams: int, arguments: argparse.Namespace) -> None:
    """Rounds of base alone, base beside idle adapters, and an adapter for each stream; one round is not counted."""
    base, own = [""] * streams, [f"a{i}" for i in range(streams)]
    kinds = ((plain, base), (with_adapters, base), (with_adapters, own))
    rounds = []
    for number in range(arguments.rounds + 1):
        rounds.append(
            [asyncio.run(_load(server.url, models, number, arguments.max_tokens)) for server, models in kinds]
        )
    rates = list(zip(*rounds[1:], strict=True))
    medians = [statistics.median(rate) for rate in rates]
    beside, mixed = (statistics.median(x / y for x, y in zip(rate, rates[0], strict=True)) for rate in rates[1:])
    tokens = ", ".join(f"{name} {rate:.0f}" for name, rate in zip(("base", "beside", "mixed"), medians, strict=True))
    print(f"{streams} streams: tok/s {tokens}; beside / base {beside:.3f}, mixed / base {mixed:.3f}", flush=True)


async def _load(url: str, models: list[str], number: int, max_tokens: int) -> float:
    """Tokens a second of one stream for each name, all at once; an empty name is the base."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=900)) as session:
        began = time.perf_counter()
        tasks = (_stream(session, url, model, 1000 * number + i, max_tokens) for i, model in enumerate(models))
        arrived = await asyncio.gather(*tasks)
        return sum(map(len, arrived)) / (time.perf_counter() - began)


async def _stream(session: aiohttp.ClientSession, url: str, model: str, index: int, max_tokens: int) -> list[float]:
    """Time of each token of one greedy stream."""
    body = {"model": model or "tgi", "messages": [{"role": "user", "content": question(index, 10)}], "stream": True}
    options = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "logprobs": True}
    times: list[float] = []
    async with session.post(f"{url}/v1/chat/completions", json=body | options) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                # A token without text of its own comes with the next one.
                for choice in json.loads(line[6:])["choices"]:
                    times += [time.perf_counter()] * len((choice.get("logprobs") or {}).get("content") or [])
    return times


async def _register(url: str, adapters: list[Path], streams: int) -> None:
    """Register adapters while streams of the base run; print the time of each, and gaps of the streams around it."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=900)) as session:
        tasks = [asyncio.create_task(_stream(session, url, "", 77000 + i, 400)) for i in range(streams)]
        await asyncio.sleep(1.0)
        spans = []
        for path in adapters:
            began = time.perf_counter()
            async with session.post(f"{url}/adapters", json={"name": path.name, "src": str(path)}) as response:
                response.raise_for_status()
            spans.append((began, time.perf_counter()))
            await asyncio.sleep(0.5)
        arrived = await asyncio.gather(*tasks)
    # Before the first, streams wait for each other's prompts.
    gaps = [(late, late - early) for times in arrived for early, late in pairwise(times) if late > spans[0][0]]
    near = [gap for late, gap in gaps if any(began <= late <= ended + 0.1 for began, ended in spans)]
    far = [gap for late, gap in gaps if not any(began <= late <= ended + 0.1 for began, ended in spans)]
    shown = ", ".join(f"{1000 * (ended - began):.0f}" for began, ended in spans)
    print(f"registering beside {streams} streams: {shown} ms", flush=True)
    if streams:
        step = statistics.median(gap for _, gap in gaps if gap > 0)
        longest = f"longest near it {1000 * max(near, default=0):.0f} ms, elsewhere {1000 * max(far):.0f} ms"
        print(f"  gaps between tokens: {longest}, median {1000 * step:.1f} ms", flush=True)


def _compare_peft(dense: Path, adapters: list[Path], server: Running, arguments: argparse.Namespace) -> None:
    """peft's batch with `adapter_names` and this server's streams in turn."""
    from bench.peft_batch import PeftBatch

    streams = min(arguments.streams)
    batch = PeftBatch(dense, adapters[:streams], arguments.peft)
    own = [f"a{i}" for i in range(streams)]
    pairs = []
    for number in range(3):
        theirs = batch.tokens_per_s(
            [question(5000 + 100 * number + i, 10) for i in range(streams)], arguments.max_tokens
        )
        pairs.append((theirs, asyncio.run(_load(server.url, own, 90 + number, arguments.max_tokens))))
    ratio = statistics.median(mine / theirs for theirs, mine in pairs[1:])
    shown = ", ".join(f"{mine:.0f} / {theirs:.1f}" for theirs, mine in pairs[1:])
    print(f"{streams} rows, tok/s of this server / of peft in {arguments.peft}: {shown}; ratio {ratio:.1f}", flush=True)


if __name__ == "__main__":
    main()
