"""Failures provoked on purpose: a capture that fails, memory that runs out. The engine goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from handler.runners.trial import Verdict
from tools.gpu_check.client import Client
from tools.gpu_check.lines import Line, check
from tools.gpu_check.models import FAMILIES, build, choose, decoding_of, serve_config
from tools.gpu_check.rows import new_sequence
from tools.gpu_check.setting import Setting

# Steps of more tokens are those of the one long prompt, and larger than any graph: a replay calls no hook.
LONG = 1200


def drills(setting: Setting) -> Iterator[Line]:
    """Each over a tiny model of its own."""
    yield from _failed_capture(setting)
    yield from _out_of_memory(setting)


def _failed_capture(setting: Setting) -> Iterator[Line]:
    model = build("llama", FAMILIES["llama"], std=0.15)
    # Allowed before a capture and forbidden in one; the engine's guard watches operations and cannot see it.
    model.register_forward_pre_hook(lambda *_: torch.cuda.synchronize())
    config = _config(setting)
    runner, limits, board = choose(config, model)
    yield check("failed capture: verdict", Verdict(board["self_test"]).name, "FELL_BACK", decoding=decoding_of(runner))
    yield check("failed capture: named", "capture failed" in decoding_of(runner))
    client = Client(config, runner, limits, board)
    tokens = setting.pick(100, 5)
    answers = [client.submit(new_sequence(i, 20, 256).token_ids, max_tokens=tokens) for i in range(3)]
    client.run()
    yield check("failed capture: tokens", [len(answer.token_ids) for answer in answers], [tokens] * 3)
    client.close()


def _out_of_memory(setting: Setting) -> Iterator[Line]:
    model = build("llama", FAMILIES["llama"], std=0.15)
    config = _config(setting)
    runner, limits, board = choose(config, model)

    def ask_for_too_much(_module: object, _args: object, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[-1] > LONG:
            torch.empty(torch.cuda.get_device_properties(0).total_memory + 1, dtype=torch.uint8, device="cuda")

    model.register_forward_pre_hook(ask_for_too_much, with_kwargs=True)
    client = Client(config, runner, limits, board)
    tokens = setting.pick(100, 5)
    short = [client.submit(new_sequence(i, 9, 256).token_ids, max_tokens=tokens) for i in range(3)]
    while not all(answer.token_ids for answer in short):
        client.core.step(0.002)
        client.read()
    long = client.submit(new_sequence(7, LONG + 200, 256).token_ids, max_tokens=tokens)
    client.run()
    later = client.submit(new_sequence(8, 9, 256).token_ids, max_tokens=tokens)
    client.run()
    yield check("out of memory: the long request", long.error, "out_of_memory")
    counts = [len(answer.token_ids) for answer in (*short, later)]
    yield check("out of memory: the others", counts, [tokens] * 4)
    client.close()


def _config(setting: Setting) -> Any:
    return serve_config(setting, max_model_len=2048, max_num_seqs=4, kv_capacity_tokens=8192)
