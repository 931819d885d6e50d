"""Functions of model-hosting-container-standards 0.1.16, whose documents' examples are among the cases."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.hook import HookAnswer, HookError, HookLoadError
from tests.support.hooks import JSON, answer, loaded, request

# Nothing listens there: these hooks answer themselves.
ENGINE = EngineModel("http://127.0.0.1:9")
INVOKE, PING = "custom_sagemaker_invocation_handler", "custom_sagemaker_ping_handler"
# As a hook's requirements.txt may bring it.
RESPONSE = """
    class Response:
        def __init__(self, content=b"", status_code=200, headers=None, media_type=None):
            self.body = content.encode() if isinstance(content, str) else content
            self.status_code, self.headers, self.media_type = status_code, headers or {}, media_type
    class StreamingResponse:
        status_code, media_type = 200, "text/event-stream"
        def __init__(self, body_iterator):
            self.body_iterator, self.headers = body_iterator, {}
    class HTTPException(Exception):
        def __init__(self, status_code, detail):
            self.status_code, self.detail = status_code, detail
"""
HEADER = "from starlettes import *\nimport json\n"


def standards(directory: Path, code: str, **environ: str) -> Any:
    return loaded(directory, {"model.py": HEADER + code, "starlettes.py": RESPONSE}, ENGINE, **environ)


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("{'result': 'processed'}", (200, JSON, (), b'{"result":"processed"}')),
        ("'text'", (200, JSON, (), b'"text"')),
        ("Response('a', 201, {'X-A': 'b'}, 'text/x')", (201, "text/x", (("x-a", "b"),), b"a")),
        ("Response(b'', 404, {'content-length': '9'})", (404, None, (), b"")),
        ("StreamingResponse(iter(['data: a', b'b']))", (200, "text/event-stream", (), b"data: ab")),
    ],
)
def test_what_a_handler_returns(tmp_path: Path, keyword: str, returned: str, expected: Any) -> None:
    hook = standards(tmp_path, f"{keyword} {INVOKE}(request): return {returned}")
    assert hook.is_async is (keyword == "async def")
    found = answer(hook, request({}))
    assert (found.status, found.content_type, found.headers, found.body) == expected
    assert not hook.owns_model


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize(
    ("body", "accept", "expected"),
    [
        ("yield {'n': 1}; yield {'n': 2}", None, ("application/jsonlines", b'{"n":1}\n{"n":2}\n')),
        ("yield {'n': 1}", "text/event-stream", ("text/event-stream", b'data: {"n":1}\n\n')),
        ("yield 'a'; yield 'b'", JSON, ("text/plain; charset=utf-8", b"ab")),
        ("return b'raw'", JSON, ("application/octet-stream", b"raw")),
    ],
)
def test_a_handler_that_yields_streams(
    tmp_path: Path, keyword: str, body: str, accept: str | None, expected: Any
) -> None:
    found = answer(standards(tmp_path, f"{keyword} {INVOKE}(request): {body}"), request({}, accept=accept))
    assert (found.status, found.content_type, found.body) == (200, *expected)


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize("returned", ["{'a': 1}, 201", "'no', 404", "['a'], 503, {'x-a': 'b'}"])
def test_a_status_beside_the_body_is_refused(tmp_path: Path, keyword: str, returned: str) -> None:
    """Flask takes it, FastAPI does not; a check of health would be 200 with it."""
    hook = standards(tmp_path, f"{keyword} {INVOKE}(request): return {returned}")
    with pytest.raises(HookError, match=r"^status \d+ beside the body has no effect: return a Response") as caught:
        answer(hook, request({}))
    assert caught.value.status == 500


@pytest.mark.parametrize("returned", [("a", 7), (1, 200), ["a", 404], ("a", "b"), ({}, True)])
def test_other_tuples_are_lists(tmp_path: Path, returned: Any) -> None:
    found = answer(standards(tmp_path, f"def {INVOKE}(request): return {returned}"), request({}))
    assert (found.status, json.loads(found.body)) == (200, list(returned))


def test_annotations_may_be_postponed(tmp_path: Path) -> None:
    """`@dataclass` looks for the module by its name then."""
    code = "from __future__ import annotations\nfrom dataclasses import asdict, dataclass\n@dataclass\nclass Reply:\n"
    code += f"    text: str\ndef {INVOKE}(request): return asdict(Reply('a'))"
    found = answer(loaded(tmp_path, {"model.py": code}, ENGINE), request({}))
    assert json.loads(found.body) == {"text": "a"}


def test_a_handler_sees_the_request(tmp_path: Path) -> None:
    code = f"""
async def {INVOKE}(request):
    body = await request.json()
    raw = await request.body()
    return [body, len(raw), request.method, request.url.path, str(request.url), request.headers["X-Colour"],
            request.headers.get("Content-Type"), request.query_params["q"], "x-COLOUR" in request.headers]
"""
    sent = request({"a": 1}, headers=(("x-colour", "red"),), query=(("q", "1"),))
    assert json.loads(answer(standards(tmp_path, code), sent).body) == [
        *({"a": 1}, 8, "POST", "/invocations", "/invocations?q=1", "red"),
        *(JSON, "1", True),
    ]


@pytest.mark.parametrize("parameters", ["", "request", "model", "request, model"])
def test_a_handler_takes_what_it_names(tmp_path: Path, parameters: str) -> None:
    code = f"async def {INVOKE}({parameters}): return {{k: type(v).__name__ for k, v in locals().items()}}"
    names = [name for name in parameters.split(", ") if name]
    expected = {name: {"request": "HttpRequest", "model": "EngineModel"}[name] for name in names}
    assert json.loads(answer(standards(tmp_path, code), request({})).body) == expected


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_ping(tmp_path: Path, keyword: str) -> None:
    hook = standards(tmp_path, f"{keyword} {PING}(request=None): return Response('no', 503)")
    assert hook.overrides_ping

    def ping() -> Any:
        if not hook.is_async:
            return hook.ping()
        import asyncio

        return asyncio.run(hook.ping())

    found = ping()
    assert isinstance(found, HookAnswer)
    assert (found.status, found.body) == (503, b"no")
    assert not standards(tmp_path / "other", f"def {INVOKE}(r): pass").overrides_ping


PROCESSORS = f"""
async def pre(request):
    if request.url.path != "/invocations":
        return request
    body = await request.json()
    body["max_tokens"] = body.get("max_tokens", 100)
    request._body = json.dumps(body).encode()
def post(response):
    response["post"] = True
async def {INVOKE}(request):
    return {{"seen": await request.json()}}
class Steps:
    @staticmethod
    def pre(request):
        request._body = b'5'
"""


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"seen": {"a": 1}}),
        ({"CUSTOM_PRE_PROCESS": "model.py:pre"}, {"seen": {"a": 1, "max_tokens": 100}}),
        ({"CUSTOM_PRE_PROCESS": "model:pre"}, {"seen": {"a": 1, "max_tokens": 100}}),
        ({"CUSTOM_PRE_PROCESS": "{dir}/model.py:pre"}, {"seen": {"a": 1, "max_tokens": 100}}),
        ({"CUSTOM_PRE_PROCESS": " model.py:Steps.pre "}, {"seen": 5}),
        ({"CUSTOM_POST_PROCESS": "model.py:post"}, {"seen": {"a": 1}, "post": True}),
        (
            {"CUSTOM_PRE_PROCESS": "model:pre", "CUSTOM_POST_PROCESS": "model:post"},
            {"seen": {"a": 1, "max_tokens": 100}, "post": True},
        ),
        ({"CUSTOM_FASTAPI_INVOCATION_HANDLER": "starlettes:Response"}, None),
    ],
)
def test_what_runs_around_a_handler(tmp_path: Path, environ: dict[str, str], expected: Any) -> None:
    environ = {name: value.format(dir=tmp_path) for name, value in environ.items()}
    hook = standards(tmp_path, PROCESSORS, **environ)
    if expected is None:  # a class is callable too
        assert hook._invoke.__name__ == "Response"
        return
    assert json.loads(answer(hook, request({"a": 1})).body) == expected


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("HTTPException(422, 'no prompt')", (422, "no prompt")),
        ("ValueError('no prompt')", (400, "no prompt")),
        ("ValueError(request.app)", (400, "request.app is a FastAPI application, and this server is none")),
    ],
)
def test_an_error_is_its_message(tmp_path: Path, raised: str, expected: tuple[int, str]) -> None:
    hook = standards(tmp_path, f"async def {INVOKE}(request): raise {raised}")
    with pytest.raises(HookError) as caught:
        answer(hook, request({}))
    assert caught.value.status == expected[0]
    assert caught.value.message.startswith(expected[1])


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_failure_within_a_stream_is_the_hooks(tmp_path: Path, keyword: str) -> None:
    code = f"{keyword} parts():\n    yield 'a'\n    raise ValueError('enough')\n"
    code += f"async def {INVOKE}(request): return StreamingResponse(parts())"
    with pytest.raises(HookError, match="enough"):
        answer(standards(tmp_path, code), request({}))


@pytest.mark.parametrize(
    ("environ", "code", "message"),
    [
        ({"CUSTOM_PRE_PROCESS": "a.py:f"}, "", "there is no .*/a.py"),
        ({"CUSTOM_PRE_PROCESS": "model.py:f"}, "", "CUSTOM_PRE_PROCESS is 'model.py:f', and model.py has no f"),
        ({"CUSTOM_POST_PROCESS": "model.py:f"}, "f = 5", "CUSTOM_POST_PROCESS is 'model.py:f', which is no function"),
        ({"CUSTOM_POST_PROCESS": "model.py"}, "", "which is no file.py:function"),
        ({"CUSTOM_FASTAPI_PING_HANDLER": "/health"}, "", "HANDLER is '/health', which is a route of a FastAPI app"),
        ({"CUSTOM_PRE_PROCESS": "vllm.api:f"}, "", "module vllm.api cannot be imported: package vllm is not installed"),
        ({}, f"import fastapi\ndef {INVOKE}(r): pass", "package fastapi is not installed; name it in requirements.txt"),
        ({}, "# custom_sagemaker_ functions\n", "has neither custom_sagemaker_invocation_handler nor"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(tmp_path: Path, environ: Any, code: str, message: str) -> None:
    with pytest.raises(HookLoadError, match=message):
        standards(tmp_path, code, **environ)


def test_without_a_handler_an_engine_is_needed(tmp_path: Path) -> None:
    with pytest.raises(HookLoadError, match="has no custom_sagemaker_invocation_handler, and no engine runs"):
        loaded(tmp_path, {"model.py": f"def {PING}(): pass"})


# ---- the package's decorators, if the code brings the package


PACKAGE = "model_hosting_container_standards.common"
FORMATTERS = ("pre_fn", "post_fn", "throttle_middleware", "pre_post_middleware")


def registered(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """What the package's registries hold, as the code's own import of either half of it leaves them."""
    module: Any
    if functions.keys() - set(FORMATTERS):
        module = SimpleNamespace(handler_registry=SimpleNamespace(get_decorator_handler=functions.get))
        monkeypatch.setitem(sys.modules, f"{PACKAGE}.handler.registry", module)
    if functions.keys() & set(FORMATTERS):
        module = SimpleNamespace(decorator_loader=SimpleNamespace(**dict.fromkeys(FORMATTERS) | functions))
        monkeypatch.setitem(sys.modules, f"{PACKAGE}.fastapi.middleware.source.decorator_loader", module)


def test_decorators_win_over_names_and_lose_to_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, invoke=lambda request: "decorated", ping=lambda: "decorated")
    code = f"def {INVOKE}(request): return 'named'\ndef {PING}(): return 'named'\ndef mine(): return 'variable'"
    hook = standards(tmp_path, code, CUSTOM_FASTAPI_PING_HANDLER="model:mine")
    assert answer(hook, request({})).body == b'"decorated"'
    assert hook.ping().body == b'"variable"'


def test_formatters_run_around_the_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pre(request: Any) -> None:
        request._body = b"[5]"

    registered(monkeypatch, pre_fn=pre, post_fn=lambda response: [response])
    hook = standards(tmp_path, f"async def {INVOKE}(request): return await request.json()")
    assert answer(hook, request({})).body == b"[[5]]"


@pytest.mark.parametrize("slot", ["throttle_middleware", "pre_post_middleware"])
def test_a_middleware_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: str) -> None:
    registered(monkeypatch, **{slot: print})
    with pytest.raises(HookLoadError, match="@custom_middleware: a middleware of a FastAPI application"):
        standards(tmp_path, f"def {INVOKE}(request): pass")
