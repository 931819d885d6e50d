"""Arguments are JSON although models write control characters into strings."""

from __future__ import annotations

import json

import pytest

from container.api.openai.argument_text import ArgumentText

EVERY = "".join(map(chr, range(32)))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"a": "one\ntwo\tthree"}', {"a": "one\ntwo\tthree"}),
        ('{\n\t"a": [1,\n"\n"]\n}', {"a": [1, "\n"]}),
        (f'{{"k\n": "{EVERY}"}}', {"k\n": EVERY}),
        ('{"a": "\\"\n\\\\\n"}', {"a": '"\n\\\n'}),
        ('{"a": "line \\\nnext \\\t."}', {"a": "line \nnext \t."}),
        ('{"a": "\\n", "b": "\x7f\u2028"}', {"a": "\n", "b": "\x7f\u2028"}),
    ],
)
def test_strings_hold_escaped_control_characters_wherever_the_text_is_cut(written: str, meant: object) -> None:
    whole = ArgumentText().push(written)
    assert json.loads(whole) == meant
    by_character = ArgumentText()
    assert "".join(map(by_character.push, written)) == whole


@pytest.mark.parametrize("text", ['{"a": 1}', '{\n  "a": "b\\n"\n}', '{"a": "cut', "{'a': 'no json'}", ""])
def test_other_text_passes_as_it_is(text: str) -> None:
    assert ArgumentText().push(text) == text
