"""When an answer counts as made."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response

from container.web.responses import json_response, when_made


def test_a_whole_answer_is_made_before_it_is_sent() -> None:
    done: list[str] = []
    response = json_response({})
    when_made(response, lambda: done.append("made"))
    assert done == ["made"]
    response.close()
    assert done == ["made"]


def test_a_stream_is_made_after_its_last_part_and_before_its_end_is_sent() -> None:
    done: list[str] = []

    def parts() -> Iterator[bytes]:
        yield b"a"
        done.append("last part")
        yield b"b"

    response = Response(parts())
    when_made(response, lambda: done.append("made"))
    sent = iter(response.response)
    assert [next(sent), next(sent), *done] == [b"a", b"b", "last part"]
    assert list(sent) == []
    assert done == ["last part", "made"]
    response.close()
    assert done == ["last part", "made"]


def test_a_stream_that_is_left_is_made_when_it_is_closed() -> None:
    for num_read in (0, 1):
        done: list[str] = []
        response = Response(part for part in (b"a", b"b"))
        when_made(response, lambda done=done: done.append("made"))  # type: ignore[misc]
        for _, _part in zip(range(num_read), response.response, strict=False):
            assert not done
        response.close()
        assert done == ["made"]
