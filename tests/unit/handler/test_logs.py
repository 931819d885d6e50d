"""Lines of the log: one record each, whatever is in it."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.seam.logs import JsonFormatter, TextFormatter

FORGED = "a\r\n2026-01-01 00:00:00 ERROR main: forged\x1b[2J\x9b\x85\u2028\u202e\ud800"


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("container.app", logging.WARNING, __file__, 1, message, (), None)
    made.created = 1_600_000_000.25
    made.__dict__["fields"] = fields
    return made


def raised(message: str) -> logging.LogRecord:
    made = record("it broke")
    try:
        raise ValueError(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_json_has_tgis_keys_and_the_fields() -> None:
    line = json.loads(JsonFormatter("web").format(record("hello", status=200, error=KeyError("x"))))
    assert line.pop("pid")
    assert line == {
        "timestamp": "2020-09-13T12:26:40.250000Z",
        "level": "WARNING",
        "target": "container.app",
        "message": "hello",
        "process": "web",
        "status": 200,
        "error": "'x'",
    }


def test_text_is_for_people() -> None:
    line = TextFormatter("engine").format(record("hello", status=200))
    assert line == "2020-09-13 12:26:40 WARNING engine: hello status=200"


@pytest.mark.parametrize("formatter", [JsonFormatter("web"), TextFormatter("web")])
@given(text=st.text() | st.just(FORGED))
def test_no_message_and_no_field_leaves_its_line(formatter: logging.Formatter, text: str) -> None:
    line = formatter.format(record(text, given=text))
    assert all(char.isprintable() for char in line)
    assert len(line.splitlines()) == 1


def test_no_exception_looks_like_a_line() -> None:
    head, *trace = TextFormatter("web").format(raised(FORGED)).split("\n")
    assert head.endswith("it broke")
    assert all(line.startswith("    ") and "\x1b" not in line for line in trace)
    assert "\n" not in JsonFormatter("web").format(raised(FORGED))
    assert "ValueError" in json.loads(JsonFormatter("web").format(raised(FORGED)))["exception"]


def test_a_message_is_cut() -> None:
    line = json.loads(JsonFormatter("web").format(record("x" * 100_000)))
    assert len(line["message"]) < 2100
    assert line["message"].endswith("(100000 characters)")
