"""Vertex AI tells a container in AIP_* variables which routes it will call."""

from __future__ import annotations

import pytest
from flask import Flask

from container.app import _add_route
from tests.contract.seam.web import WebServer

KEY = {"Authorization": "Bearer Secret"}
ROUTE = "/v1/endpoints/1/deployedModels/2"


def test_the_health_route_needs_no_key(guarded: WebServer) -> None:
    assert guarded.request("GET", ROUTE).status == 200


def test_the_predict_route_is_vertex(guarded: WebServer) -> None:
    body = {"instances": [{"inputs": "hi"}]}
    answer = guarded.request("POST", f"{ROUTE}:predict", body, **KEY)
    assert (answer.status, len(answer.json["predictions"])) == (200, 1)
    assert guarded.request("POST", f"{ROUTE}:predict", body).status == 401
    refused = guarded.request("POST", f"{ROUTE}:predict", {"instances": []}, **KEY)
    assert (refused.status, refused.json["error_type"]) == (422, "Input validation error"), "in TGI's form"


@pytest.mark.parametrize("path", ["/vertex", "/chat"])
def test_a_route_that_exists_stays_what_it_is(path: str) -> None:
    app = Flask("routes")
    app.add_url_rule("/vertex", "vertex", lambda: "vertex", methods=["POST"])
    app.add_url_rule("/chat", "chat", lambda: "chat", methods=["POST"])
    _add_route(app, path, "vertex", "POST")
    assert app.test_client().post(path).text == path[1:]
    assert len([rule for rule in app.url_map.iter_rules() if rule.rule == path]) == 1
