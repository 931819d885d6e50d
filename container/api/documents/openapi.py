"""The OpenAPI 3.1 document, built from the registered routes and the types that read and write their bodies."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

import msgspec
from flask import Flask

from container.api.operation import Form, Operation, operation_of
from container.version import VERSION

_REF = "#/components/schemas/{name}"
_REASONS = {
    400: "The body is not JSON, or a value is not allowed",
    401: "The API key is missing or wrong",
    404: "There is no such model, adapter or page",
    413: "The body is too long",
    415: "The body is not declared as JSON",
    422: "A value is not allowed",
    424: "The engine gave up on this request, or cannot load the adapter",
    429: "The queue is full; Retry-After says when to come back",
    500: "A fault of the server",
    503: "The model is not ready; Retry-After says when to come back",
    504: "The request took too long",
    507: "There is no room for one more adapter",
    529: "The queue is full; Retry-After says when to come back",
}
_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


# What a user's code takes and answers is known to that code alone.
_ANYTHING: dict[str, Any] = {"content": {"*/*": {}}}
_HOOKED: dict[str, Any] = {
    "summary": "A user's code answers: it decides what it takes and gives",
    "requestBody": {"required": False, **_ANYTHING},
    "responses": {
        "200": {"description": "The code's answer", **_ANYTHING},
        "default": {"description": "The code's answer with another status, or an error of this server", **_ANYTHING},
    },
}


def build(app: Flask, *, with_key: bool, hooked: Container[str] = ()) -> dict[str, Any]:
    """The document of `app`.

    `with_key`: routes with `Operation.keyed` require the API key. `hooked`: paths whose POST a user's code answers.
    """
    found = list(_operations(app))
    types = [kind for _, _, operation in found for kind in _types(operation)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    known = _Schemas(types, schemas)
    paths: dict[str, Any] = {}
    for path, method, operation in found:
        described = _describe(path, method, operation, known, with_key)
        if method == "post" and path in hooked:
            described |= _HOOKED
        paths.setdefault(path, {})[method] = described
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "tgi-heir", "version": VERSION, "summary": "SageMaker, OpenAI and TGI on one port"},
        "paths": paths,
        "components": {"schemas": components},
    }
    if with_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


class _Schemas:
    """The schema of each type of the document."""

    def __init__(self, types: list[Any], schemas: tuple[Any, ...]) -> None:
        self._schema_of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}

    def one(self, kind: Any) -> Any:
        return self._schema_of[id(kind)]

    def any_of(self, kinds: Any) -> Any:
        """The schema of one type, or `anyOf` for several."""
        return _any_of([self.one(kind) for kind in _several(kinds)])

    def body(self, forms: tuple[Form, ...]) -> Any:
        """The forms of a body, each with its rule."""
        found = []
        for form in forms:
            schema = self.one(form.kind)
            found.append({"allOf": [schema, form.rule]} if form.rule else schema)
        return _any_of(found)


def _any_of(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _several(kinds: Any) -> tuple[Any, ...]:
    return kinds if isinstance(kinds, tuple) else () if kinds is None else (kinds,)


def _operations(app: Flask) -> Iterator[tuple[str, str, Operation]]:
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        operation = operation_of(app.view_functions[rule.endpoint])
        if operation is None or not operation.listed:
            continue
        path = _PARAMETER.sub(r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield path, method.lower(), operation


def _types(operation: Operation) -> list[Any]:
    written = (operation.answer, operation.event, operation.error)
    bodies = (form.kind for form in operation.bodies)
    return [*bodies, *operation.parts, *(kind for kinds in written for kind in _several(kinds))]


def _describe(path: str, method: str, operation: Operation, schemas: _Schemas, with_key: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{method}{re.sub(r'[^a-z0-9]+', '_', path.lower())}".rstrip("_"),
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": _responses(operation, schemas, with_key),
    }
    parameters = [*_in_path(path), *_optional("query", operation.query), *_optional("header", operation.headers)]
    if parameters:
        described["parameters"] = parameters
    if operation.bodies:
        content: dict[str, Any] = {"schema": schemas.body(operation.bodies)}
        if operation.example is not None:
            content["example"] = operation.example
        described["requestBody"] = {"required": operation.needs_body, "content": {"application/json": content}}
    if with_key and operation.keyed:
        described["security"] = [{"key": []}]
    return described


def _in_path(path: str) -> list[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in re.findall(r"\{(\w+)\}", path)]


def _optional(place: str, schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "in": place, "schema": schema} for name, schema in schemas.items()]


def _responses(operation: Operation, schemas: _Schemas, with_key: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content[operation.answer_media_type] = {"schema": schemas.any_of(operation.answer)}
    if operation.event is not None:
        data: dict[str, Any] = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": schemas.any_of(operation.event),
        }
        if operation.last_event is not None:
            data = {"anyOf": [data, {"const": operation.last_event}]}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        content["text/event-stream"] = {"schema": event}
    responses: dict[str, Any] = {"200": {"description": "The answer"} | ({"content": content} if content else {})}
    for status in sorted({*operation.errors, *((401,) if with_key and operation.keyed else ())}):
        media: dict[str, Any] = {}
        if operation.error is not None:
            media["application/json"] = {"schema": schemas.any_of(operation.error)}
        if status in operation.text_errors:
            media["text/plain"] = {"schema": {"type": "string"}}
        responses[str(status)] = {"description": _REASONS[status], "content": media}
    return responses
