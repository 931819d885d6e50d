"""Which wheels go to a machine with a GPU, and how they are cut and unpacked there. No network."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from tools.gpu_check.bundle.__main__ import MAX_BYTES, sizes, too_large
from tools.gpu_check.bundle.choice import needed, pinned, pins, roots
from tools.gpu_check.bundle.cut import cut
from tools.gpu_check.bundle.description import Description
from tools.gpu_check.bundle.unpack import unpack

ASKED = {
    "one": ["two>=1", "torch", 'old; python_version < "3.12"', 'more; extra == "all"', "Two_Words"],
    "two": ["three", "one"],
    "two-words": ["three"],
}
LIBRARIES = ("libbitsandbytes_cuda126.so", "libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so")


def wheel(directory: Path, name: str, files: dict[str, str]) -> Path:
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for inside, text in files.items():
            file.writestr(inside, text)
    return path


@pytest.mark.parametrize(("python", "others"), [("3.12", set()), ("3.11", {"old"})])
def test_a_package_brings_what_it_needs_there(python: str, others: set[str]) -> None:
    found = needed(["one"], python, ASKED.get)
    assert set(found) == {"one", "two", "three", "two-words"} | others
    assert sorted(found["three"]) == ["two", "two-words"]


def test_the_real_bundle_holds_the_engine_and_its_tests() -> None:
    found = needed(roots(), "3.12")
    assert found.keys() >= {"transformers", "tokenizers", "llguidance", "huggingface-hub", "pyzmq", "msgspec", "gguf"}
    assert found.keys() >= {"bitsandbytes", "accelerate", "psutil", "pytest", "hypothesis"}
    assert not found.keys() & {"torch", "numpy", "numba", "llvmlite", "triton", "flask"}
    assert len(pinned(list(found), pins())) == len(found)


def test_a_package_without_a_pin_is_refused() -> None:
    assert pinned(["one"], {"one": "1"}) == ["one==1"]
    with pytest.raises(ValueError, match="pins no two"):
        pinned(["one", "two"], {"one": "1"})


def test_one_cuda_library_stays(tmp_path: Path) -> None:
    files = {f"bitsandbytes/{name}": "x" * 1000 for name in LIBRARIES} | {"bitsandbytes/__init__.py": ""}
    path = wheel(tmp_path, "bitsandbytes", files)
    cut(path, "130")
    assert zipfile.ZipFile(path).namelist() == ["bitsandbytes/libbitsandbytes_cuda130.so", "bitsandbytes/__init__.py"]
    with pytest.raises(ValueError, match=r"no libbitsandbytes_cuda99\.so"):
        cut(path, "99")
    other = wheel(tmp_path, "other", {"other/any.so": ""})
    cut(other, "130")
    assert zipfile.ZipFile(other).namelist() == ["other/any.so"]


def test_a_bundle_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    path = wheel(tmp_path, "one", {"one.py": ""})
    assert sizes(tmp_path) == {path.name: path.stat().st_size}
    assert too_large({"one": MAX_BYTES}) is None
    assert "60 MiB" in str(too_large({"one": MAX_BYTES, "two": 1}))


def test_a_bundle_comes_before_the_machine_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_the_bundle.py").write_text("WHERE = 'the machine'")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", "before")
    bundle, packages = tmp_path / "bundle", tmp_path / "packages"
    bundle.mkdir()
    wheel(bundle, "of_the_bundle", {"of_the_bundle.py": "WHERE = __file__"})
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    Description("2.7", "130").write(bundle)
    with pytest.raises(RuntimeError, match=rf"for Python 2\.7, this is {here}"):
        unpack(bundle, packages)
    Description(here, "130").write(bundle)
    unpack(bundle, packages)
    import of_the_bundle  # type: ignore[import-not-found]

    assert str(packages / "of_the_bundle.py") == of_the_bundle.WHERE
    assert os.environ["PYTHONPATH"] == f"{packages}{os.pathsep}before"
