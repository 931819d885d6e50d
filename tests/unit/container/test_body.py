"""What is wrong with the bytes of a body is said with its place."""

from __future__ import annotations

import pytest
from flask import Flask, request

from container.errors import MalformedBody
from container.web.body import read_json

HALF = "unexpected end of escaped utf-16 surrogate pair at line 1 column "
EOF = "EOF while parsing a value at line 1 column "


def reason(body: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    from contextlib import nullcontext

    monkeypatch.setattr("container.web.body.timed", lambda _name: nullcontext())
    context = Flask("body").test_request_context(method="POST", data=body, content_type="application/json")
    with context, pytest.raises(MalformedBody) as caught:
        read_json(request, 1000)
    return caught.value.message.removeprefix("Failed to parse the request body as JSON: ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (rb'{"m":1,"user":"\ud83d"}', HALF + "21"),
        (rb'{"user":"\ud83d","b":"aaaaaaaaaaaaaaaa"}', HALF + "15"),
        (rb'{"stop":["a","\uD83D"]}', HALF + "20"),
        (rb'{"\ud83d":1}', HALF + "8"),
        (rb'{"a":"\ud83d\n"}', HALF + "12"),
        (rb'{"a":"\ud83d\ude00 \ud83d"}', HALF + "25"),
        (rb'{"a":"\\\ud83dx"}', HALF + "14"),
        (rb'{"a":"\udc00"}', "invalid utf-16 surrogate pair at line 1 column 12"),
        (rb'{"a":"\ud83d\ude00', EOF + "18"),
        (rb'{"a":"\ud83', EOF + "11"),
        (rb'{"a":"\\ud83d', EOF + "13"),
        (b'{"a":', EOF + "5"),
    ],
)
def test_half_a_surrogate_pair_is_named_and_an_early_end_is_one(
    body: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reason(body, monkeypatch).removeprefix("JSON is malformed: ") == words
