"""With a key set, every route but health and the numbers wants it, whichever routes there will be."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from container.app import create_app
from container.run_dir import RunDir
from container.settings import Settings
from handler.seam.status import StatusBoard
from tests.contract.seam.web import CHAT, TEXT, WebServer

OPEN = {("GET", "/"), ("GET", "/ping"), ("POST", "/ping"), ("GET", "/health"), ("GET", "/metrics")}
OPEN |= {("GET", "/playground"), ("GET", "/playground/some")}
RIGHT = {"Authorization": "Bearer Secret"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    run_dir = RunDir(tmp_path_factory.mktemp("app"))
    StatusBoard(run_dir.board, create=True).close()
    return create_app(Settings(), run_dir)


def calls(app: Flask) -> list[tuple[str, str]]:
    """Every method of every route, with something in the place of its variables."""
    return [
        (method, re.sub(r"<[^>]+>", "some", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in sorted(rule.methods or ())
        if method != "OPTIONS"
    ]


def test_every_route_but_the_open_ones_wants_the_key(guarded: WebServer, app: Flask) -> None:
    found = calls(app)
    assert len(found) > 20
    for method, path in found:
        opened = ("GET" if method == "HEAD" else method, path) in OPEN
        status = guarded.request(method, path, {} if method == "POST" else None).status
        assert (status != 401) == opened, (method, path, status)
        assert guarded.request(method, path, {} if method == "POST" else None, **RIGHT).status != 401


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/console", "/static/x"])
def test_strangers_do_not_learn_which_routes_there_are(guarded: WebServer, path: str) -> None:
    assert guarded.request("GET", path).status == 401
    assert guarded.request("GET", path, **RIGHT).status == 404


WRONG = ("", "Bearer", "Bearer ", "Secret", "Basic Secret", "Bearer secret", "Bearer Secre", "Bearer Secret2")
WRONG += ("Bearer Secret Secret", "Bearer \xff\xfe", "BearerSecret")


@pytest.mark.parametrize("key", WRONG)
def test_any_other_key_is_refused_in_the_dialect(guarded: WebServer, key: str) -> None:
    guarded.engine.reset()
    answer = guarded.post("/v1/chat/completions", CHAT, Authorization=key)
    assert answer.status == 401
    assert answer.json["error"]["code"] == "invalid_api_key"
    for path in ("/generate", "/invocations", "/"):
        answer = guarded.post(path, {"inputs": "x"}, Authorization=key)
        assert answer.status == 401
        assert answer.json["error_type"] == "unauthorized"
    assert not guarded.engine.requests


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_has_no_case(guarded: WebServer, scheme: str) -> None:
    assert guarded.post("/tokenize", TEXT, Authorization=f"{scheme} Secret").status == 200


def test_anthropics_clients_send_the_key_in_a_header_of_its_own(guarded: WebServer) -> None:
    assert guarded.post("/tokenize", TEXT, X_Api_Key="Secret").status == 200
    # Either of two headers may have it.
    assert guarded.post("/tokenize", TEXT, X_Api_Key="Secret", Authorization="Bearer other").status == 200
    for wrong in ("secret", "", "Bearer Secret"):
        answer = guarded.post("/v1/messages", {}, X_Api_Key=wrong)
        assert answer.status == 401
        assert answer.json["error"]["type"] == "authentication_error"
