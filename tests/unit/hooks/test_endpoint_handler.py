"""handler.py by the rules of Inference Endpoints' toolkit (huggingface-inference-toolkit)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.hook import HookError, HookLoadError
from tests.support.hooks import JSON, answer, loaded, request

ECHO = """
    from custom_utils import reverse
    class EndpointHandler:
        def __init__(self, path=""):
            self.path = path
        def __call__(self, data):
            return reverse([self.path, data])
"""
UTILS = "def reverse(items): return items[::-1]"
# Nothing listens there: these hooks only look at it.
ENGINE = EngineModel("http://127.0.0.1:9")


def endpoint(call: str, init: str = "self, path=''", keyword: str = "def") -> str:
    return f"class EndpointHandler:\n    def __init__({init}): pass\n    {keyword} __call__(self, data): {call}"


def test_a_handler_gets_the_directory_and_the_body(tmp_path: Path) -> None:
    hook = loaded(tmp_path, {"handler.py": ECHO, "custom_utils.py": UTILS})
    found = answer(hook, request({"inputs": "a", "b": 1}))
    assert json.loads(found.body) == [{"inputs": "a", "b": 1}, str(tmp_path)]
    assert (found.status, found.content_type) == (200, JSON)
    assert hook.owns_model
    assert not hook.overrides_ping


@pytest.mark.parametrize(
    ("body", "query", "expected"),
    [
        ({"inputs": "a"}, [("top_k", "3"), ("flag", "true"), ("off", "false"), ("name", "x1")], True),
        ({"inputs": "a", "parameters": {"b": 1}}, [("top_k", "3")], False),
    ],
)
def test_query_parameters_stand_in_for_parameters(tmp_path: Path, body: Any, query: Any, expected: bool) -> None:
    hook = loaded(tmp_path, {"handler.py": endpoint("return data")})
    found = json.loads(answer(hook, request(body, query=tuple(query))).body)
    parameters = {"top_k": 3, "flag": True, "off": False, "name": "x1"} if expected else {"b": 1}
    assert found == {"inputs": "a", "parameters": parameters}


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status", "message"),
    [
        ([1], JSON, None, 400, "the body must be a JSON object"),
        (b"{", JSON, None, 400, "Expecting property name"),
        (b"a,b", "text/csv", None, 415, "Content-Type text/csv is not supported"),
        ({"inputs": 1}, JSON, "text/plain", 406, "Accept text/plain is not supported"),
        ({"inputs": "bad"}, JSON, None, 400, "no such colour"),
    ],
)
def test_an_error_is_its_message(
    tmp_path: Path, body: Any, content_type: str, accept: str | None, status: int, message: str
) -> None:
    code = "import json\n" + endpoint("return data if data['inputs'] != 'bad' else self.fail()")
    code += "\n    def fail(self): raise ValueError('no such colour')"
    with pytest.raises(HookError, match=message) as caught:
        answer(loaded(tmp_path, {"handler.py": code}), request(body, content_type, accept))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Handler: pass", "has no class EndpointHandler"),
        ("class EndpointHandler:\n    def __init__(self, path): 1 / 0", "EndpointHandler of .* failed: ZeroDivision"),
        ("class EndpointHandler:\n    def __init__(self, path): pass", "has no __call__"),
        (endpoint("pass", "self"), "EndpointHandler of .* failed: TypeError"),
        (endpoint("pass", "self, path, model"), "takes a model, and no engine runs"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(HookLoadError, match=message):
        loaded(tmp_path, {"handler.py": code})


@pytest.mark.parametrize("init", ["self, path='', model=None", "self, path, *, model"])
def test_a_handler_that_takes_a_model_gets_ours(tmp_path: Path, init: str) -> None:
    code = endpoint("return type(self.model).__name__", init).replace("): pass", "): self.model = model", 1)
    hook = loaded(tmp_path, {"handler.py": code}, ENGINE)
    assert answer(hook, request({})).body == b'"EngineModel"'
    assert not hook.owns_model


def test_an_async_handler_runs_on_the_loop(tmp_path: Path) -> None:
    hook = loaded(tmp_path, {"handler.py": endpoint("return data['inputs'] * 2", keyword="async def")})
    assert hook.is_async
    assert answer(hook, request({"inputs": "ab"})).body == b'"abab"'


def test_a_file_named_handler_leaves_our_package_alone(tmp_path: Path) -> None:
    import handler.seam as ours

    loaded(tmp_path, {"handler.py": endpoint("pass")})
    assert sys.modules["handler.seam"] is ours
    assert hasattr(sys.modules["handler"], "__path__")
