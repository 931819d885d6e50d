"""The table at the top of container/errors.py, held against the classes; and the bodies the dialects make of them."""

from __future__ import annotations

import json
import re

from container import errors
from container.api import openai, tgi
from container.errors import ServiceError


def kinds(base: type[ServiceError]) -> list[type[ServiceError]]:
    below = [kind for each in base.__subclasses__() for kind in kinds(each)]
    return [each for each in (base, *below) if each.__module__.startswith("container.")]


ERRORS = kinds(ServiceError)[1:]


def table() -> dict[str, tuple[str, str, str]]:
    rows = re.findall(r"── (\w+) +(\d+) +(\S+) +(\S+)", errors.__doc__ or "")
    return {name: (status, code, outcome) for name, status, code, outcome in rows}


def test_the_table_names_every_error() -> None:
    assert table() == {each.__name__: (str(each.status), each.code, each.outcome) for each in ERRORS}


def made(kind: type[ServiceError]) -> ServiceError:
    """One with a message that looks like a format string."""
    error = kind.__new__(kind)
    ServiceError.__init__(error, "{field} was {}", param="field")
    return error


def test_every_dialect_has_a_body_for_every_error() -> None:
    for kind in ERRORS:
        error = made(kind)
        fields = json.loads(openai.dialect.error_response(error).get_data())["error"]
        assert fields["message"] == "{field} was {}"
        assert (fields["param"], fields["code"]) == ("field", kind.code)
        answer = tgi.dialect.error_response(error)
        if answer.mimetype == "application/json":
            assert json.loads(answer.get_data()).keys() == {"error", "error_type"}
        else:
            assert answer.mimetype == "text/plain"
            assert answer.get_data(as_text=True)
