"""The `model` of a hook: our own routes over loopback, with the answers and the errors that any client gets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from container.hooks.model.engine_model import EngineModel
from container.hooks.model.errors import CallEnded, ModelError
from container.hooks.model.open_calls import OpenCalls, open_calls
from container.hooks.user_code.hook import HookError
from handler.seam.protocol import ErrorCode, FinishReason, GenerateRequest, Rejected
from tests.contract.seam.web import WebServer
from tests.support.hooks import JSON, answer, loaded, modules_as_they_were, request

__all__ = ["modules_as_they_were"]
CHAT = [{"role": "user", "content": "hi"}]


def model_of(web: WebServer, **given: Any) -> EngineModel:
    return EngineModel(f"http://127.0.0.1:{web.port}", **given)


@pytest.fixture
def model(web: WebServer) -> EngineModel:
    return model_of(web, directory=web.engine.run_dir.path / "model")


async def gathered(parts: Any) -> list[Any]:
    return [part async for part in parts]


def test_whole_answers(model: EngineModel) -> None:
    assert model.chat(CHAT)["choices"][0]["message"]["content"] == "hello"
    assert model.generate("a") == {"generated_text": "hello"}
    assert model.generate(["a", "b"]) == [{"generated_text": "hello"}] * 2
    assert model("a", max_new_tokens=9) == [{"generated_text": "hello"}]
    assert model(CHAT)["object"] == "chat.completion"


def test_whole_answers_of_the_twins(model: EngineModel) -> None:
    async def run() -> list[Any]:
        return [await model.achat(CHAT), await model.agenerate("a"), await model.agenerate(["a", "b"])]

    chat, one, two = asyncio.run(run())
    assert chat["choices"][0]["message"]["content"] == "hello"
    assert (one, two) == ({"generated_text": "hello"}, [{"generated_text": "hello"}] * 2)


def test_parameters_arrive(web: WebServer, model: EngineModel) -> None:
    model.chat(CHAT, max_tokens=3)
    model.generate("a", max_new_tokens=4)
    assert [sent.sampling.max_tokens for sent in web.engine.requests] == [3, 4]


def test_streams(web: WebServer, model: EngineModel) -> None:
    web.engine.script = web.engine.says("he", "llo")
    assert "".join(model.stream(CHAT)) == "".join(model.stream("a")) == "hello"
    assert next(model.stream("a")) != "hello"
    assert next(model.chat(CHAT, stream=True))["object"] == "chat.completion.chunk"
    assert list(model.generate("a", stream=True))[-1]["generated_text"] == "hello"


def test_streams_of_the_twins(web: WebServer, model: EngineModel) -> None:
    web.engine.script = web.engine.says("he", "llo")

    async def run() -> list[Any]:
        chunks = await gathered(await model.achat(CHAT, stream=True))
        events = await gathered(await model.agenerate("a", stream=True))
        return [await gathered(model.astream(CHAT)), await gathered(model.astream("a")), chunks, events]

    chat, text, chunks, events = asyncio.run(run())
    assert "".join(chat) == "".join(text) == "hello"
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert events[-1]["generated_text"] == "hello"


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.chat(CHAT, temperature=-1),
        lambda model: model.chat(CHAT, temperature=-1, stream=True),
        lambda model: asyncio.run(model.achat(CHAT, temperature=-1)),
        lambda model: asyncio.run(gathered(model.astream(CHAT, temperature=-1))),
        lambda model: list(model.stream("a", temperature=-1)),
        lambda model: model.generate(["a", "b"], temperature=-1),
    ],
)
def test_an_error_has_the_status_and_the_message(model: EngineModel, call: Callable[[EngineModel], Any]) -> None:
    with pytest.raises(ModelError, match="temperature") as caught:
        call(model)
    assert caught.value.status in (400, 422)
    assert caught.value.error_type


def test_a_death_in_a_stream_is_an_error_too(web: WebServer, model: EngineModel) -> None:
    hold = threading.Event()

    def script(sent: GenerateRequest) -> Iterator[Any]:
        first, *_ = web.engine.says("ab", "c")(sent)
        yield first
        yield hold

    web.engine.script = script
    for start in (lambda: model.stream(CHAT), lambda: model.stream("a")):
        parts = start()
        assert next(parts)
        web.engine.die()
        with pytest.raises(ModelError) as caught:
            list(parts)
        assert caught.value.status >= 500
        assert caught.value.message
        web.engine.start()


def test_a_stream_that_is_closed_aborts_its_request(web: WebServer, model: EngineModel) -> None:
    def script(sent: GenerateRequest) -> Iterator[Any]:
        first, *_ = web.engine.says("ab", "c")(sent)
        yield first
        yield threading.Event()

    web.engine.script = script

    async def leave() -> None:
        parts = model.astream("a")
        assert await anext(parts)
        await parts.aclose()

    parts = model.stream("a")
    assert next(parts)
    parts.close()
    web.wait(lambda: len(web.engine.aborts) == 1)


def first_only(web: WebServer) -> Callable[[GenerateRequest], Iterator[Any]]:
    """A script that never comes to an end."""

    def script(sent: GenerateRequest) -> Iterator[Any]:
        first, *_ = web.engine.says("ab", "c")(sent)
        yield first
        yield threading.Event()

    return script


CALLS: dict[str, tuple[Callable[[EngineModel], Any], int]] = {
    "chat": (lambda model: model.chat(CHAT), 1),
    "list": (lambda model: model.generate(["a", "b"]), 2),
    "forward": (lambda model: model.forward(json.dumps({"inputs": "a"}).encode(), {"Content-Type": JSON}), 1),
    "stream": (lambda model: list(model.stream("a")), 1),
    "achat": (lambda model: asyncio.run(model.achat(CHAT)), 1),
    "async list": (lambda model: asyncio.run(model.agenerate(["a", "b"])), 2),
    "astream": (lambda model: asyncio.run(gathered(model.astream("a"))), 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_with_the_request_whose_hook_made_it(web: WebServer, model: EngineModel, name: str) -> None:
    call, num_sent = CALLS[name]
    web.engine.script = first_only(web)
    calls = OpenCalls()

    def within() -> Any:
        open_calls.set(calls)
        return call(model)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(copy_context().run, within)
        web.wait(lambda: len(web.engine.requests) == num_sent)
        calls.end()
        assert isinstance(waiting.exception(), CallEnded)
        web.wait(lambda: len(web.engine.aborts) == num_sent)
        # One more call is not even sent.
        assert isinstance(pool.submit(copy_context().run, within).exception(), CallEnded)
    # The connections that are kept serve others.
    web.engine.script = web.engine.says("hello")
    assert model.generate(["a", "b"]) == [{"generated_text": "hello"}] * 2
    assert len(web.engine.requests) == num_sent + 2


def test_a_call_whose_task_is_cancelled_ends(web: WebServer, model: EngineModel) -> None:
    web.engine.script = first_only(web)

    async def run() -> None:
        tasks = [asyncio.create_task(model.achat(CHAT)), asyncio.create_task(model.agenerate(["a", "b"]))]
        await asyncio.to_thread(web.wait, lambda: len(web.engine.requests) == 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    asyncio.run(run())
    web.wait(lambda: len(web.engine.aborts) == 3)


def test_one_prompt_of_a_list_that_fails_ends_the_others(web: WebServer, model: EngineModel) -> None:
    web.engine.script = first_only(web)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.generate, ["", "a"])
        with pytest.raises(ModelError, match="empty"):
            waiting.result()
    web.wait(lambda: len(web.engine.aborts) == len(web.engine.requests))


@pytest.mark.parametrize("twin", [False, True])
def test_a_list_longer_than_the_server_takes_at_once_waits_for_places(web: WebServer, twin: bool) -> None:
    model, lock, running = model_of(web), threading.Lock(), set()

    def full(sent: GenerateRequest) -> Iterator[Any]:
        with lock:
            is_full = len(running) == 3
            if not is_full:
                running.add(sent.request_id)
        if is_full:
            yield Rejected(sent.request_id, ErrorCode.OVERLOADED, "full")
            return
        first, last = web.engine.says("ab", "c", finish=FinishReason.LENGTH)(sent)
        yield first
        with lock:
            running.discard(sent.request_id)
        yield last

    web.engine.script = full
    prompts = [f"prompt {i}" for i in range(20)]
    found = asyncio.run(model.agenerate(prompts)) if twin else model.generate(prompts)
    assert found == [{"generated_text": "abc"}] * 20
    assert model.generate([]) == []
    web.engine.script = lambda sent: [Rejected(sent.request_id, ErrorCode.OVERLOADED, "full")]
    with pytest.raises(ModelError, match="full") as caught:
        model.generate(prompts)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)


def test_the_tokenizer_is_the_models(web: WebServer, model: EngineModel) -> None:
    ids = model.tokenizer.encode("hello").ids
    assert model.tokenizer.decode(ids) == "hello"
    late = model_of(web, directory=lambda: web.engine.run_dir.path / "model")
    assert late.tokenizer.encode("hello").ids == ids


@pytest.mark.parametrize("directory", [None, Path("/nowhere"), lambda: None])
def test_without_a_tokenizer_a_sentence_says_so(directory: Any) -> None:
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json of the model"):
        _ = EngineModel("http://127.0.0.1:9", directory=directory).tokenizer


def test_no_server_is_an_error_with_a_status() -> None:
    with pytest.raises(ModelError, match="the model cannot be reached") as caught:
        EngineModel("http://127.0.0.1:9").chat(CHAT)
    assert caught.value.status == 503


def test_the_key_is_sent(guarded: WebServer) -> None:
    guarded.engine.script = guarded.engine.says("hello")
    assert model_of(guarded, api_key="Secret").generate("a") == {"generated_text": "hello"}
    with pytest.raises(ModelError) as caught:
        model_of(guarded).generate("a")
    assert caught.value.status == 401


def test_what_is_handed_on_has_the_servers_key_and_not_the_clients(guarded: WebServer, tmp_path: Path) -> None:
    guarded.engine.script = guarded.engine.says("hello")
    environ = {"CUSTOM_PRE_PROCESS": "p.py:pre"}
    model = model_of(guarded, api_key="Secret", context=lambda: {"x-request-id": "ours"})
    hook = loaded(tmp_path, {"p.py": "def pre(request): request.headers['X-Colour'] = 'red'"}, model, **environ)
    of_client = {"authorization": "Bearer Other", "x-api-key": "Other", "x-request-id": "theirs", "host": "theirs"}
    of_client |= {"te": "trailers", "expect": "100-continue", "keep-alive": "timeout=5", "upgrade": "h2c"}
    found = answer(hook, request({"messages": CHAT}, JSON, headers=tuple(of_client.items())))
    assert found.status == 200, found.body
    guarded.settle()
    assert "theirs" not in guarded.log.read_text()


def test_the_context_of_the_call_is_sent(web: WebServer) -> None:
    model = model_of(web, context=lambda: {"X-Request-Id": "the-hooks-request"})
    model.chat(CHAT)
    asyncio.run(model.agenerate("a"))
    web.settle()
    assert web.log.read_text().count("the-hooks-request") >= 2


def test_many_calls_run_at_once(web: WebServer, model: EngineModel) -> None:
    """All wait in the engine before one of them is answered: sync, async, and a list of prompts."""
    hold = threading.Event()

    def script(sent: GenerateRequest) -> Iterator[Any]:
        yield hold
        yield from web.engine.says("hello")(sent)

    web.engine.script = script

    async def many() -> list[Any]:
        return list(await asyncio.gather(*(model.achat(CHAT) for _ in range(32))))

    with ThreadPoolExecutor(34) as pool:
        calls = [pool.submit(model.generate, "a") for _ in range(16)]
        calls += [pool.submit(model.generate, ["a"] * 16), pool.submit(asyncio.run, many())]
        web.wait(lambda: len(web.engine.requests) == 64)
        hold.set()
        for call in calls:
            assert call.result()


# ---- hooks over it

INFERENCE = "code/inference.py"


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize(
    "body", [{"inputs": "a", "parameters": {"max_new_tokens": 3}}, {"messages": CHAT, "max_tokens": 3}]
)
def test_without_predict_fn_the_engine_answers(web: WebServer, tmp_path: Path, keyword: str, body: Any) -> None:
    code = f"import json\n{keyword} input_fn(body, content_type): return json.loads(body)"
    found = json.loads(answer(loaded(tmp_path, {INFERENCE: code}, model_of(web)), request(body)).body)
    if "messages" in body:
        assert found["choices"][0]["message"]["content"] == "hello"
    else:
        assert found == [{"generated_text": "hello"}]
    assert [sent.sampling.max_tokens for sent in web.engine.requests] == [3]


@pytest.mark.parametrize("body", [{}, {"inputs": None}, {"parameters": {}}])
def test_a_body_without_inputs_is_refused_in_words(web: WebServer, tmp_path: Path, body: Any) -> None:
    code = "import json\ndef input_fn(body, content_type): return json.loads(body)"
    with pytest.raises(HookError, match="the body must have `inputs` or `messages`") as caught:
        answer(loaded(tmp_path, {INFERENCE: code}, model_of(web)), request(body))
    assert caught.value.status == 422


HOOKS = {
    "sync": "def predict_fn(data, model): return model.chat(**data)['choices'][0]['message']['content']",
    "async": "async def predict_fn(data, model):\n    found = await model.achat(**data)\n"
    "    return found['choices'][0]['message']['content']",
    "stream": "def predict_fn(data, model): return model.stream(**data)",
    "async stream": "async def predict_fn(data, model):\n    async for text in model.astream(**data): yield text",
}


@pytest.mark.parametrize("shape", HOOKS)
def test_a_hook_answers_with_the_model(web: WebServer, tmp_path: Path, shape: str) -> None:
    hook = loaded(tmp_path, {INFERENCE: HOOKS[shape]}, model_of(web))
    body = {"messages" if "stream" not in shape else "inputs": CHAT}
    assert answer(hook, request(body)).body in (b'"hello"', b"hello")
    assert not hook.owns_model


@pytest.mark.parametrize("shape", HOOKS)
def test_the_models_error_is_the_hooks(web: WebServer, tmp_path: Path, shape: str) -> None:
    hook = loaded(tmp_path, {INFERENCE: HOOKS[shape]}, model_of(web))
    body = {"messages" if "stream" not in shape else "inputs": CHAT, "temperature": -1}
    with pytest.raises(HookError, match="temperature") as caught:
        answer(hook, request(body))
    assert caught.value.status == 400


def test_handlers_of_the_standards_forward_to_the_engine(web: WebServer, tmp_path: Path) -> None:
    code = """
import json
async def pre(request):
    body = await request.json()
    body["max_tokens"] = 3
    request._body = json.dumps(body).encode()
def post(response):
    if hasattr(response, "body"):
        response.body = response.body.upper()
    response.headers["X-Colour"] = "red"
"""
    environ = {"CUSTOM_PRE_PROCESS": "p.py:pre", "CUSTOM_POST_PROCESS": "p.py:post"}
    hook = loaded(tmp_path, {"p.py": code}, model_of(web), **environ)
    whole = answer(hook, request({"messages": CHAT}, JSON))
    assert (whole.status, whole.content_type) == (200, JSON)
    assert b"HELLO" in whole.body
    assert ("x-colour", "red") in whole.headers
    assert not {name for name, _ in whole.headers} & {"access-control-allow-origin", "x-request-id", "content-length"}
    stream = answer(hook, request({"messages": CHAT, "stream": True}, JSON))
    assert stream.content_type == "text/event-stream"
    assert stream.body.endswith(b"data: [DONE]\n\n")
    refused = answer(hook, request({"messages": []}, JSON))
    assert refused.status == 400
    assert [sent.sampling.max_tokens for sent in web.engine.requests] == [3, 3]
