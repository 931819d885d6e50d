"""The OpenAPI document is of this server: its routes, its types, its page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.server import Server

# Routes without an entry of their own: a page and the files of pages.
UNDOCUMENTED = {"/docs/", "/docs/<path:path>", "/playground/<name>"} | {
    f"/v1/responses/{name}" for name in ("input_tokens", "compact")
}


@pytest.fixture(scope="module")
def document(tiny_server: Server) -> Any:
    return tiny_server.request("GET", "/api-doc/openapi.json").json


def test_every_route_is_in_it(document: Any) -> None:
    from flask import Flask

    from container.api import documents, playground
    from container.api.dialect import all_dialects
    from container.api.server import health, metrics_page

    app = Flask("routes", static_folder=None)
    spoken = (blueprint for dialect in all_dialects().values() for blueprint in dialect.blueprints)
    modules = (health, metrics_page, documents)
    for blueprint in [*(module.blueprint for module in modules), *spoken, documents.pages, playground.blueprint]:
        app.register_blueprint(blueprint)
    rules = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()
             if rule.rule not in UNDOCUMENTED}  # fmt: skip
    assert rules == set(document["paths"])


def test_every_reference_leads_somewhere(document: Any) -> None:
    names = set(document["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", str(document))) <= names
    assert {"GenerateParameters", "GenerateAnswer", "StreamEvent"} <= names


def test_parameters_are_those_that_are_read(document: Any) -> None:
    from container.api.tgi.request.parameters import GenerateParameters

    properties = document["components"]["schemas"]["GenerateParameters"]["properties"]
    assert tuple(properties) == GenerateParameters.__struct_fields__
    assert properties["do_sample"] == {"type": "boolean", "default": False}


def test_the_limits_are_this_servers(document: Any) -> None:
    properties = document["components"]["schemas"]["GenerateParameters"]["properties"]
    assert properties["truncate"]["maximum"] == 511
    assert (properties["best_of"]["maximum"], properties["stop"]["maxItems"]) == (2, 4)


def test_openais_types_are_those_that_are_read(document: Any) -> None:
    from container.api.openai.chat_request import ChatRequest
    from container.api.openai.completion_request import CompletionRequest
    from container.api.openai.field_rules import RULES

    schemas = document["components"]["schemas"]
    for kind in (ChatRequest, CompletionRequest):
        others = [name for name in RULES[kind.__name__] if name not in kind.__struct_fields__]
        assert list(schemas[kind.__name__]["properties"]) == [*kind.__struct_fields__, *others]
        assert schemas[kind.__name__]["additionalProperties"] is False
    properties = schemas["ChatRequest"]["properties"]
    assert set(properties["messages"]["items"]["discriminator"]["mapping"]) == {
        "system", "developer", "user", "assistant", "tool", "function",
    }  # fmt: skip
    assert (properties["n"]["minimum"], properties["n"]["maximum"]) == (1, 8)
    assert properties["best_of"]["enum"] == [None, 1]
    assert properties["store"] == {"description": "Ignored: nothing is stored."}
    assert "effort" in schemas["Reasoning"]["properties"]
    ids = schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"][2]
    assert ids["items"]["maximum"] == 319, "the vocabulary of this model"


def test_invocations_takes_all_bodies(document: Any) -> None:
    body = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    names = re.findall(r"schemas/(\w+)", str(body))
    openais = ["ChatRequest", "CompletionRequest", "ResponseRequest", "DecisionRequest"]
    assert names == ["CompatGenerateBody", *openais, "SystemOneRequest", "MessagesRequest"]


def test_a_key_is_asked_for_where_it_is_wanted(strict_documents: Any) -> None:
    paths = strict_documents["paths"]
    assert paths["/generate"]["post"]["security"] == [{"key": []}]
    assert "401" in paths["/generate"]["post"]["responses"]
    assert paths["/info"]["get"]["security"] == [{"key": []}]


@pytest.fixture(scope="module")
def strict_documents() -> Any:
    from flask import Flask

    from container.api import tgi
    from container.api.documents.openapi import build

    app = Flask("keyed", static_folder=None)
    for blueprint in tgi.dialect.blueprints:
        app.register_blueprint(blueprint)
    return build(app, with_key=True)


def test_the_page_and_its_files_come_from_here(tiny_server: Server) -> None:
    page = tiny_server.request("GET", "/docs").body.decode()
    assert "/api-doc/openapi.json" in page
    linked = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert linked
    for link in linked:
        assert link.startswith("/docs/"), "nothing is fetched from elsewhere"
        assert tiny_server.request("GET", link).status == 200
    assert '"validatorUrl": null' in page


def test_the_host_header_is_not_in_the_page(tiny_server: Server) -> None:
    page = tiny_server.request("GET", "/docs", Host="evil.example").body
    assert b"evil.example" not in page
