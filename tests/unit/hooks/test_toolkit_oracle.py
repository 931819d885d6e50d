"""What the Hugging Face toolkit 2.6.0 answers to an inference.py, and what we do.

The toolkit cannot be imported beside transformers 5, so its answers are recorded: HuggingFaceHandlerService of
sagemaker-huggingface-inference-toolkit 2.6.0, multi-model-server 1.1.11, transformers 4.53.3, asked once, by hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from container.hooks.user_code.hook import HookError
from tests.support.hooks import JSON, answer, loaded, request

MODEL = "def model_fn(model_dir): return 'model'\n"
SHAPES = {
    "whole": MODEL + "def input_fn(d, c): return ['data', d, c]\ndef predict_fn(d, m): return [*d, m]\n"
    "def output_fn(p, a): return '|'.join(map(str, [*p, a]))",
    "as it came": MODEL + "def predict_fn(d, m): return d",
    "seen": MODEL + "def predict_fn(d, m): return [type(d).__name__, str(d)]",
    "pair": MODEL + "def transform_fn(m, b, c, a): return ('<p>', 'text/html')",
    "raised": MODEL + "def predict_fn(d, m): raise ValueError('no such colour')",
    "rows": MODEL + "def predict_fn(d, m): return [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'y'}]",
    "row": MODEL + "def predict_fn(d, m): return {'a': 1, 'b': 'x'}",
    "nan": MODEL + "def predict_fn(d, m): return float('nan')",
    "umlaut": MODEL + "def predict_fn(d, m): return {'a': ['ü', 1]}",
    "text": MODEL + "def predict_fn(d, m): return 'a'",
    "pipeline": "def model_fn(model_dir): return lambda inputs, **p: [inputs, p]",
    "context": MODEL + "def transform_fn(m, b, c, a, context):\n    context.set_response_status(201)\n    return 'x'",
}
NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }" + b" " * 60
NPY += b"\n\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"
SAME = [
    ("whole", b'{"a": 1}', JSON, "text/x", 200, "text/x", b'data|{"a": 1}|application/json|model|text/x'),
    ("whole", b"a,b", "text/csv", None, 200, JSON, b"data|a,b|text/csv|model|application/json"),
    ("whole", b"\x00", "image/x", "*/*", 200, JSON, b"data|b'\\x00'|image/x|model|application/json"),
    ("as it came", b'{"a":1}', JSON, JSON, 200, JSON, b'{"a":1}'),
    ("as it came", b"[1, 2]", JSON, JSON, 200, JSON, b"[1,2]"),
    ("as it came", b"[1, 2]", JSON, "application/x-npy", 200, "application/x-npy", NPY),
    ("as it came", b"{", JSON, JSON, 400, None, b"Expecting property name enclosed in double quotes: line 1 column 2"),
    ("seen", b"[1]", JSON, JSON, 200, JSON, b'["list","[1]"]'),
    ("seen", b"inputs\na\nb\n", "text/csv", JSON, 200, JSON, b"[\"dict\",\"{'inputs': ['a', 'b']}\"]"),
    (
        *("seen", b"question,context\na,b\n", "text/csv", JSON, 200, JSON),
        b"[\"dict\",\"{'inputs': [{'question': 'a', 'context': 'b'}]}\"]",
    ),
    ("seen", b"abc", "audio/mpeg", JSON, 200, JSON, b"[\"dict\",\"{'inputs': b'abc'}\"]"),
    ("raised", b"[1]", JSON, JSON, 400, None, b"no such colour"),
    ("rows", b"1", JSON, "text/csv", 200, "text/csv", b"a,b\r\n1,x\r\n2,y\r\n"),
    ("nan", b"1", JSON, JSON, 400, None, b"Out of range float values are not JSON compliant"),
    ("umlaut", b"1", JSON, JSON, 200, JSON, '{"a":["ü",1]}'.encode()),
    ("text", b"1", JSON, JSON, 200, JSON, b'"a"'),
    ("pipeline", b'{"inputs":"a","parameters":{"b":1}}', JSON, JSON, 200, JSON, b'["a",{"b":1}]'),
    ("pipeline", b'{"b":1}', JSON, JSON, 200, JSON, b'[{"b":1},{}]'),
    ("context", b"1", JSON, JSON, 201, JSON, b"x"),
]
# The toolkit answers 400 to each but the first, whose body it makes a JSON list.
OURS = [
    ("pair", b"x", JSON, JSON, 200, "text/html", b"<p>"),
    ("as it came", b"[1]", JSON, "application/json, text/csv", 200, JSON, b"[1]"),
    ("as it came", b"[1]", "application/json; charset=utf-8", JSON, 200, JSON, b"[1]"),
    ("as it came", b"[1]", None, JSON, 200, JSON, b"[1]"),
    ("as it came", b"x", "text/plain", JSON, 415, None, b"Content-Type text/plain is not supported without input_fn"),
    ("as it came", b"[1]", JSON, "text/plain", 406, None, b"Accept text/plain is not supported without output_fn"),
    ("seen", b"1,2\n", "text/csv", JSON, 400, None, b"CSV needs a header line with one of question, context, inputs"),
    ("row", b"1", JSON, "text/csv", 200, "text/csv", b"a,b\r\n1,x\r\n"),
    ("pipeline", b'["a"]', JSON, JSON, 200, JSON, b'[["a"],{}]'),
]


@pytest.mark.parametrize(("shape", "body", "content_type", "accept", "status", "given_type", "expected"), SAME + OURS)
def test_the_answer(
    tmp_path: Path,
    shape: str,
    body: bytes,
    content_type: str | None,
    accept: str | None,
    status: int,
    given_type: str | None,
    expected: bytes,
) -> None:
    hook = loaded(tmp_path, {"code/inference.py": SHAPES[shape]})
    sent = request(body, content_type, accept)
    if status >= 400:
        with pytest.raises(HookError) as caught:
            answer(hook, sent)
        assert caught.value.status == status
        assert caught.value.message.encode().startswith(expected)
        return
    found = answer(hook, sent)
    assert (found.status, found.content_type, found.body) == (status, given_type, expected)
