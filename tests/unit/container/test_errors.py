"""The table at the top of container/errors.py, held against the classes; and the bodies the dialects make of them."""

from __future__ import annotations

import json
import re

import pytest

from container import errors
from container.api import openai, tgi
from container.errors import ServiceError
from handler.seam.protocol import ErrorCode, Failed


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


@pytest.mark.parametrize(("asked_s", "said_s"), [(-5, 1), (0, 1), (1, 1), (29, 29), (60, 30), (10**9, 30)])
def test_retry_after_is_short_enough_to_be_slept(asked_s: int, said_s: int) -> None:
    """openai's client sleeps what it says up to 120 s, and longer ones it takes for none."""
    assert ServiceError("", retry_after_s=asked_s).retry_after_s == said_s


@pytest.mark.parametrize("code", ErrorCode)
def test_who_may_come_again_is_told_when(code: ErrorCode) -> None:
    error = errors.from_engine(Failed("r", code, "m"))
    assert (error.status in {429, 503}) == (error.retry_after_s is not None)
