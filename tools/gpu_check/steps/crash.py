"""A device-side assert in a real engine process: the process ends, with the exit code that makes PID 1 restart it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from handler import __main__ as engine
from handler import startup
from handler.seam.config import EngineConfig
from handler.seam.errors import StartupError
from handler.seam.status import Phase, StatusBoard
from tools.gpu_check.client import Wire
from tools.gpu_check.isolation import exit_code
from tools.gpu_check.lines import Line, check
from tools.gpu_check.models import FAMILIES, build_on_cpu, folder_of, serve_config
from tools.gpu_check.rows import new_sequence
from tools.gpu_check.setting import Setting
from tools.gpu_check.steps.drills import LONG
from tools.gpu_check.vocabulary import write_tokenizer

_START_S, _END_S = 40.0, 20.0


def crash(setting: Setting) -> Iterator[Line]:
    """This process never touches the GPU, so that the engine may be forked from it."""
    torch.set_num_threads(1)  # a fork must find no threads of OpenMP
    checkpoint = folder_of(setting)
    build_on_cpu("llama", FAMILIES["llama"], std=0.15).save_pretrained(checkpoint)
    write_tokenizer(checkpoint, 320)
    sizes = {"max_model_len": 2048, "max_num_seqs": 4, "kv_capacity_tokens": 8192}
    config = serve_config(setting, model=str(checkpoint), card_path=str(checkpoint / "card"), **sizes)
    board = StatusBoard(Path(config.board_path), create=True)
    pid = os.fork()
    if not pid:
        _serve(config)
    patience = setting.pick(1, 5)
    deadline = time.monotonic() + patience * _START_S
    while board.phase not in {Phase.READY, Phase.FAILED} and time.monotonic() < deadline:
        time.sleep(0.02)
    yield check("engine: phase", board.phase.name, "READY", detail=board.detail)
    wire = Wire(config.socket_path)
    answer = wire.submit(new_sequence(1, 9, 256).token_ids, max_tokens=3)
    while not wire.is_done and time.monotonic() < deadline:
        wire.read(100)
    yield check("a request before", len(answer.token_ids), 3)
    wire.submit(new_sequence(2, LONG + 200, 256).token_ids, max_tokens=3)
    code = exit_code(pid, patience * _END_S)
    found = "still running" if code is None else code
    yield check("exit code after a device-side assert", found, StartupError.exit_code)


def _serve(config: EngineConfig) -> None:
    """The engine's own process; never returns."""
    path = Path(config.board_path).with_name("config.json")
    path.write_bytes(msgspec.json.encode(config))
    start = startup.start

    def provoked(*args: Any) -> Any:
        core, card = start(*args)
        core.runner.loaded.model.register_forward_pre_hook(_assert_on_device, with_kwargs=True)
        return core, card

    vars(startup)["start"] = provoked
    sys.argv = ["handler", str(path)]
    code = 1
    with contextlib.suppress(BaseException):
        code = engine.main()
    # A context that has asserted cannot be torn down in order.
    os._exit(code)


def _assert_on_device(_module: object, _args: object, given: dict[str, Any]) -> None:
    if given["input_ids"].shape[-1] <= LONG:
        return
    try:
        torch.zeros(4, device="cuda")[torch.full((1,), 9, device="cuda")].sum().item()
    except IndexError as exc:  # a device that checks indices before it runs
        raise torch.AcceleratorError("CUDA error: device-side assert triggered") from exc
