"""Every family's runner passes the start-up trial, and twelve kinds of requests in one batch all end well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handler.runners.trial import Verdict
from handler.sampling.grammar import GrammarCompiler
from handler.seam.protocol import Grammar, GrammarKind
from tools.gpu_check.client import Client
from tools.gpu_check.lines import Line, check
from tools.gpu_check.models import FAMILIES, build, choose, decoding_of, folder_of, serve_config
from tools.gpu_check.setting import Setting
from tools.gpu_check.vocabulary import write_tokenizer

_KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "log-probabilities": {"num_logprobs": 3},
    "prompt log-probabilities": {"num_prompt_logprobs": 2},
    "temperature": {"temperature": 0.9},
    "top_p": {"temperature": 0.9, "top_p": 0.8},
    "top_k and min_p": {"temperature": 0.9, "top_k": 20, "min_p": 0.02},
    "typical": {"temperature": 0.9, "typical_p": 0.7},
    "penalties": {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.3},
    "bias": {"logit_bias": {5: 4.0, 6: -100.0}},
    "bad words": {"bad_words": ((7,), (8, 9))},
    "watermark": {"temperature": 0.9, "watermark": (0.5, 2.0)},
    "grammar": {"grammar": Grammar(GrammarKind.REGEX, "[a-z]{40}")},
}
# What passes with graphs, what without by design (docs/gpu.md), and what takes another runner.
_BY_GRAPHS = {"llama", "gpt_oss", "mixtral", "cohere"}
_PAGED = _BY_GRAPHS | {"gemma2"}
# The tests run these; on a GPU all run.
_TINY = ("llama", "falcon")


def families(setting: Setting) -> Iterator[Line]:
    """Tiny models of random weights; only the way that they are run is of interest."""
    tokenizer = write_tokenizer(folder_of(setting), 320)
    for family in _TINY if setting.tiny else FAMILIES:
        try:
            yield from _family(setting, family, tokenizer)
        except Exception as exc:  # noqa: BLE001 - the other families are of interest too
            yield check(family, f"{type(exc).__name__}: {exc}"[:300], "runs")


def _family(setting: Setting, family: str, tokenizer: Path) -> Iterator[Line]:
    started = time.perf_counter()
    model = build(family, FAMILIES[family], std=0.15)
    seqs = setting.pick(16, len(_KINDS))
    config = serve_config(setting, max_model_len=128, max_num_seqs=seqs, kv_capacity_tokens=256 * seqs)
    runner, limits, board = choose(config, model)
    verdict = Verdict(board["self_test"]).name
    yield check(f"{family}: runner", runner.name, "paged" if family in _PAGED else "dynamic_cache", verdict=verdict)
    by_graphs = "by CUDA graphs" in decoding_of(runner)
    yield check(f"{family}: graphs", by_graphs, family in _BY_GRAPHS, decoding=decoding_of(runner))
    client = Client(config, runner, limits, board, GrammarCompiler(tokenizer, runner.vocab_size, [257]))
    tokens = setting.pick(16, 3)
    answers = {}
    for index, (kind, asked) in enumerate(_KINDS.items()):
        prompt = [(13 * index + 7 * i) % 250 for i in range(20 + index)]
        answers[kind] = client.submit(prompt, max_tokens=tokens, **asked)
    client.run()
    client.close()
    wrong = {kind: one.error or len(one.token_ids) for kind, one in answers.items() if len(one.token_ids) != tokens}
    seconds = round(time.perf_counter() - started, 2)
    yield check(f"{family}: requests", wrong, {}, kinds=len(answers), seconds=seconds)
