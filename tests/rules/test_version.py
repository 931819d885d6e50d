"""The version stands in container/version.py. Every other place reads it, or is compared with it here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from container.version import VERSION
from tools.image_check.dockerfile import read

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_it_is_a_release_by_semantic_versioning() -> None:
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", VERSION)


def test_the_wheel_reads_it() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "container.version.VERSION"}


def test_the_image_carries_it() -> None:
    """A plain `docker build .` too, which passes no build argument."""
    assert read(ROOT / "Dockerfile")[-1].labels()["org.opencontainers.image.version"] == VERSION


def test_no_other_module_states_it() -> None:
    modules = [
        path
        for name in ("container", "handler", "model_memory", "sagemaker_deploy", "tools")
        for path in (ROOT / name).rglob("*.py")
    ]
    assert [path for path in modules if f'"{VERSION}"' in path.read_text()] == [ROOT / "container" / "version.py"]


def stated(text: str) -> Iterator[str]:
    """Versions that a document gives for the image and for the server's own answers."""
    yield from re.findall(r"\btgi-heir:(\d+\.\d+\.\d+)", text)
    yield from re.findall(r'"(?:server_)?version": "(?:3\.3\.7\+tgi-heir\.)?(\d+\.\d+\.\d+)"', text)


def test_examples_name_the_current_one() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.*")]
    found = {path.name: set(stated(path.read_text())) for path in documents if path.is_file()}
    assert len([versions for versions in found.values() if versions]) > 3
    assert [name for name, versions in found.items() if versions - {VERSION}] == []


def test_the_latest_dated_section_of_the_changelog_is_it() -> None:
    released = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert released[:1] in ([], [VERSION])
