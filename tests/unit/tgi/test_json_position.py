"""Lines and columns as serde_json counts them, worked out by hand from its reader."""

from __future__ import annotations

import pytest

from container.api.tgi.request.json_position import position
from container.api.value_path import Step


@pytest.mark.parametrize(
    ("text", "path", "missing", "expected"),
    [
        ("{}", [], True, (1, 2)),
        ('{"inputs": 5}', ["inputs"], False, (1, 12)),
        ('{"a":"x","b":[1,"y"]}', ["b", 1], False, (1, 19)),
        ('{"a": [1, {"b": true}]}', ["a", 1, "b"], False, (1, 20)),
        ('{"inputs": [1]}', ["inputs"], False, (1, 11)),
        ('{"inputs": {"a": 1}}', ["inputs"], False, (1, 11)),
        ('{\n  "x": {\n  }\n}', ["x"], True, (3, 3)),
        ('{"é": 1}', ["é"], False, (1, 8)),
        ('{"a": 1, "b": 2}', ["c"], False, None),
        ('{"a\\u0062": 7}', ["ab"], False, (1, 13)),
    ],
)
def test_position(text: str, path: list[Step], missing: bool, expected: tuple[int, int] | None) -> None:
    assert position(text, path, missing=missing) == expected


def test_a_body_nested_too_deeply_has_no_position() -> None:
    assert position('{"a": ' + "[" * 100_000, ["b"], missing=False) is None
