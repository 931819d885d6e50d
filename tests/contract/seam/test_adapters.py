"""Adapters before scripted engines: who is named by what, and what a change asks of every engine."""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from container.errors import AdapterFailed
from container.generation.adapter_changes import AdapterChanges
from container.generation.engine_pool import EnginePool
from container.serving.served_adapters import ServedAdapters
from handler.seam.adapter_list import CHANGES, AdapterEntry, AdapterList, try_lock
from handler.seam.protocol import (
    AdapterErrorCode,
    AdapterMessage,
    AdapterRefused,
    AdapterReply,
    ErrorCode,
    FinishReason,
    GenerateRequest,
    RegisterAdapter,
    Rejected,
    UnregisterAdapter,
    UpdateAdapter,
)
from handler.seam.status import Phase
from tests.contract.sagemaker.bodies import (
    ADAPTER,
    ATTRIBUTES,
    CASES,
    CHAT,
    COUNTING,
    MESSAGES,
    PROMPT,
    ROUTED,
    TEXT,
    check_refusal,
    is_openai,
)
from tests.contract.seam.web import WebServer
from tests.fakes.engine import FakeEngine, done, output

ALIAS = "X-Amzn-SageMaker-Adapter-Alias"
GENERATING = [case for case in CASES if case[0] not in COUNTING]
BASE = "fake/model"


def brief(request: GenerateRequest) -> Any:
    """One token: a label where labels are asked for."""
    yield output(request, [*request.sampling.allowed_token_ids, 104][:1], FinishReason.LENGTH)


class Adapted:
    """A server with two workers and two engines; `a` and `b` are loaded."""

    def __init__(self, web: WebServer, other: FakeEngine, directory: Path) -> None:
        self.web = web
        self.engines = (web.engine, other)
        self.listed = AdapterList(directory / "adapters")

    def fresh(self) -> None:
        for engine in self.engines:
            engine.reset()
            engine.script = brief
        for entry in self.listed.read():
            self.listed.remove(entry.registration)
        for name in ("a", "b"):
            assert self.register(name=name, src=f"/{name}").status == 200
        self.forget()

    def forget(self) -> None:
        for engine in self.engines:
            engine.adapter_messages.clear()
            engine.requests.clear()

    def register(self, **body: Any) -> Any:
        return self.web.post("/adapters", body)

    def names(self) -> list[str]:
        return [each["name"] for each in self.web.request("GET", "/adapters").json["adapters"]]

    def messages(self) -> list[list[AdapterMessage]]:
        return [engine.adapter_messages for engine in self.engines]

    def used(self) -> list[str | None]:
        """The adapters of all sequences that the engines were given."""
        return [request.adapter for engine in self.engines for request in engine.requests]


@pytest.fixture(scope="module")
def server() -> Iterator[Adapted]:
    with tempfile.TemporaryDirectory(prefix="seam-") as directory:
        environ = {"WEB_WORKERS": "2", "ENGINE_REPLICAS": "2", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        environ |= {"MAX_CPU_ADAPTERS": "3", "MAX_ADAPTERS": "2"}
        web = WebServer(Path(directory), environ)
        other = FakeEngine(Path(directory) / "engine-1")
        try:
            web.start_engine()
            yield Adapted(web, other, Path(directory))
            log = web.log.read_text()
            assert "Traceback" not in log
            for field in ("adapters", "adapter_id", "lora_path", "model"):
                assert f"{field}` is ignored: this route" not in log, "it is read"
            assert web.stop() == 0
        finally:
            web.kill()
            web.engine.close()
            other.close()


@pytest.fixture
def adapted(server: Adapted) -> Adapted:
    server.fresh()
    return server


@pytest.fixture
def shared(server: Adapted) -> Adapted:
    """With `a` and `b` loaded, for tests that change no adapter."""
    if server.names() != ["a", "b"]:
        server.fresh()
    server.forget()
    return server


@pytest.mark.parametrize(("path", "body"), GENERATING)
def test_the_header_names_the_adapter_on_every_route(shared: Adapted, path: str, body: dict[str, Any]) -> None:
    answer = shared.web.post(path, body, **{ADAPTER: "a"})
    assert answer.status == 200, answer.body
    assert set(shared.used()) == {"a"}
    if answer.headers["Content-Type"] == "application/json" and isinstance(answer.json, dict) and "id" in answer.json:
        assert answer.json["model"] == "a", "as if the body had named it"


@pytest.mark.parametrize("route", ROUTED)
def test_the_header_counts_where_the_attributes_name_a_route(shared: Adapted, route: str) -> None:
    headers = {ADAPTER: "a", ATTRIBUTES: f"route={route}"}
    assert shared.web.post("/invocations", ROUTED[route], **headers).status == 200
    assert shared.used() == ["a"]


NAMED = {"inputs": "x", "parameters": {"adapter_id": "a"}}
INSTANCES = [TEXT, TEXT | {"adapters": ["b"]}, NAMED, CHAT | {"model": "b"}]
NESTED = {"inputs": "x", "parameters": {"lora_path": "b"}}


@pytest.mark.parametrize(
    ("path", "body", "headers", "used"),
    [
        ("/generate", {"inputs": "x", "parameters": {"adapter_id": "a"}}, {}, ["a"]),
        ("/generate", {"inputs": "x", "parameters": {"adapter_id": BASE}}, {}, [None]),
        ("/generate", {"inputs": "x", "parameters": {"adapters": "a"}}, {}, ["a"]),
        *(("/generate", TEXT | {field: "a"}, {}, ["a"]) for field in ("adapter_id", "lora_path", "model")),
        *(("/generate", TEXT | {"model": model}, {}, [None]) for model in ("tgi", "dummy", BASE, 5)),
        ("/generate", {"inputs": "x", "parameters": {"lora_path": "a"}}, {}, ["a"]),
        ("/generate", TEXT | {"adapter_id": "", "lora_path": None}, {}, [None]),
        ("/invocations", TEXT | {"lora_path": ["a"], "model": "b"}, {}, ["a"]),
        ("/invocations", TEXT | {"adapters": ["a"]}, {}, ["a"]),
        ("/invocations", TEXT | {"adapters": ["a"]}, {ADAPTER: "b"}, ["b"]),
        ("/invocations", TEXT, {ATTRIBUTES: "adapter=a,trace=1"}, ["a"]),
        ("/invocations", TEXT, {ATTRIBUTES: "adapter=a", ADAPTER: "b"}, ["b"]),
        ("/invocations", TEXT, {ATTRIBUTES: "trace=1; Adapter = a ;x=y"}, ["a"]),
        ("/invocations", PROMPT | {"prompt": ["x", "y"], "adapters": ["a", "b"]}, {}, ["a", "b"]),
        ("/invocations", CHAT | {"model": "other"}, {ADAPTER: "b"}, ["b"]),
        ("/v1/chat/completions", CHAT | {"model": "a"}, {}, ["a"]),
        ("/v1/chat/completions", CHAT | {"model": "a", "n": 2}, {}, ["a", "a"]),
        ("/v1/chat/completions", CHAT | {"model": "other", "adapters": "a"}, {}, ["a"]),
        ("/v1/messages", CHAT | {"model": "b"}, {}, ["b"]),
        ("/v1/responses", {"input": "hi", "model": "b"}, {}, ["b"]),
        *(("/v1/completions", PROMPT | {"model": model}, {}, [None]) for model in (BASE, "tgi", "dummy", "", None)),
        ("/v1/completions", PROMPT | {"prompt": ["x", "y"], "adapters": "a"}, {}, ["a", "a"]),
        ("/v1/completions", PROMPT | {"prompt": ["x", "y", "z"], "adapters": ["a", "", "b"]}, {}, ["a", None, "b"]),
        ("/v1/completions", PROMPT | {"prompt": ["x", "y"], "adapters": ["", "b"], "model": "a"}, {}, [None, "b"]),
        ("/vertex", {"instances": INSTANCES}, {}, [None, "b", "a", "b"]),
        ("/vertex", {"instances": INSTANCES}, {ADAPTER: "b"}, ["b"] * 4),
        ("/vertex", {"instances": INSTANCES}, {ADAPTER: BASE}, [None] * 4),
        ("/vertex", {"instances": INSTANCES, "model": "a"}, {}, ["a"] * 4),
        ("/vertex", {"instances": [TEXT | {"adapter_id": "a"}, TEXT | {"model": "b"}, NESTED]}, {}, ["a", "b", "b"]),
    ],
)
def test_every_place_that_may_name_it(
    shared: Adapted, path: str, body: dict[str, Any], headers: dict[str, str], used: list[str | None]
) -> None:
    answer = shared.web.post(path, body, **headers)
    assert answer.status == 200, answer.body
    assert sorted(map(str, shared.used())) == sorted(map(str, used))


@pytest.mark.parametrize(
    ("body", "headers", "model"),
    [
        ({"adapters": [""]}, {}, BASE),
        ({}, {ADAPTER: BASE}, BASE),
        ({}, {ADAPTER: "tgi"}, "tgi"),
        ({"prompt": ["x", "y"], "adapters": ["", ""]}, {}, BASE),
    ],
)
def test_who_names_the_base_gets_it_whatever_model_says(
    shared: Adapted, body: dict[str, Any], headers: dict[str, str], model: str
) -> None:
    for named in ("a", "other"):
        answer = shared.web.post("/v1/completions", PROMPT | body | {"model": named}, **headers)
        assert (answer.status, answer.json["model"]) == (200, model)
    assert set(shared.used()) == {None}


@pytest.mark.parametrize(("path", "body"), CASES)
@pytest.mark.parametrize("place", [ADAPTER, "adapters", f"adapter in {ATTRIBUTES}"])
def test_an_unknown_one_is_refused_in_the_dialect(shared: Adapted, path: str, body: dict[str, Any], place: str) -> None:
    headers = {ADAPTER: {ADAPTER: "c"}, "adapters": {}}.get(place, {ATTRIBUTES: "adapter=c"})
    answer = shared.web.post(path, body | ({"adapters": "c"} if place == "adapters" else {}), **headers)
    sentence = f'`{place}` must be the name of an adapter that is loaded. Given: "c"'
    check_refusal(answer, sentence, openai=is_openai(path, body))
    assert not shared.used()


@pytest.mark.parametrize(("path", "body"), CASES)
def test_an_unknown_model_is_refused_while_there_are_adapters(shared: Adapted, path: str, body: dict[str, Any]) -> None:
    answer = shared.web.post(path, body | {"model": "c"})
    sentence = f'`model` must be "{BASE}", "tgi" or the name of an adapter that is loaded. Given: "c"'
    check_refusal(answer, sentence, openai=is_openai(path, body), code="model_not_found")
    assert not shared.used()


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/generate", {"inputs": "x", "adapters": "a", "parameters": {"adapter_id": "b"}}, "name different adapters"),
        ("/generate", TEXT | {"adapters": {"a": 1}}, "`adapters` must be an adapter's name, or an array"),
        ("/v1/completions", PROMPT | {"adapters": ["a", "b"]}, "one for each of several prompts. Given: 2 names"),
        ("/v1/completions", PROMPT | {"prompt": [1, 2], "adapters": ["a", "b"]}, "Given: 2 names"),
        ("/v1/completions", PROMPT | {"prompt": ["x", "y"], "adapters": ["a", "b", "a"]}, "Given: 3 names"),
        ("/v1/chat/completions", CHAT | {"adapters": ["a", "b"]}, "Given: 2 names"),
        ("/v1/completions", PROMPT | {"adapters": ["a", ""]}, "one for each of several prompts. Given: 2 names"),
        ("/generate", TEXT | {"prompt": ["x", "y"], "adapters": ["a", "b"]}, "Given: 2 names"),
        ("/invocations", {"inputs": ["x", "y"], "adapters": ["a", "b"]}, "Given: 2 names"),
        ("/tokenize", {"prompt": "x", "adapters": ["a", "b"]}, "Given: 2 names"),
        ("/generate", TEXT | {"adapter_id": "a", "lora_path": "b"}, "name different adapters"),
        ("/generate", TEXT | {"adapter_id": "a", "adapters": [""]}, "name different adapters"),
        ("/generate", TEXT | {"adapter_id": 1}, "`adapter_id` must be an adapter's name"),
        ("/generate", TEXT | {"lora_path": "c"}, "`lora_path` must be the name of an adapter that is loaded"),
        *(
            (path, body | {field: "a"}, "send the adapter's name as `model`")
            for path, body in (("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGES | {"model": "b"}))
            for field in ("adapter_id", "lora_path")
        ),
        ("/vertex", {"instances": [TEXT | {"adapters": ["a", "b"]}]}, "must name one adapter for an instance"),
        ("/vertex", {"instances": [CHAT | {"model": "c"}]}, "`model` must be"),
        ("/vertex", {"instances": [TEXT | {"model": "c"}]}, "`model` must be"),
    ],
)
def test_what_has_no_one_meaning_is_refused(shared: Adapted, path: str, body: dict[str, Any], says: str) -> None:
    answer = shared.web.post(path, body)
    assert answer.status in {400, 404, 422}
    assert says in answer.body.decode()
    assert not shared.used()


def test_an_adapter_that_goes_between_check_and_engine_is_unknown(shared: Adapted) -> None:
    for engine in shared.engines:
        engine.script = lambda request: [Rejected(request.request_id, ErrorCode.UNKNOWN_ADAPTER, "gone")]
    try:
        answer = shared.web.post("/v1/completions", PROMPT | {"model": "a"})
        assert (answer.status, answer.json["error"]["code"]) == (404, "adapter_not_found")
    finally:
        for engine in shared.engines:
            engine.script = brief


def test_models_and_info_list_them(shared: Adapted) -> None:
    found = shared.web.request("GET", "/v1/models").json["data"]
    assert [(each["id"], each["root"], each["parent"]) for each in found] == [
        (BASE, BASE, None), ("a", "/a", BASE), ("b", "/b", BASE),
    ]  # fmt: skip
    assert shared.web.request("GET", "/v1/models/b").json == found[2]
    assert shared.web.request("GET", "/v1/models/c").status == 404
    info = shared.web.request("GET", "/info").json
    assert (info["adapters"], info["max_adapters"]) == (["a", "b"], 2)


def test_log_line_and_metrics_name_the_adapter(shared: Adapted) -> None:
    before = shared.web.metric("heir_adapter_sequences_total")
    assert shared.web.post("/v1/completions", PROMPT | {"prompt": ["x", "y"], "adapters": ["a", ""]}).status == 200
    shared.web.settle()
    line = [json.loads(each) for each in shared.web.log.read_text().splitlines() if "/v1/completions" in each][-1]
    assert line["adapter"] == "a"
    assert line["model"] == BASE
    assert shared.web.metric("heir_adapter_sequences_total") == before + 1
    assert shared.web.metric("heir_adapters") == 2


# Changes.


@pytest.mark.parametrize("in_query", [True, False])
def test_every_engine_gets_it_and_every_worker_knows_it(adapted: Adapted, in_query: bool) -> None:
    path = "/adapters?name=c&src=%2Fx%20y&pin=True&preload=false"
    body = None if in_query else {"name": "c", "src": "/x y", "pin": True}
    answer = adapted.web.request("POST", path if in_query else "/adapters", body, **{ALIAS: "mine"})
    assert (answer.status, answer.json) == (200, {"status": "Adapter mine registered"})
    first, second = (list(messages) for messages in adapted.messages())
    assert len(first) == len(second) == 1
    for message in (*first, *second):
        assert isinstance(message, RegisterAdapter)
        assert (message.name, message.path, message.pin) == ("c", "/x y", True)
    assert first[0].registration == second[0].registration  # type: ignore[union-attr]
    for _ in range(8):
        assert adapted.web.post("/v1/completions", PROMPT | {"model": "c"}).status == 200
    assert adapted.web.request("GET", "/adapters/c").json == {"name": "c", "src": "/x y", "pin": True}


def test_delete_forgets_it_everywhere(adapted: Adapted) -> None:
    answer = adapted.web.request("DELETE", "/adapters/a")
    assert (answer.status, answer.json) == (200, {"status": "Adapter a unregistered"})
    for (message,) in adapted.messages():
        assert isinstance(message, UnregisterAdapter)
        assert message.name == "a"
    assert adapted.names() == ["b"]
    assert adapted.web.post("/v1/completions", PROMPT | {"model": "a"}).status == 404
    answer = adapted.web.request("DELETE", "/adapters/a", **{ALIAS: "mine"})
    assert (answer.status, answer.json["message"]) == (404, "the adapter 'mine' was not found")
    answer = adapted.web.request("POST", "/adapters", {"name": "b", "src": "/x"}, **{ALIAS: "mine"})
    assert (answer.status, answer.json["message"]) == (400, "the adapter 'mine' is registered already")
    adapted.web.request("DELETE", "/adapters/b")
    answer = adapted.web.post("/v1/completions", PROMPT | {"model": "b"})
    assert answer.status == 404, "the base model does not answer for the last one that has gone"


def test_a_name_may_have_slashes_and_signs(adapted: Adapted) -> None:
    assert adapted.register(name="org/my%lo?ra=1", src="/x").status == 200
    assert adapted.web.request("GET", "/adapters/org/my%25lo%3Fra=1").json["src"] == "/x"
    attributes = {ATTRIBUTES: "adapter=org/my%lo?ra=1"}
    assert adapted.web.post("/invocations", TEXT, **attributes).status == 200
    assert adapted.web.post("/adapters/org/my%25lo%3Fra=1/update", {"pin": True}).status == 200
    assert adapted.web.request("DELETE", "/adapters/org/my%25lo%3Fra=1").status == 200


@pytest.mark.parametrize("path", ["/adapters//a", "/adapters/a//update", "/adapters//"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_no_path_leads_to_another(shared: Adapted, path: str, method: str) -> None:
    answer = shared.web.request(method, path, {"pin": True} if method == "POST" else None)
    assert answer.status in {404, 405}, answer.body
    assert shared.messages() == [[], []]


@pytest.mark.parametrize("in_query", [True, False])
def test_update_pins(adapted: Adapted, in_query: bool) -> None:
    path = "/adapters/a/update?pin=true" if in_query else "/adapters/a/update"
    answer = adapted.web.request("POST", path, None if in_query else {"pin": True, "src": "/a"})
    assert (answer.status, answer.json) == (200, {"status": "Adapter a updated"})
    for (message,) in adapted.messages():
        assert isinstance(message, UpdateAdapter)
        assert (message.name, message.pin) == ("a", True)
    assert adapted.web.request("GET", "/adapters/a").json["pin"] is True


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/adapters", {"name": "", "src": "/x"}, 400, "`name` must be"),
        *(
            ("/adapters", {"name": name, "src": "/x"}, 400, "`name` must be a name of 1 to 256 printable ASCII")
            for name in ("c\n", "my lora", "c,d", "c;d", "/c", "c/", "c//d", ".", "..", "c/./d", "../c", "é", "c" * 257)
        ),
        ("/adapters", {"name": "c", "src": ""}, 400, "`src` must be the absolute path"),
        ("/adapters", {"name": "c", "src": "s3://bucket/x"}, 400, "`src` must be the absolute path"),
        ("/adapters", {"name": "c", "src": "/x\0"}, 400, "`src` must be the absolute path"),
        ("/adapters", {"name": "c", "src": "/"}, 400, "`src` must be the absolute path"),
        ("/adapters", {"name": "c"}, 400, "src"),
        ("/adapters", {"src": "/x"}, 400, "name"),
        ("/adapters", {"name": "c", "src": "/x", "pin": "maybe"}, 400, "`pin` must be true or false"),
        ("/adapters", {"name": "a", "src": "/x"}, 400, "registered already"),
        ("/adapters", {"name": BASE, "src": "/x"}, 400, "must not be a name of the model itself"),
        ("/adapters", {"name": "c/update", "src": "/x"}, 400, "does not end in /update"),
        ("/adapters", {"name": "tgi", "src": "/x"}, 400, "must not be a name of the model itself"),
        ("/v1/load_lora_adapter", {"lora_name": "dummy", "lora_path": "/x"}, 400, "a name of the model itself"),
        ("/adapters/c/update", {"pin": True}, 404, "was not found"),
        ("/adapters/a/update", {"src": "/other"}, 400, "`src` cannot change"),
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/x"}, 400, "registered already"),
        ("/v1/load_lora_adapter", {"lora_name": "c"}, 400, "lora_path"),
        ("/v1/unload_lora_adapter", {"lora_name": "c"}, 404, "was not found"),
    ],
)
def test_what_cannot_be_is_refused_before_an_engine_hears_of_it(
    shared: Adapted, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    answer = shared.web.post(path, body)
    assert (answer.status, says in answer.body.decode()) == (status, True), answer.body
    assert shared.messages() == [[], []]
    assert shared.names() == ["a", "b"]


def test_a_path_that_no_directory_can_have_is_the_engines_to_refuse(adapted: Adapted) -> None:
    src = "/" + "a" * 5000
    adapted.engines[0].adapter_script = refuse(AdapterErrorCode.BAD)
    assert adapted.register(name="c", src=src).status == 424
    assert adapted.web.post("/v1/load_lora_adapter", {"lora_name": "c", "lora_path": src}).status == 404


def test_no_more_than_are_allowed(adapted: Adapted) -> None:
    assert adapted.register(name="c", src="/x").status == 200
    answer = adapted.register(name="d", src="/x")
    assert (answer.status, answer.json["type"]) == (507, "adapters_full")


def refuse(code: AdapterErrorCode) -> Any:
    def script(message: AdapterMessage) -> AdapterReply:
        if isinstance(message, UnregisterAdapter):
            return done(message)
        return AdapterRefused(message.request_id, code, "what the engine says")

    return script


@pytest.mark.parametrize(("code", "status"), [("bad", 424), ("full", 507), ("invalid", 400)])
@pytest.mark.parametrize("index", [0, 1])
def test_what_one_engine_refuses_none_has(adapted: Adapted, index: int, code: str, status: int) -> None:
    adapted.engines[index].adapter_script = refuse(AdapterErrorCode(code))
    answer = adapted.register(name="c", src="/x")
    assert (answer.status, answer.json["message"]) == (status, "what the engine says")
    assert adapted.names() == ["a", "b"]
    assert [each.name for each in adapted.listed.read()] == ["a", "b"]
    for messages in adapted.messages():
        assert [type(each) for each in messages] == [RegisterAdapter, UnregisterAdapter]
    answer = adapted.web.post("/adapters/a/update", {"pin": True})
    assert answer.status == status
    assert adapted.web.request("GET", "/adapters/a").json["pin"] is False


def test_an_engine_that_dies_over_it_leaves_it_nowhere(adapted: Adapted) -> None:
    def die(message: AdapterMessage) -> None:
        if isinstance(message, RegisterAdapter):
            adapted.engines[1].board.enter(Phase.RESTARTING, "died")

    adapted.engines[1].adapter_script = die
    answer = adapted.register(name="c", src="/x")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert [each.name for each in adapted.listed.read()] == ["a", "b"], "a new engine must not die over it again"
    assert isinstance(adapted.engines[0].adapter_messages[-1], UnregisterAdapter)


def test_a_change_that_no_engine_has_heard_of_is_none(adapted: Adapted) -> None:
    """The engines go while it waits for its turn."""
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(adapted.register(name="c", src="/x")))
    with (adapted.listed.directory / CHANGES).open("w") as file:
        assert try_lock(file.fileno())
        asking.start()
        time.sleep(0.3)
        for engine in adapted.engines:
            engine.board.enter(Phase.RESTARTING, "died")
    asking.join()
    assert (answers[0].status, answers[0].json["message"]) == (503, "no engine is ready")
    assert [each.name for each in adapted.listed.read()] == ["a", "b"]


def test_a_late_engine_ends_the_attempt(adapted: Adapted) -> None:
    adapted.engines[0].adapter_script = lambda message: None if isinstance(message, RegisterAdapter) else done(message)
    pool = EnginePool(adapted.engines[0].run_dir, lambda: None)
    try:
        changes = AdapterChanges(pool, adapted.listed, math.inf, limit_s=0.1)
        with pytest.raises(AdapterFailed, match="was not loaded in time"):
            changes.register("c", "/x", pin=False)
        with pytest.raises(AdapterFailed, match="MAX_ADAPTERS is 0"):  # as an engine that takes none says it
            AdapterChanges(pool, adapted.listed, 0, limit_s=0.1).register("c", "/x", pin=False)
    finally:
        pool.close()
    assert adapted.names() == ["a", "b"]


@pytest.mark.parametrize("loads", [True, False])
def test_model_gets_strict_with_the_first_that_is_loaded(adapted: Adapted, tmp_path: Path, loads: bool) -> None:
    adapted.engines[0].adapter_script = done if loads else refuse(AdapterErrorCode.BAD)
    listed = AdapterList(tmp_path / "adapters")
    served = ServedAdapters(listed, awaited=False)
    pool = EnginePool(adapted.engines[0].run_dir, lambda: None)
    try:
        with nullcontext() if loads else pytest.raises(AdapterFailed):
            AdapterChanges(pool, listed, math.inf, limit_s=10).register("c", "/x", pin=False)
    finally:
        pool.close()
    assert served.may_be_one("other") is loads
    for entry in listed.read():
        listed.remove(entry.registration)
    assert ServedAdapters(listed, awaited=False).may_be_one("c") is loads, "another worker knows, too"
    assert ServedAdapters(listed, awaited=True).may_be_one("c")
    listed.add(AdapterEntry(name="d", src="/x", registration="1"))
    assert served.may_be_one("d"), "it is being loaded"


def test_one_change_at_a_time_over_all_workers(adapted: Adapted) -> None:
    """Of many at once for one name, one wins; the engines hear of one registration."""
    statuses: list[int] = []
    callers = [
        threading.Thread(target=lambda: statuses.append(adapted.register(name="c", src="/x").status)) for _ in range(6)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(statuses) == [200, *[400] * 5]
    assert [len(messages) for messages in adapted.messages()] == [1, 1]


def test_what_a_dead_worker_left_is_no_obstacle(adapted: Adapted) -> None:
    adapted.listed.add(AdapterEntry(name="c", src="/x", registration="1"))
    assert adapted.names() == ["a", "b"]
    assert adapted.web.post("/v1/completions", PROMPT | {"model": "c"}).status == 404, "not every engine has it"
    assert adapted.register(name="c", src="/y").status == 200
    assert [each.src for each in adapted.listed.read()] == ["/a", "/b", "/y"]


def test_pages(adapted: Adapted) -> None:
    adapted.register(name="c", src="/c")
    first = adapted.web.request("GET", "/adapters?limit=2").json
    assert ([each["name"] for each in first["adapters"]], first["nextPageToken"]) == (["a", "b"], "2")
    second = adapted.web.request("GET", f"/adapters?limit=2&next_page_token={first['nextPageToken']}").json
    assert second == {"adapters": [{"name": "c", "src": "/c", "pin": False}]}
    for query in ("limit=0", "limit=x", "limit=1001", "next_page_token=-1"):
        assert adapted.web.request("GET", f"/adapters?{query}").status == 400


def test_vllms_routes(adapted: Adapted, tmp_path: Path) -> None:
    load = {"lora_name": "c", "lora_path": "/c"}
    answer = adapted.web.post("/v1/load_lora_adapter", load)
    assert (answer.status, answer.body) == (200, b"Success: LoRA adapter 'c' added successfully.")
    registered = adapted.listed.read()[-1].registration
    answer = adapted.web.post("/v1/load_lora_adapter", load | {"lora_path": "/d", "load_inplace": True})
    assert answer.status == 200
    assert adapted.listed.read()[-1].registration != registered
    assert adapted.web.request("GET", "/v1/models/c").json["root"] == "/d"
    answer = adapted.web.post("/v1/unload_lora_adapter", {"lora_name": "c", "lora_int_id": 1})
    assert (answer.status, answer.body) == (200, b"Success: LoRA adapter 'c' removed successfully.")
    for path, status in ((str(tmp_path), 400), ("/c", 404)):  # vLLM knows no 424
        adapted.engines[0].adapter_script = refuse(AdapterErrorCode.BAD)
        answer = adapted.web.post("/v1/load_lora_adapter", load | {"lora_path": path, "is_3d_lora_weight": False})
        assert (answer.status, answer.json["error"]["param"]) == (status, "lora_path")
    for answer in (
        adapted.web.post("/v1/load_lora_adapter", load | {"lora_name": "a"}),
        adapted.web.post("/v1/unload_lora_adapter", load),
    ):
        assert answer.json["error"]["param"] == "lora_name"


def test_an_exchange_that_fails_keeps_the_old_one(adapted: Adapted) -> None:
    registration = adapted.listed.read()[0].registration

    def refuse_new(message: AdapterMessage) -> AdapterReply:
        if isinstance(message, RegisterAdapter) and message.path == "/new":
            return AdapterRefused(message.request_id, AdapterErrorCode.BAD, "no")
        return done(message)

    adapted.engines[1].adapter_script = refuse_new
    body = {"lora_name": "a", "lora_path": "/new", "load_inplace": True}
    assert adapted.web.post("/v1/load_lora_adapter", body).status == 404
    for messages in adapted.messages():
        last = messages[-1]
        assert isinstance(last, RegisterAdapter)
        assert (last.path, last.registration) == ("/a", registration)
    assert adapted.web.request("GET", "/adapters/a").json["src"] == "/a"


def test_clients_choose_as_they_always_did(shared: Adapted) -> None:
    hub = InferenceClient(shared.web.url)
    assert hub.text_generation("hi", adapter_id="a", max_new_tokens=2)
    with pytest.raises(ValidationError, match="the name of an adapter that is loaded"):
        hub.text_generation("hi", adapter_id="c", max_new_tokens=2)
    assert InferenceClient(base_url=shared.web.url).chat_completion([{"role": "user", "content": "hi"}], max_tokens=2)
    client = openai.OpenAI(base_url=f"{shared.web.url}/v1", api_key="-", max_retries=0)
    assert [each.id for each in client.models.list()] == [BASE, "a", "b"]
    messages: Any = CHAT["messages"]
    assert client.chat.completions.create(model="b", messages=messages).model == "b"
    with pytest.raises(openai.NotFoundError, match="the name of an adapter that is loaded"):
        client.chat.completions.create(model="c", messages=messages)
    assert sorted(map(str, shared.used())) == ["None", "a", "b"]
