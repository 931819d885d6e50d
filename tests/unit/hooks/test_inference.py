"""inference.py by the rules of sagemaker-inference 1.10.1 and of the Hugging Face toolkit 2.6.0.

The cases about user modules in the tests of both packages, written anew. `Transformer` of sagemaker-inference itself is
asked where it can answer; what it and the toolkit do otherwise stands in DIFFERENCES.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sagemaker_inference.transformer import Transformer

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.context import Context
from container.hooks.user_code.hook import HookError, HookLoadError
from tests.support.hooks import JSON, answer, loaded, request, write

# A body from a user's own model: what came in, as each function saw it.
WITHOUT_CONTEXT = """
    def model_fn(model_dir):
        return "model"
    def input_fn(data, content_type):
        return ["data", data, content_type]
    def predict_fn(data, model):
        return [*data, model]
    def output_fn(prediction, accept):
        return "|".join(map(str, [*prediction, accept]))
"""
WITH_CONTEXT = """
    def model_fn(model_dir, context):
        return "model of " + type(context).__name__
    def input_fn(data, content_type, context):
        return [data, content_type, context.get_request_id()]
    def predict_fn(data, model, context=None):
        return [*data, model, context.get_request_header(0, "x-colour")]
    def output_fn(prediction, accept, context):
        context.set_response_header(0, "x-shade", "dark")
        context.set_response_status(201)
        return "|".join(map(str, [*prediction, accept]))
"""
TRANSFORM = """
    import os
    def model_fn(model_dir):
        return os.path.basename(__file__)
    def transform_fn(a, b, c, d):
        return f"{a} {b} {c} {d}"
"""
TRANSFORM_WITH_CONTEXT = """
    def model_fn(model_dir, context=None):
        return "m"
    def transform_fn(a, b, c, d, context=None):
        return f"{a} {b} {c} {d} {context.get_all_request_header(0)['x-colour']}"
"""
# By SAGEMAKER_PROGRAM without a config.json: sagemaker-inference. Else the toolkit.
BOTH = pytest.mark.parametrize("environ", [{}, {"SAGEMAKER_PROGRAM": "inference.py"}], ids=["toolkit", "sagemaker"])
CODE = "code/inference.py"


@BOTH
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (WITHOUT_CONTEXT, "data|{}|application/json|model|text/x"),
        (TRANSFORM, "inference.py {} application/json text/x"),
        (TRANSFORM_WITH_CONTEXT, "m {} application/json text/x red"),
    ],
)
def test_functions_are_called_in_turn(tmp_path: Path, environ: dict[str, str], code: str, expected: str) -> None:
    hook = loaded(tmp_path, {CODE: code}, **environ)
    sent = request({}, JSON, "text/x", headers=(("x-colour", "red"),))
    found = answer(hook, sent)
    assert (found.status, found.content_type, found.body.decode()) == (200, "text/x", expected)
    assert hook.owns_model
    assert not hook.is_async


@BOTH
def test_a_context_says_what_came_and_what_goes(tmp_path: Path, environ: dict[str, str]) -> None:
    hook = loaded(tmp_path, {CODE: WITH_CONTEXT}, **environ)
    found = answer(hook, request({}, JSON, "text/x", headers=(("x-colour", "red"),)))
    assert found.body == b"{}|application/json|r-1|model of Context|red|text/x"
    assert (found.status, found.headers) == (201, (("x-shade", "dark"),))


@pytest.mark.parametrize(
    ("accept", "environ", "expected"),
    [
        ("text/x", {}, "text/x"),
        (None, {}, JSON),
        ("*/*", {}, JSON),
        (None, {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}, "text/csv"),
        ("*/*", {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}, "text/csv"),
        ("*/*", {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": ""}, JSON),
    ],
)
def test_the_accept_that_functions_get(tmp_path: Path, accept: str, environ: dict[str, str], expected: str) -> None:
    hook = loaded(tmp_path, {CODE: WITHOUT_CONTEXT}, SAGEMAKER_PROGRAM="inference.py", **environ)
    found = answer(hook, request({}, JSON, accept))
    assert found.body.decode().endswith(f"|{expected}")
    assert found.content_type == expected


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [(JSON, "str"), ("text/csv", "str"), ("text/plain", "bytes"), ("application/x-npy", "bytes"), (None, "bytes")],
)
def test_json_and_csv_arrive_as_text(tmp_path: Path, content_type: str | None, expected: str) -> None:
    code = "def transform_fn(model, data, content_type, accept):\n    return f'{type(data).__name__} {content_type}'\n"
    hook = loaded(tmp_path, {CODE: f"def model_fn(d):\n    pass\n{code}"})
    assert answer(hook, request(b"1", content_type)).body.decode() == f"{expected} {content_type}"


@pytest.mark.parametrize(
    ("output_fn", "accept", "expected"),
    [
        ("'a'", JSON, (JSON, b"a")),
        ("b'a'", "text/x", ("text/x", b"a")),
        ("bytearray(b'a')", None, (JSON, b"a")),
        ("('a', 'text/y')", "text/x", ("text/y", b"a")),
        ("(b'a', 'text/y')", "text/x", ("text/y", b"a")),
        ("{'a': [1, 'ü']}", "text/x", (JSON, '{"a":[1,"ü"]}'.encode())),
        ("None", None, (JSON, b"null")),
        ("('a', 0.5)", None, (JSON, b'["a",0.5]')),
        ("'a'", "text/*, application/json", (JSON, b"a")),
    ],
)
def test_what_output_fn_returns(tmp_path: Path, output_fn: str, accept: str, expected: tuple[str, bytes]) -> None:
    code = f"def model_fn(d): pass\ndef predict_fn(x, m): pass\ndef output_fn(p, a): return {output_fn}\n"
    found = answer(loaded(tmp_path, {CODE: code}), request({}, JSON, accept))
    assert (found.content_type, found.body) == expected


@BOTH
@pytest.mark.parametrize("other", ["input_fn", "predict_fn", "output_fn", "predict_fn_batch"])
def test_transform_fn_stands_alone(tmp_path: Path, environ: dict[str, str], other: str) -> None:
    with pytest.raises(HookLoadError, match=f"Cannot use transform_fn .*transform_fn and {other}"):
        loaded(tmp_path, {CODE: f"def transform_fn(a, b, c, d): pass\ndef {other}(a, b): pass\n"}, **environ)


@BOTH
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def predict_fn(a): pass", r"predict_fn must take 2 or 3 arguments; it is defined as predict_fn\(a\)"),
        ("def transform_fn(a, b): pass", "transform_fn must take 4 or 5 arguments"),
        ("def input_fn(a, b, c, d): pass", "input_fn must take 2 or 3 arguments"),
        ("def model_fn(): pass\ndef predict_fn(a, b): pass", "model_fn must take 1 or 2 arguments"),
        ("predict_fn = 5", "predict_fn of .* is no function"),
        ("def predictfn(a, b): pass", "has none of model_fn, "),
        ("def predict_fn(a, b) pass", "inference.py cannot be imported: SyntaxError"),
        ("import no_such_package.x", "package no_such_package is not installed; name it in requirements.txt"),
        ("raise ValueError('no\\nway')", "inference.py cannot be imported: ValueError: no way$"),
        ("import sys; sys.exit(3)", r"the code ends the process \(3\)"),
        ("def predict_fn(a, b): pass\ndef model_fn(d): 1/0", "model_fn of .* failed: ZeroDivisionError: division"),
        ("def predict_fn(a, b): pass", "has no model_fn, and no engine runs"),
        ("def predict_fn_batch(a, b): pass\ndef model_fn(d): 1\nMAX_BATCH_SIZE = 0", "MAX_BATCH_SIZE .* from 1, not 0"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(tmp_path: Path, environ: dict[str, str], code: str, message: str) -> None:
    with pytest.raises(HookLoadError, match=message) as caught:
        loaded(tmp_path, {CODE: code}, **environ)
    assert "\n" not in str(caught.value)


def test_more_parameters_with_defaults_take_no_context(tmp_path: Path) -> None:
    """Neither toolkit could call it."""
    code = (
        "def model_fn(d): return 2\ndef predict_fn(data, model, factor=3, plus=1): return data * model * factor + plus"
    )
    assert answer(loaded(tmp_path, {CODE: code}), request(5)).body == b"31"


@BOTH
def test_a_model_is_prepared_and_warmed_up(tmp_path: Path, environ: dict[str, str]) -> None:
    code = """
        steps = []
        def pre_model_fn(model_dir): steps.append("before")
        def model_fn(model_dir): return steps
        def model_warmup_fn(model_dir, model): model.append("warm")
        def predict_fn(data, model): return model
    """
    assert answer(loaded(tmp_path, {CODE: code}, **environ), request({})).body == b'["before","warm"]'


def test_neighbours_are_found(tmp_path: Path) -> None:
    files = {CODE: "from helper import predict_fn, model_fn", "code/helper.py": "def predict_fn(d, m): return m\n"}
    files["code/helper.py"] += "def model_fn(directory): return directory\n"
    assert json.loads(answer(loaded(tmp_path, files), request({})).body) == str(tmp_path)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("ValueError('no such colour')", (400, "no such colour")),
        ("KeyError('a')", (400, "KeyError: 'a'")),
        ("StopIteration('no more')", (400, "StopIteration: no more")),
        ("type('Silent', (Exception,), {'__str__': lambda self: 1 / 0})()", (400, "Silent")),
        ("ValueError()", (400, "ValueError")),
        ("BaseInferenceToolkitError(403, 'not you', 'Forbidden')", (403, "not you")),
        ("GenericInferenceToolkitError(500, 'broken')", (500, "broken")),
        ("UnsupportedFormatError('a/b')", (400, "Content type a/b is not supported by this framework.")),
        ("Prediction('gone', 410)", (410, "gone")),
        ("Prediction('odd', 200)", (400, "odd")),
        ("Prediction('gone', __import__('numpy').int64(410))", (410, "gone")),
    ],
)
def test_an_error_is_its_message(tmp_path: Path, raised: str, expected: tuple[int, str]) -> None:
    code = f"""
        from sagemaker_inference.errors import *
        class Prediction(Exception):  # as multi-model-server has it
            def __init__(self, message, error_code):
                self.message, self.error_code = message, error_code
        def model_fn(d): pass
        def predict_fn(data, model): raise {raised}
    """
    with pytest.raises(HookError) as caught:
        answer(loaded(tmp_path, {CODE: code}), request({}))
    assert (caught.value.status, caught.value.message.splitlines()[0]) == expected
    assert caught.value.__cause__ is not None
    assert "Traceback" not in caught.value.message


def test_a_hook_that_ends_its_process_is_let_end_it(tmp_path: Path) -> None:
    code = "import sys\ndef model_fn(d): pass\ndef predict_fn(data, model): sys.exit(1)"
    with pytest.raises(SystemExit):
        answer(loaded(tmp_path, {CODE: code}), request({}))


def test_the_toolkits_default_calls_the_model_as_a_pipeline(tmp_path: Path) -> None:
    code = "def model_fn(d): return lambda inputs, **parameters: [inputs, parameters]"
    hook = loaded(tmp_path, {CODE: code})
    assert json.loads(answer(hook, request({"inputs": "a", "parameters": {"b": 1}})).body) == ["a", {"b": 1}]
    assert json.loads(answer(hook, request({"b": 1})).body) == [{"b": 1}, {}]
    assert json.loads(answer(hook, request(["a"])).body) == [["a"], {}]
    with pytest.raises(HookLoadError, match="needs a predict_fn"):
        loaded(tmp_path, SAGEMAKER_PROGRAM="inference.py")


# ---- sagemaker-inference itself as the oracle

NO_MODEL = "def model_fn(model_dir): return 'model'\n"
SHAPES = {
    "whole": WITHOUT_CONTEXT,
    "transform": TRANSFORM,
    "decoded": NO_MODEL + "def predict_fn(d, m): return [type(d).__name__, d.tolist()]",
    "as it came": NO_MODEL + "def predict_fn(d, m): return d",
    "pair": NO_MODEL + "def transform_fn(m, b, c, a): return ('<p>', 'text/html')",
    "raised": NO_MODEL + "def predict_fn(d, m): raise ValueError('no such colour')",
    "user error": "from sagemaker_inference.errors import *\n"
    + NO_MODEL
    + "def predict_fn(d, m): raise BaseInferenceToolkitError(403, 'not you', 'No')",
}
SAME = [
    ("whole", b'{"a": 1}', JSON, "text/x"),
    ("whole", b"a,b", "text/csv", None),
    ("whole", b"\x00", "application/x-image", "*/*"),
    ("transform", b"x", "text/plain", "text/x"),
    ("decoded", b"[1, 2.5]", JSON, JSON),
    ("decoded", b"[[1, 2], [3, 4]]", JSON, JSON),
    ("decoded", b'["a", "b"]', JSON, JSON),
    ("decoded", b"1,2\n3,4\n", "text/csv", JSON),
    ("decoded", b"1.5\n2\n", "text/csv", JSON),
    ("as it came", b"[1, 2]", JSON, "text/csv"),
    ("as it came", b"[[1, 2], [3, 4]]", JSON, "text/csv, application/json"),
    ("as it came", b"[1, 2]", JSON, "application/x-npy"),
    ("as it came", b"[1, 2]", JSON, "image/x, application/json"),
    ("pair", b"x", "text/plain", JSON),
    ("user error", b"[1]", JSON, JSON),
]


def oracle(directory: Path, sent: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str | None, bytes]:
    """What sagemaker-inference's own Transformer answers, without the traceback that it appends to a message."""
    monkeypatch.syspath_prepend(str(directory / "code"))
    context: Any = Context(directory)
    headers = {"Content-Type": sent.content_type, "Accept": sent.accept}
    properties = {name: value for name, value in headers.items() if value is not None}
    context.request_processor = [SimpleNamespace(get_request_properties=lambda: properties)]
    status, seen = [200], {}
    context.set_response_status = lambda code, phrase: status.append(code)
    context.set_response_content_type = lambda idx, value: seen.update(type=value)
    (body,) = Transformer().transform([{"body": sent.body}], context)
    raw = body if isinstance(body, bytes) else body.encode()
    return status[-1], seen.get("type"), raw.partition(b"\nTraceback")[0]


def ours(directory: Path, sent: Any) -> tuple[int, str | None, bytes]:
    try:
        found = answer(loaded(directory, SAGEMAKER_PROGRAM="inference.py"), sent)
    except HookError as exc:
        return exc.status, None, exc.message.encode()
    assert isinstance(found.body, bytes)
    return found.status, found.content_type, found.body


@pytest.mark.parametrize(("shape", "body", "content_type", "accept"), SAME)
def test_sagemaker_inference_answers_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, body: bytes, content_type: str, accept: str | None
) -> None:
    write(tmp_path, {CODE: SHAPES[shape]})
    sent = request(body, content_type, accept)
    theirs, own = oracle(tmp_path, sent, monkeypatch), ours(tmp_path, sent)
    assert own[:2] == theirs[:2]
    assert own[2] == theirs[2] or json.loads(own[2]) == json.loads(theirs[2])


# What they do, and what we do. The issue decided the statuses.
DIFFERENCES = [
    ("raised", b"[1]", JSON, JSON, 500, (400, None, b"no such colour")),
    ("as it came", b"x", "text/plain", JSON, 500, (415, None, b"Content-Type text/plain is not supported")),
    ("as it came", b"[1]", JSON, "image/png", 500, (406, None, b"Accept image/png is not supported")),
    ("as it came", b"{", JSON, JSON, 500, (400, None, b"Expecting property name")),
    # They decode no type with parameters, and no body without a type.
    ("decoded", b"[1]", "application/json; charset=utf-8", JSON, 500, (200, JSON, b'["ndarray",[1]]')),
    ("decoded", b"[1]", None, JSON, 500, (200, JSON, b'["ndarray",[1]]')),
    ("as it came", b"[1]", JSON, "application/json;q=0.9, */*;q=0.1", 500, (200, JSON, b"[1]")),
    # They make an array without dimensions of an object.
    ("as it came", b'{"a":1}', JSON, JSON, 200, (200, JSON, b'{"a":1}')),
]


@pytest.mark.parametrize(("shape", "body", "content_type", "accept", "status", "expected"), DIFFERENCES)
def test_where_we_differ_from_sagemaker_inference(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    body: bytes,
    content_type: str | None,
    accept: str,
    status: int,
    expected: tuple[int, str | None, bytes],
) -> None:
    write(tmp_path, {CODE: SHAPES[shape]})
    sent = request(body, content_type, accept)
    assert oracle(tmp_path, sent, monkeypatch)[0] == status
    own = ours(tmp_path, sent)
    assert own[:2] == expected[:2]
    assert own[2].startswith(expected[2])


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize("body", ["raise StopIteration('gone')", "next(iter([]))"])
def test_a_stop_iteration_ends_its_request(tmp_path: Path, keyword: str, body: str) -> None:
    """No future takes one, so an async hook's sync function must not hand it over."""
    code = f"def model_fn(d): pass\n{keyword} input_fn(b, t): return 1\ndef predict_fn(d, m): {body}\n"
    hook = loaded(tmp_path, {CODE: code})
    with pytest.raises(HookError, match=r"^StopIteration") as caught:
        answer(hook, request({}))
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"null", b"3", b"1.5", b"true"])
def test_a_body_that_our_model_cannot_take_is_refused_in_a_sentence(tmp_path: Path, body: bytes) -> None:
    hook = loaded(tmp_path, {CODE: "def output_fn(p, a): return p"}, EngineModel("http://127.0.0.1:9"))
    with pytest.raises(HookError, match="must be a JSON object with `inputs`") as caught:
        answer(hook, request(body))
    assert caught.value.status == 422
