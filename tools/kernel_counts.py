"""`python -m tools.kernel_counts`: kernels, host waits and pageable uploads of a step, as tables for docs/gpu.md.

A model of Llama-3-8B's form runs on a pretended GPU (`tests/support/pretend_cuda`). Its width and vocabulary are small,
since no count depends on them; 32 layers are computed from 2 and 4.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handler.runners.choice import choose_runner
from handler.sampling.grammar import GrammarCompiler
from handler.seam.config import EngineConfig
from handler.seam.protocol import Grammar, GrammarKind
from handler.seam.status import StatusBoard
from tests.support.local_engine import LocalEngine, Outcome, loaded
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda
from tests.support.tiny_models import EOS_ID, build, write_tokenizer

GPU = "A10G"
LAYERS = 32
SHORT, LONG = 2, 4
ROWS = (1, 64)
PROMPT = 512
FIELDS = ("kernels", "waits", "uploads")
MANY = 400
_VOCAB = 32_768
_TOP_P: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "top-p": _TOP_P,
    "top-p, repetition and frequency penalty": _TOP_P | {"repetition_penalty": 1.1, "frequency_penalty": 0.2},
    "grammar, greedy": {"grammar": Grammar(GrammarKind.REGEX, "[a-z ]{400}")},
    "log-probabilities of 5, greedy": {"num_logprobs": 5},
}


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a part of a step. A pageable upload makes the host wait too, but is not among `waits`."""

    kernels: int
    waits: int
    uploads: int

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.kernels - other.kernels, self.waits - other.waits, self.uploads - other.uploads)


def counted(gpus: Gpus) -> Counts:
    """Everything since the last reset."""
    uploads = gpus.uploads.total()
    return Counts(gpus.kernels.total(), gpus.waits.total() - uploads, uploads)


class Meter:
    """An engine, whose steps are counted: inside the runner, and after it."""

    def __init__(self, engine: LocalEngine, gpus: Gpus) -> None:
        self._engine, self._gpus = engine, gpus
        self._forward = counted(gpus)
        runner: Any = engine.core.runner
        run = runner.run

        def run_and_count(batch: Any) -> Any:
            before = counted(gpus)
            found = run(batch)
            self._forward = counted(gpus) - before
            return found

        runner.run = run_and_count

    def step(self) -> tuple[Counts, Counts]:
        """One step of the engine: the forward pass, and all else, which is sampling."""
        self._gpus.reset()
        self._engine.step()
        whole = counted(self._gpus)
        return self._forward, whole - self._forward

    def decode(self, rows: int, **sampling: Any) -> tuple[Counts, Counts]:
        """A step in which `rows` sequences decode, some tokens after their first."""
        asked = self._begin(rows, **sampling)
        found = self.step()
        self._end(asked)
        return found

    def prompt(self, beside: int) -> tuple[Counts, Counts]:
        """A step that computes a prompt of `PROMPT` tokens, beside so many decoding sequences."""
        asked = self._begin(beside)
        asked.append(self._engine.submit([(7 * i + beside) % 250 for i in range(PROMPT)], max_tokens=MANY))
        found = self.step()
        self._end(asked)
        return found

    def _begin(self, rows: int, **sampling: Any) -> list[Outcome]:
        """Sequences with four tokens at least; those whose grammar was compiled first have more."""
        options: dict[str, Any] = {"ignore_eos": True, "reuse_prefix": False, "max_tokens": MANY}
        asked = [self._engine.submit([row, *range(20, 24)], seed=row, **options, **sampling) for row in range(rows)]
        while any(len(each.token_ids) < 4 for each in asked):
            if any(each.done for each in asked):
                raise RuntimeError(f"a sequence ended before it was counted: {asked}")
            self._engine.step()
        return asked

    def _end(self, asked: list[Outcome]) -> None:
        for each in asked:
            self._engine.abort(each)
        while not self._engine.core.scheduler.idle:
            self._engine.step()


@contextmanager
def meter(num_layers: int) -> Iterator[Meter]:
    """An engine over a model of that depth, started as the product starts it."""
    with tempfile.TemporaryDirectory() as folder, pretend_cuda(gpus_of(GPU)) as gpus:
        sizes = {"num_hidden_layers": num_layers, "head_dim": 128, "num_key_value_heads": 1}
        model: Any = build("llama", vocab_size=_VOCAB, max_position_embeddings=2048, **sizes)
        with torch.no_grad():
            # A distribution as steep as a trained model's: the most likely tokens hold most of it.
            model.lm_head.weight.normal_(0.0, 1.0)
        config = EngineConfig(max_num_seqs=max(ROWS), max_model_len=1024, kv_capacity_tokens=2**16)
        board = StatusBoard(Path(folder, "trial"), create=True)
        found = loaded(model.to("cuda", torch.bfloat16), frozenset({EOS_ID}))
        runner, limits = choose_runner(config, found, board)
        write_tokenizer(Path(folder))
        grammars = GrammarCompiler(Path(folder, "tokenizer.json"), _VOCAB, {EOS_ID})
        engine = LocalEngine(runner, limits, Path(folder), grammars=grammars)
        try:
            yield Meter(engine, gpus)
        finally:
            engine.close()


def forward_table() -> Iterator[str]:
    """Lines of the table of forward passes."""
    yield "| forward pass | kernels | a layer | host waits | pageable uploads |"
    yield "|---|---|---|---|---|"
    found: list[list[Counts]] = []
    for num_layers in (SHORT, LONG):
        with meter(num_layers) as each:
            passes = [each.decode(rows)[0] for rows in ROWS] + [each.prompt(beside)[0] for beside in (0, max(ROWS) - 1)]
            found.append(passes)
    names = [f"decode, {rows} row{'s' if rows > 1 else ''}" for rows in ROWS]
    names += [f"prompt of {PROMPT} tokens", f"prompt of {PROMPT} tokens beside {max(ROWS) - 1} rows"]
    for name, short, long in zip(names, *found, strict=True):
        # Waits and uploads must not grow with the depth; if they do, they are told for 32 layers too.
        each_layer, constants = [], []
        for field in FIELDS:
            slope = (getattr(long, field) - getattr(short, field)) / (LONG - SHORT)
            each_layer.append(slope)
            constants.append(getattr(short, field) - SHORT * slope)
        totals = [constant + LAYERS * slope for constant, slope in zip(constants, each_layer, strict=True)]
        yield f"| {name} | {totals[0]:g} | {each_layer[0]:g} | {totals[1]:g} | {totals[2]:g} |"


def sampling_table() -> Iterator[str]:
    """Lines of the table of what follows the forward pass of a decode step."""
    yield "| sampling, decode step | " + " | ".join(f"{what}, {n}" for n in ROWS for what in FIELDS) + " |"
    yield "|---" * (1 + len(ROWS) * len(FIELDS)) + "|"
    with meter(SHORT) as each:
        for name, sampling in KINDS.items():
            cells = []
            for rows in ROWS:
                counts = each.decode(rows, **sampling)[1]
                cells += [counts.kernels, counts.waits, counts.uploads]
            yield f"| {name} | " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    for table in (forward_table(), sampling_table()):
        sys.stdout.write("\n".join(table) + "\n\n")


if __name__ == "__main__":
    main()
