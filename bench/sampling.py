"""`python -m bench.sampling`: a step's sampling on CPU, for the whole batch against row by row as it once was.

Both sample the same logits, one after the other, many times. Printed is the least time of each and their ratio; below
1 the whole batch is faster. Wall time and the processor's are given, for machines that do other things too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from handler.sampling.sampler import sample
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams
from tests.support import row_by_row

_TOP_P = {"temperature": 0.8, "top_p": 0.9}
_PENALTIES = _TOP_P | {"repetition_penalty": 1.1, "frequency_penalty": 0.2}
# A batch repeats these requests.
_KINDS: dict[str, list[dict[str, Any]]] = {
    "greedy": [{"temperature": 0.0}],
    "temperature": [{"temperature": 0.8}],
    "top_p": [_TOP_P],
    "top_p, flat": [{"temperature": 3.0, "top_p": 0.9}],
    "top_k": [{"temperature": 0.8, "top_k": 40}],
    "penalties": [_PENALTIES],
    "logprobs": [_TOP_P | {"num_logprobs": 5}],
    "mixed": [{"temperature": 0.0}, {"temperature": 0.8}, _TOP_P, _PENALTIES],
}


def main() -> None:
    """Print a line for each vocabulary, kind and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=[49_152, 128_256])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--kinds", nargs="+", default=list(_KINDS))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'vocab':>7} {'rows':>4} {'kind':12} {'old ms':>8} {'new ms':>8} {'wall':>6} {'cpu':>6}")
    for num_tokens in arguments.vocab:
        for kind in arguments.kinds:
            for rows in arguments.rows:
                old, new = _measure(num_tokens, rows, _KINDS[kind], arguments.seconds)
                wall, cpu = (new[i] / old[i] for i in (0, 1))
                line = f"{1000 * old[0]:8.2f} {1000 * new[0]:8.2f} {wall:6.2f} {cpu:6.2f}"
                print(f"{num_tokens:7} {rows:4} {kind:12} {line}", flush=True)


@torch.inference_mode()
def _measure(num_tokens: int, rows: int, kinds: list[dict[str, Any]], seconds: float) -> list[tuple[float, float]]:
    logits = _logits(num_tokens, rows)
    seqs = [_sequence(i, kinds[i % len(kinds)], num_tokens) for i in range(rows)]
    calls: list[Callable[[], Any]] = [lambda: row_by_row.sample(logits, seqs, ()), lambda: sample(logits, seqs, ())]
    assert calls[0]() == calls[1]()
    times: list[list[tuple[float, float]]] = [[], []]
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times[0]) < 5:
        for call, found in zip(calls, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            found.append((time.perf_counter() - wall, time.process_time() - cpu))
        for seq in seqs:
            seq.token_ids.append(seq.token_ids[-1] * 7 % num_tokens)
    return [(min(wall for wall, _ in found), min(cpu for _, cpu in found)) for found in times]


def _logits(num_tokens: int, rows: int) -> torch.Tensor:
    """A few likely tokens above noise, as a language model's: a nucleus of 0.9 holds some ten tokens."""
    generator = torch.Generator().manual_seed(num_tokens + rows)
    logits = torch.randn(rows, num_tokens, generator=generator)
    likely = torch.randint(num_tokens, (rows, 30), generator=generator)
    return logits.scatter_(1, likely, torch.rand(rows, 30, generator=generator) * 6 + 10).bfloat16()


def _sequence(i: int, sampling: dict[str, Any], num_tokens: int) -> Sequence:
    """A prompt of 300 tokens and an answer of 20."""
    params = SamplingParams(max_tokens=1000, seed=i, **sampling)
    prompt = [(i + 1) * 31 * j % num_tokens for j in range(300)]
    seq = Sequence(GenerateRequest(str(i), prompt, params, 1.0), b"", 0.0, 1.0)
    seq.token_ids += [7 * j + i for j in range(20)]
    return seq


if __name__ == "__main__":
    main()
