"""Packed layers on disk: the same weights, made anew where the file is missing, damaged or cut short."""

from __future__ import annotations

import copy
import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from handler.kernels.compiler import multiplies_matrices
from handler.linears.choice import computes_blocks
from handler.linears.join import join
from handler.linears.kernel_linear import KernelLinear
from handler.linears.packed_file import PackedFile, file_name
from handler.linears.quantised_linear import quantised_linear
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import quantise

ROOT = Path(__file__).resolve().parents[2]
Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda _: b"",
    "cut in the header": lambda raw: raw[:40],
    "cut in the data": lambda raw: raw[: len(raw) // 2],
    "one byte short": lambda raw: raw[:-1],
    "header not JSON": lambda raw: raw[:8] + b"x" + raw[9:],
    "endless header": lambda raw: b"\xff" * 8 + raw[8:],
}
DTYPES = [torch.bfloat16, torch.float32]


def matrix(bits: int, rows: int, columns: int) -> QuantisedWeight:
    generator = torch.Generator().manual_seed(rows + columns)
    found = quantise(torch.randn(rows, columns, generator=generator) * 0.05, bits)
    assert found.minimum is not None
    # Scales and minima as a GGUF file has them.
    return QuantisedWeight(bits, found.codes, found.scale.half().float(), found.minimum.half().float())


def with_table() -> QuantisedWeight:
    codes = matrix(4, 64, 64).codes
    return QuantisedWeight(4, codes, torch.full((64, 2), 0.25), table=torch.arange(-8, 8).float())


MATRICES = {
    "a.up.weight": matrix(4, 128, 64),
    "a.down.weight": matrix(4, 64, 128),
    "a.gate.weight": with_table(),
    "head.weight": matrix(8, 192, 64),
}


def fill(file: PackedFile, dtype: torch.dtype) -> PackedFile:
    """Keep what the file lacks, as a start does."""
    for name, weight in MATRICES.items():
        if name not in file:
            layer = quantised_linear(weight, None, dtype)
            assert (layer is None) == (name == "a.gate.weight" and not computes_blocks(dtype))
            if layer is not None:
                file.keep(name, layer)
    file.save()
    file.wait()
    return file


def check(file: PackedFile, dtype: torch.dtype) -> None:
    for name, weight in MATRICES.items():
        if weight.table is not None and not computes_blocks(dtype):
            continue
        assert name in file
        got = file.layer(name, None, None).weight
        exact = weight.dequantise(torch.float32)
        off = (got.float() - exact).abs()
        if computes_blocks(dtype) and multiplies_matrices():
            assert (off <= exact.abs() * 2**-8).all(), "our kernel changes no weight but by rounding it"
        elif computes_blocks(dtype):
            assert torch.equal(got, weight.dequantise(dtype)), "our kernel changes no weight"
        else:
            torch.testing.assert_close(got.float(), exact, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_once_and_read_again(tmp_path: Path, dtype: torch.dtype) -> None:
    fill(PackedFile("m", "code", [tmp_path], dtype), dtype)
    (kept,) = (tmp_path / "packed").iterdir()
    assert kept.name == f"m-code-{file_name(dtype)}"
    check(PackedFile("m", "code", [tmp_path], dtype), dtype)
    assert "a.up.weight" not in PackedFile("other", "code", [tmp_path], dtype)


def test_a_layer_that_a_file_lacks_is_added(tmp_path: Path) -> None:
    first = PackedFile("m", "code", [tmp_path], torch.float32)
    layer = quantised_linear(MATRICES["head.weight"], None, torch.float32)
    assert layer is not None
    first.keep("head.weight", layer)
    first.save()
    first.wait()
    second = PackedFile("m", "code", [tmp_path], torch.float32)
    assert "head.weight" in second
    assert "a.up.weight" not in second
    fill(second, torch.float32)
    check(PackedFile("m", "code", [tmp_path], torch.float32), torch.float32)


ENGINE = """
import sys, time
from pathlib import Path
import torch
from handler.linears.packed_file import PackedFile
from tests.kernels.test_packed_file import fill

directory, number = Path(sys.argv[1]), sys.argv[2]
file = PackedFile("m", "code", [directory], torch.float32)
(directory / f"ready{number}").touch()
while len(list(directory.glob("ready*"))) < 2:
    time.sleep(0.001)
fill(file, torch.float32)
maps = Path("/proc/self/maps").read_text().splitlines()
print(*sorted({line.split()[4] for line in maps if str(directory) in line}))
"""


def test_of_engines_that_start_together_one_writes_and_all_map_its_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINE, str(tmp_path)]
    engines = [subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True, cwd=ROOT) for i in range(2)]
    mapped = {engine.communicate(timeout=300)[0].strip() for engine in engines}
    (kept,) = (tmp_path / "packed").iterdir()
    assert mapped == {str(kept.stat().st_ino)}, "one file, which nobody has replaced"


def test_nobody_waits_for_ever_for_whoever_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.linears.packed_file._WAIT_S", 0.2)
    lock = tmp_path / "packed" / f"m-code-{file_name(torch.float32)}"
    lock.parent.mkdir()
    with lock.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        check(fill(PackedFile("m", "code", [tmp_path], torch.float32), torch.float32), torch.float32)


def test_what_the_image_holds_comes_first(tmp_path: Path) -> None:
    shipped, cache = tmp_path / "shipped", tmp_path / "cache"
    fill(PackedFile("m", "code", [shipped], torch.float32), torch.float32)
    check(fill(PackedFile("m", "code", [shipped, cache], torch.float32), torch.float32), torch.float32)
    assert not cache.exists()


def test_what_is_kept_by_nobody_costs_nothing(tmp_path: Path) -> None:
    file = PackedFile("m", "code", [tmp_path], torch.float32)
    file.keep("a.weight", torch.nn.Linear(2, 2))
    file.save()
    file.wait()
    assert not (tmp_path / "packed").exists()
    assert copy.deepcopy(file) is file


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    dtype = torch.float32
    fill(PackedFile("m", "code", [tmp_path], dtype), dtype)
    kept = tmp_path / "packed" / f"m-code-{file_name(dtype)}"
    kept.write_bytes(damage(kept.read_bytes()))
    with caplog.at_level(logging.WARNING, "handler"):
        fill(PackedFile("m", "code", [tmp_path], dtype), dtype)
        assert f"{kept} is damaged or cut short, and is made anew" in caplog.text
        caplog.clear()
        check(PackedFile("m", "code", [tmp_path], dtype), dtype)
    assert not caplog.text


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file where a directory should be")
    with caplog.at_level(logging.WARNING, "handler"):
        fill(PackedFile("m", "code", [cache], torch.float32), torch.float32)
    assert "packed weights are not kept" in caplog.text


def test_the_file_is_one_of_safetensors(tmp_path: Path) -> None:
    fill(PackedFile("m", "code", [tmp_path], torch.float32), torch.float32)
    with safe_open(tmp_path / "packed" / f"m-code-{file_name(torch.float32)}", "pt") as file:
        assert file.metadata().keys() == MATRICES.keys() - {"a.gate.weight"}
        assert len(file.keys()) == 2 * len(file.metadata())


@pytest.mark.needs("avx512_bf16")
def test_layers_that_are_joined_stay_views_of_the_file(tmp_path: Path) -> None:
    """In the start that writes the file as in later ones; in the model's order, not in that of names."""
    names = ["a.up.weight", "a.gate.weight"]
    file = PackedFile("m", "code", [tmp_path], torch.bfloat16)
    expected = {}
    for number, name in enumerate(reversed(names)):
        layer = quantised_linear(matrix(4, 128 + 64 * number, 64), None, torch.bfloat16)
        assert isinstance(layer, KernelLinear)
        expected[name] = layer.weight
        file.keep(name, layer)
    first = file.save(names)
    file.wait()
    later = PackedFile("m", "code", [tmp_path], torch.bfloat16)
    for layers in ([first[name] for name in names], [later.layer(name, None, None) for name in names]):
        whole = join(layers)
        assert isinstance(whole, KernelLinear)
        assert whole.packed is not None
        assert torch.equal(whole.weight, torch.cat([expected[name] for name in names]))
        storages = {tensor.untyped_storage().data_ptr() for tensor in whole.packed.tensors}
        assert len(storages) == 1, "nothing was copied"


def test_files_of_the_same_model_and_machine_by_other_code_are_removed_after_a_day(tmp_path: Path) -> None:
    name, day = file_name(torch.float32), 86400
    directory = tmp_path / "packed"
    directory.mkdir()
    others = {f"m-old-other-{name}", f"m-x-old-{name}", f"m2-old-{name}", f"m-old-sse-{name.partition('-')[2]}"}
    stale = {f"m-old-{name}", f"m-older-{name.rpartition('-')[0]}-0123.safetensors"}
    for each in others | stale | {f"m-young-{name}"}:
        (directory / each).touch()
        made_s = time.time() - (day / 2 if "young" in each else 2 * day)
        os.utime(directory / each, (made_s, made_s))
    fill(PackedFile("m", "new", [tmp_path], torch.float32), torch.float32)
    assert {path.name for path in directory.iterdir()} == others | {f"m-young-{name}", f"m-new-{name}"}


def test_a_start_removes_what_a_killed_one_left_and_nothing_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, goes_on = tmp_path / "packed", threading.Event()
    directory.mkdir()
    (directory / "tmp1234.new").write_bytes(b"half")
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (goes_on.wait(), fsync(handle)))
    first = PackedFile("m", "code", [tmp_path], torch.float32)
    layer = quantised_linear(MATRICES["head.weight"], None, torch.float32)
    assert layer is not None
    first.keep("head.weight", layer)
    try:
        first.save()
        PackedFile("m", "code", [tmp_path], torch.float32)
        (scratch,) = directory.glob("*.new")
        assert scratch.name != "tmp1234.new"
    finally:
        goes_on.set()
        first.wait()
    assert "head.weight" in PackedFile("m", "code", [tmp_path], torch.float32)
