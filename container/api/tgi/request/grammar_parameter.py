"""TGI's `grammar` parameter -> the engine's grammar, with TGI's errors (`router/src/validation.rs`)."""

from __future__ import annotations

import msgspec

from container.api.schema.enforceable_schema import enforceable
from container.api.tgi.request.parameters import GrammarParameter, JsonSchemaGrammar, RegexGrammar
from container.errors import InvalidRequest
from handler.seam.protocol import Grammar, GrammarKind


def check_grammar(parameter: GrammarParameter | None, *, supported: bool) -> None:
    """Raises InvalidRequest with TGI's messages."""
    if parameter is None:
        return
    if not supported:
        raise InvalidRequest("grammar is not supported", param="grammar")
    grammar(parameter)


def grammar(parameter: GrammarParameter | None) -> Grammar | None:
    """The constraint; a JSON schema may be given as an object or as a string. Raises InvalidRequest."""
    if parameter is None:
        return None
    if isinstance(parameter, RegexGrammar):
        return Grammar(GrammarKind.REGEX, parameter.value)
    schema = parameter.value.schema if isinstance(parameter, JsonSchemaGrammar) else parameter.value
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise InvalidRequest(f"grammar is not valid: {exc}", param="grammar") from exc
        if not isinstance(schema, dict | bool):
            raise InvalidRequest("grammar is not valid: a JSON schema must be an object", param="grammar")
    elif not isinstance(schema, dict):
        raise InvalidRequest("grammar is not supported", param="grammar")
    try:
        found = enforceable(schema)
    except InvalidRequest as exc:
        raise InvalidRequest(f"grammar is not valid: {exc.message}", param="grammar") from exc
    return Grammar(GrammarKind.JSON_SCHEMA, msgspec.json.encode(found).decode())
