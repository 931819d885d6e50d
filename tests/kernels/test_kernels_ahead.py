"""Kernels that a process of its own compiles while a .gguf file is read are those that the engine then takes."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from handler.formats.gguf import kernels_ahead
from handler.formats.gguf.kernels_ahead import compile_ahead
from handler.formats.gguf.tensors import quantised
from handler.kernels import compiler
from handler.kernels.compiler import Taken, compile_kernel, leave_to_others, use_cache_dir
from handler.kernels.product import block_dots
from handler.kernels.product.code_packing import _compile as compile_packing
from handler.linears.choice import quantised_layer

# One with minima of its own, whose bytes differ from weight to weight.
KIND, SHAPE = "Q4_K", (64, 512)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiler._CACHE, "directory", None)
    monkeypatch.setattr(compiler._CACHE, "waits", True)
    use_cache_dir(tmp_path)
    return tmp_path


def some(first: int, count: int) -> torch.Tensor:
    """Blocks whose scales are small numbers above 0."""
    raw = torch.randint(0, 256, (count // 144, 144), dtype=torch.uint8)
    raw[:, :4] = torch.tensor([0, 44, 0, 40], dtype=torch.uint8)
    return raw.view(-1)


@pytest.mark.needs("avx512_bf16")
def test_a_layer_over_a_files_weights_compiles_nothing_more(cache: Path) -> None:
    subprocess.run([sys.executable, "-m", "handler.formats.gguf.kernels_ahead", str(cache), KIND, "F32"], check=True)
    made = {path.name for path in (cache / "kernels").iterdir()}
    assert len(made) == 3
    assert sum(name.endswith(".done") for name in made) == 1
    for each in (block_dots.compile_dots, compile_packing):
        each.cache_clear()
    assert quantised_layer(quantised(KIND, SHAPE, some), None, torch.bfloat16) is not None
    assert {path.name for path in (cache / "kernels").iterdir()} == made


def test_nothing_is_started_for_small_files_nor_twice(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    class Started:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Started)
    large = [("Q6_K", 1 << 24), ("Q4_K", 1 << 24)]
    compile_ahead([("Q4_K", 1000)], cache)
    assert not started
    compile_ahead(large, cache)
    assert [command[-2:] for command in started] == [["Q4_K", "Q6_K"]]
    done = kernels_ahead._done(["Q4_K", "Q6_K"], cache)
    done.parent.mkdir()
    done.touch()
    compile_ahead(large, cache)
    assert len(started) == 1


def test_a_process_that_fails_leaves_a_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    compile_ahead([("Q4_K", 1 << 24)], tmp_path)
    for thread in threading.enumerate():
        if thread.name == "kernels-ahead":
            thread.join()
    assert caplog.text.count("ended with status 1") == 1


def test_one_process_compiles_a_kernel_and_another_leaves_it_to_that(cache: Path) -> None:
    def kernel(arguments):  # type: ignore[no-untyped-def]
        arguments[0] = 1

    lock = cache / "kernels" / f"{compiler._key(kernel)}.lock"
    lock.parent.mkdir()
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        leave_to_others()
        with pytest.raises(Taken):
            compile_kernel(kernel)
    assert compile_kernel(kernel)
    assert [path.suffix for path in lock.parent.iterdir()] == [".kernel"]


def test_a_kernel_that_another_process_holds_for_long_is_compiled_with_a_warning(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def kernel(arguments):  # type: ignore[no-untyped-def]
        arguments[0] = 2

    monkeypatch.setattr(compiler, "_PATIENCE_S", 0.2)
    lock = cache / "kernels" / f"{compiler._key(kernel)}.lock"
    lock.parent.mkdir()
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert compile_kernel(kernel)
        assert caplog.text.count("another process holds") == 1
        assert lock.exists(), "it is the other's"
    assert lock.with_suffix(".kernel").exists()
