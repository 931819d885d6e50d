"""The table of fields in docs/api.md is what the request types and their rules say."""

from __future__ import annotations

import re

import msgspec

from container.api.openai.chat_request import ChatRequest
from container.api.openai.field_rules import RULES
from tools.fields import PAGE, fields_of, page, table


def test_the_page_is_made_of_the_types() -> None:
    assert PAGE.read_text() == page(PAGE.read_text()), "run `python -m tools.fields`"


def test_every_field_of_a_chat_has_one_status() -> None:
    rows = [line.split(" | ") for line in table().splitlines() if "the body | " in line or "/v1/chat" in line]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row[2])]
    expected = {field.encode_name for field in msgspec.structs.fields(ChatRequest)} | RULES["ChatRequest"].keys()
    assert sorted(names) == sorted(expected)
    assert set(fields_of(ChatRequest).values()) == {"done", "neutral values", "ignored", "refused"}
