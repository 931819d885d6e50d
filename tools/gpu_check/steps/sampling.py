"""The sampler alone: logits in, tokens on the host out, by the number of rows and what they ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from handler.sampling.grammar import GrammarCompiler
from handler.sampling.sampler import sample
from handler.scheduling.sequence import Constraint, Sequence
from handler.seam.protocol import Grammar, GrammarKind, SamplingParams
from tools.gpu_check import expected
from tools.gpu_check.lines import Line, check
from tools.gpu_check.models import folder_of
from tools.gpu_check.rows import new_sequence
from tools.gpu_check.setting import Setting
from tools.gpu_check.vocabulary import write_tokenizer

_KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "top_k": {"temperature": 0.8, "top_k": 50},
    "penalties": {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1, "presence_penalty": 0.2},
    "grammar": {"temperature": 0.0},
}


def sampling(setting: Setting) -> Iterator[Line]:
    """Milliseconds of `sample`; the rows of one batch all ask the same."""
    vocab_size = setting.pick(128_256, 320)
    constraint = _constraint(setting, vocab_size)
    for rows in (1, 2) if setting.tiny else (1, 8, 64, 128):
        torch.manual_seed(rows)
        logits = torch.randn(rows, vocab_size, device="cuda").bfloat16() * 4
        for kind, asked in _KINDS.items():
            seqs = _sequences(rows, vocab_size, asked, constraint if kind == "grammar" else None)
            found = sample(logits, seqs, ())
            seconds = setting.seconds_of(lambda: sample(logits, seqs, ()), setting.pick(10, 2))  # noqa: B023
            yield setting.speed(kind, 1e3 * seconds, "ms", expected.SAMPLER_MS[kind], rows=rows)
            lost = [one.message for one in found if one.token_id is None]
            if lost:
                yield check(f"{kind}: every row has a token", lost[0], "")
    yield check("greedy is the largest", _greedy_is_largest(logits), True)


def _greedy_is_largest(logits: torch.Tensor) -> bool:
    seqs = _sequences(len(logits), logits.shape[1], _KINDS["greedy"], None)
    return [one.token_id for one in sample(logits, seqs, ())] == logits.argmax(-1).tolist()


def _sequences(rows: int, vocab_size: int, asked: dict[str, Any], constraint: Constraint | None) -> list[Sequence]:
    found = []
    for index in range(rows):
        seq = new_sequence(index, 200, vocab_size, SamplingParams(max_tokens=64, seed=index, **asked))
        seq.constraint = constraint
        found.append(seq)
    return found


def _constraint(setting: Setting, vocab_size: int) -> Constraint:
    file = write_tokenizer(folder_of(setting), vocab_size)
    grammars = GrammarCompiler(file, vocab_size, [vocab_size - 1])
    return grammars.submit(Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}')).result()
