"""Packages of a user's code, from a folder of wheels to an import in the code's process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server import Server
from tests.support.wheels import make_wheel

CODE = """
import acme_search
def model_fn(model_dir): return acme_search
def predict_fn(data, model): return {"version": model.VERSION, "file": model.__file__}
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Servers over code that needs acme_search, from a folder of wheels."""
    code = tmp_path / "model" / "code"
    make_wheel(code / "requirements", "acme_search", needs=["msgspec"])
    (code / "inference.py").write_text(CODE)
    (code / "requirements.txt").write_text("acme_search\n")
    servers: list[Server] = []

    def make(**environ: str) -> Server:
        values = {"HF_MODEL_ID": str(tmp_path / "model"), "CACHE_DIR": str(tmp_path / "cache"), "WEB_WORKERS": "1"}
        servers.append(Server(tmp_path / "log", values | {"TRUST_CUSTOM_CODE": "true"} | environ))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


def test_packages_are_installed_and_imported(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    server.wait_ready()
    answer = server.request("POST", "/invocations", {}).json
    assert answer["version"] == "1.0"
    assert Path(answer["file"]).is_relative_to(tmp_path / "cache" / "packages")
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("environ", "requirements", "sentence"),
    [
        ({}, "msgspec==0.1\n", "requirements.txt cannot be installed: it asks for msgspec==0.1, and this server keeps"),
        ({"STANDARD_AUTO_INSTALL_REQ": "false"}, "acme_search\n", "package acme_search is not installed; name it in"),
    ],
)
def test_what_is_missing_ends_the_start_with_one_sentence(
    environ: dict[str, str], requirements: str, sentence: str, start: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "model" / "code" / "requirements.txt").write_text(requirements)
    server = start(**environ)
    assert server.process.wait(120) == 3
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (error,) = [line["message"] for line in lines if line["level"] == "ERROR"]
    assert sentence in error
