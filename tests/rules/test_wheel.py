"""The wheel: the deploy helper and its table of memory, typed, under its licence, and nothing of the server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

from container.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sagemaker_deploy"
SHIPPED = (PACKAGE, "model_memory")
SOURCES = ("pyproject.toml", "LICENSE", "NOTICE", "README.md", *SHIPPED, "container", "handler", "tools")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built in a copy: setuptools writes beside its sources, and ships what an earlier build left there."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(target), str(source)]
    subprocess.run(command, check=True)
    (path,) = target.iterdir()
    assert path.name == f"tgi_heir-{VERSION}-py3-none-any.whl"
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return message_from_bytes(wheel.read(f"tgi_heir-{VERSION}.dist-info/METADATA"))


def test_every_module_of_the_deploy_helper_is_in_it_and_no_other(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if name.endswith(".py")}
    assert shipped == {str(path.relative_to(ROOT)) for each in SHIPPED for path in (ROOT / each).rglob("*.py")}
    assert {PurePosixPath(name).parts[0] for name in wheel.namelist()} == {*SHIPPED, f"tgi_heir-{VERSION}.dist-info"}


def test_type_checkers_may_rely_on_its_annotations(wheel: zipfile.ZipFile) -> None:
    assert {f"{each}/py.typed" for each in SHIPPED} <= {*wheel.namelist()}


def test_the_licence_comes_with_it(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    for name in ("LICENSE", "NOTICE"):
        assert wheel.read(f"tgi_heir-{VERSION}.dist-info/licenses/{name}") == (ROOT / name).read_bytes()


def test_an_index_can_describe_it(metadata: Message) -> None:
    assert metadata["Version"] == VERSION
    assert metadata["Summary"]
    assert metadata["Keywords"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# sagemaker_deploy")  # type: ignore[union-attr]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_command_is_declared(wheel: zipfile.ZipFile) -> None:
    entries = wheel.read(f"tgi_heir-{VERSION}.dist-info/entry_points.txt").decode()
    assert "sagemaker-deploy = sagemaker_deploy.cli.main:run" in entries
