"""A new dialect is one folder of container/api and nothing else: routes, key, errors, document."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from container.run_dir import RunDir
from container.settings import Settings
from handler.seam.status import StatusBoard

PACKAGE = """
from flask import Blueprint, Response, g
from container.api.dialect import Dialect
from container.api.operation import Operation, describe
from container.errors import InvalidRequest

blueprint = Blueprint("echo", __name__)

@blueprint.post("/echo/<word>")
@describe(Operation(tag="Echo", summary="Say it again", answer=str))
def echo(word):
    if word == "no":
        raise InvalidRequest("`word` must not be no")
    return Response(word)

@blueprint.get("/echo/open")
@describe(Operation(tag="Echo", summary="For everybody", answer=str, keyed=False))
def open_to_all():
    return Response("open")

dialect = Dialect(
    name="echo",
    blueprints=(blueprint,),
    error_response=lambda error: Response(f"ECHO {error.status} {error.message}", error.status),
    prefix="/echo",
)
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    from container import api
    from container.app import create_app

    (tmp_path / "dialects" / "echo").mkdir(parents=True)
    (tmp_path / "dialects" / "echo" / "__init__.py").write_text(PACKAGE)
    monkeypatch.setattr(api, "__path__", [*api.__path__, str(tmp_path / "dialects")])
    (tmp_path / "run").mkdir()
    board = StatusBoard(RunDir(tmp_path / "run").board, create=True)
    app = create_app(Settings.from_environ({"API_KEY": "k"}), RunDir(tmp_path / "run"))
    yield app.test_client()
    board.close()
    sys.modules.pop("container.api.echo")


def test_one_folder_is_a_dialect(client: FlaskClient) -> None:
    key = {"Authorization": "Bearer k"}
    assert client.post("/echo/yes", headers=key).text == "yes"
    refused = client.post("/echo/no", headers=key)
    assert (refused.status_code, refused.text) == (400, "ECHO 400 `word` must not be no")
    assert client.get("/echo/x/y", headers=key).text.startswith("ECHO 404")
    assert client.post("/echo/yes").text.startswith("ECHO 401")
    assert client.get("/echo/open").text == "open"
    document: Any = client.get("/api-doc/openapi.json", headers=key).json
    assert "/echo/{word}" in document["paths"]
    assert document["paths"]["/echo/{word}"]["post"]["security"] == [{"key": []}]
    assert client.get("/v1/nothing", headers=key).json["error"]["type"] == "not_found_error"  # type: ignore[index]
    assert client.get("/nothing", headers=key).json["error_type"] == "not_found"  # type: ignore[index]
