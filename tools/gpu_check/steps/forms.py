"""Whole starts from a checkpoint, by HF_MODEL_QUANTIZE: time, memory, and time of a decode step."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from handler.engine.core import EngineCore
from handler.runners.trial import Verdict
from handler.seam.config import Quantize
from handler.seam.errors import StartupError
from handler.seam.status import StatusBoard
from handler.startup import start
from tools.gpu_check import expected
from tools.gpu_check.lines import Line, check, fact
from tools.gpu_check.models import build, decoding_of, folder_of, serve_config, sizes_8b
from tools.gpu_check.rows import Rows
from tools.gpu_check.setting import Setting
from tools.gpu_check.steps.graphs import shim_seconds
from tools.gpu_check.vocabulary import write_tokenizer

# Dense first, to compare with; then by how much depends on them.
_FORMS = ("none", "bitsandbytes-nf4", "int4", "fp8", "bitsandbytes")
_ROWS = (1, 8, 32, 128)
_LAYERS, _LENGTH = 8, 256


def forms(setting: Setting) -> Iterator[Line]:
    """A form that this engine refuses on this device is named with the reason, and judged neither way."""
    started = time.perf_counter()
    checkpoint = _write(setting)
    yield fact("checkpoint written", round(time.perf_counter() - started, 1), "s", gb=_gigabytes(checkpoint))
    for form in _FORMS:
        if setting.tiny and form.startswith("bitsandbytes"):
            continue  # its kernels are for real devices
        try:
            yield from _form(setting, checkpoint, form)
        except StartupError as exc:
            yield fact(f"{form}: refused", str(exc))
        except Exception as exc:  # noqa: BLE001 - the other forms are of interest too
            yield check(f"{form}: starts", f"{type(exc).__name__}: {exc}"[:400])
        gc.collect()
        torch.cuda.empty_cache()
    shutil.rmtree(checkpoint)


def _form(setting: Setting, checkpoint: Path, form: str) -> Iterator[Line]:
    most = setting.pick(_ROWS[-1], 2)
    sizes = {"max_model_len": _LENGTH, "max_num_seqs": most, "kv_capacity_tokens": _LENGTH * most}
    config = serve_config(setting, model=str(checkpoint), quantize=Quantize(form), **sizes)
    board = StatusBoard(Path(config.board_path), create=True)
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    core, card = start(config, board)
    seconds = time.perf_counter() - started
    try:
        memory = {"reserved_gb": _gb(torch.cuda.memory_reserved()), "peak_gb": _gb(torch.cuda.max_memory_reserved())}
        yield setting.speed(f"{form}: start", seconds, "s", expected.START_S, quantize=card.quantize, **memory)
        yield check(f"{form}: verdict", Verdict(board["self_test"]).name, "PASSED", decoding=decoding_of(core.runner))
        for rows in sorted({min(rows, most) for rows in _ROWS}):
            yield _step(setting, core, form, rows)
    finally:
        core.socket.close()


def _step(setting: Setting, core: EngineCore, form: str, count: int) -> Line:
    rows = Rows(core.runner, core.scheduler.kv, count, 16)
    rows.prefill()
    seconds = setting.seconds_of(rows.decode, setting.pick(50, 2))
    rows.release()
    seconds -= shim_seconds(setting, core.runner, count, _LENGTH)
    bound = expected.FORM_STEP_MS.get(form, {}).get(count)
    return setting.speed(f"{form}: step of {_LAYERS} layers", 1e3 * seconds, "ms", bound, rows=count)


def _write(setting: Setting) -> Path:
    folder = folder_of(setting)
    model: Any = build("llama", sizes_8b(setting, _LAYERS))
    model.to("cpu").save_pretrained(folder)
    write_tokenizer(folder, model.config.vocab_size)
    return folder


def _gigabytes(folder: Path) -> float:
    return _gb(sum(file.stat().st_size for file in folder.iterdir()))


def _gb(num_bytes: int) -> float:
    return round(num_bytes / 1e9, 2)
