"""A real hook process between real web workers and a scripted engine: what its requests have of its client's."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from container.run_dir import RunDir
from container.supervisor.hook_process import HookProcess
from handler.seam.protocol import ErrorCode, GenerateRequest, Rejected
from handler.seam.status import Phase
from tests.contract.sagemaker.bodies import ADAPTER, ATTRIBUTES, CHAT, TEXT
from tests.contract.seam.test_request_log import line_of
from tests.contract.seam.web import OpenStream, WebServer, output_to
from tests.fakes.engine import output
from tests.support.hooks import write

CODE = """
    class Answer:
        def __init__(self, reply):
            self.status_code, self.headers, self.body_iterator = reply.status, dict(reply.headers), iter(())
            self.media_type = None
            if isinstance(reply.body, bytes):
                self.body = reply.body
            else:
                self.body_iterator = reply.body

    async def custom_sagemaker_invocation_handler(request, model):
        what = request.headers.get("x-what")
        if what == "headers":
            return sorted(request.headers)
        if what == "generate":
            return model.generate("a", **await request.json())
        if what == "chat":
            return model.chat([{"role": "user", "content": "a"}], **await request.json())
        if what == "predict":
            return model.predict(await request.json())
        return Answer(model.forward(await request.body(), request.headers))
"""


class Hooked:
    """A server with one worker, adapters `a` and `b`, and keys of two tenants."""

    def __init__(self, directory: Path) -> None:
        code = write(directory / "code", {"model.py": CODE})
        environ = {"WEB_WORKERS": "1", "API_KEY": "own, one, two", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        environ |= {"HF_MODEL_ID": str(code), "TRUST_CUSTOM_CODE": "true"}
        self.log = directory / "hook-log"
        self.process = HookProcess(RunDir(directory))
        self.web = WebServer(directory, environ)
        self.environ = environ | {"PORT": str(self.web.port)}

    def start(self) -> None:
        with self.log.open("wb") as log, output_to(log.fileno()), mock.patch.dict(os.environ, self.environ):
            self.process.check()
        self.web.start_engine()
        for name in ("a", "b"):
            assert self.web.post("/adapters", {"name": name, "src": f"/{name}"}, X_Api_Key="one").status == 200

    def ask(self, body: Any, what: str = "forward", *, key: str = "one", **headers: str) -> Any:
        return self.web.post("/invocations", body, X_What=what, Authorization=f"Bearer {key}", **headers)

    def used(self) -> list[str | None]:
        """The adapters of what the engine was asked since the last look."""
        found = [sent.adapter for sent in self.web.engine.requests]
        self.web.engine.requests.clear()
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[Hooked]:
    with tempfile.TemporaryDirectory(prefix="seam-") as directory:
        hooked = Hooked(Path(directory))
        try:
            hooked.start()
            yield hooked
            log = hooked.web.log.read_text()
            assert hooked.web.stop() == 0
            assert "Traceback" not in log, log[-3000:]
        finally:
            hooked.web.kill()
            hooked.process.close()
            hooked.web.engine.close()


@pytest.fixture
def hooked(server: Hooked) -> Hooked:
    server.web.engine.script = server.web.engine.says("hello")
    server.web.engine.requests.clear()
    return server


def test_the_key_of_a_client_is_not_sent_beside_the_servers(hooked: Hooked) -> None:
    for body in (TEXT, CHAT | {"stream": True}):
        answer = hooked.ask(body, key="two", X_Request_Id="mine", Expect="100-continue", TE="trailers")
        assert answer.status == 200, answer.body
        assert answer.headers["X-Request-Id"] == "mine"


@pytest.mark.parametrize(
    ("what", "body", "headers", "used"),
    [
        ("forward", TEXT, {ADAPTER: "a"}, ["a"]),
        ("forward", CHAT | {"model": "b"}, {ADAPTER: "a"}, ["a"]),
        ("forward", TEXT | {"adapters": "b"}, {}, ["b"]),
        ("forward", TEXT, {}, [None]),
        ("generate", {}, {ADAPTER: "a"}, ["a"]),
        ("generate", {}, {ATTRIBUTES: "adapter=a"}, ["a"]),
        ("generate", {"adapter_id": "b"}, {ADAPTER: "a"}, ["b"]),
        ("generate", {"adapter_id": "tgi"}, {ADAPTER: "a"}, [None]),
        ("generate", {}, {ADAPTER: "tgi"}, [None]),
        ("chat", {}, {ADAPTER: "a"}, ["a"]),
        ("chat", {"model": "b"}, {ADAPTER: "a"}, ["b"]),
        ("chat", {"model": "of-another-server"}, {ADAPTER: "a"}, ["a"]),
        ("chat", {"adapters": "tgi"}, {ADAPTER: "a"}, [None]),
        ("predict", TEXT | {"adapters": "b"}, {ADAPTER: "a"}, ["b"]),
        ("predict", CHAT, {ADAPTER: "a"}, ["a"]),
    ],
)
def test_the_adapter_of_the_head_is_that_of_the_hooks_calls(
    hooked: Hooked, what: str, body: dict[str, Any], headers: dict[str, str], used: list[str | None]
) -> None:
    answer = hooked.ask(body, what, **headers)
    assert answer.status == 200, answer.body
    assert hooked.used() == used


def test_an_unknown_adapter_is_refused_before_the_hook_runs(hooked: Hooked) -> None:
    for headers, place in (({ADAPTER: "c"}, ADAPTER), ({ATTRIBUTES: "adapter=c"}, f"adapter in {ATTRIBUTES}")):
        answer = hooked.ask(TEXT, "headers", **headers)
        assert answer.status == 422
        assert f'`{place}` must be the name of an adapter that is loaded. Given: "c"' in answer.json["error"]


def test_who_pretends_to_be_the_hook_is_a_client(hooked: Hooked) -> None:
    answer = hooked.ask({}, "headers", X_Hook_Nested="guessed", X_Hook_Adapter="a", X_Hook_Tenant="other")
    assert answer.status == 200
    assert not [name for name in answer.json if name.startswith("x-hook-")]
    direct = hooked.web.post("/generate", TEXT, X_Hook_Adapter="a", X_Hook_Tenant="other", X_Api_Key="one")
    assert direct.status == 200
    assert hooked.used() == [None]


def test_tenants_behind_a_hook_share_no_prefixes(hooked: Hooked) -> None:
    for key in ("one", "two", "one"):
        for what in ("forward", "generate"):
            assert hooked.ask(TEXT if what == "forward" else {}, what, key=key).status == 200
        assert hooked.web.post("/generate", TEXT, Authorization=f"Bearer {key}").status == 200
    salts = [sent.cache_salt for sent in hooked.web.engine.requests]
    assert salts == [salts[0]] * 3 + [salts[3]] * 3 + [salts[0]] * 3
    assert salts[0] != salts[3]


@pytest.mark.parametrize("what", ["forward", "generate"])
def test_when_to_try_again_is_the_engines_word(hooked: Hooked, what: str) -> None:
    def full(sent: GenerateRequest) -> list[Any]:
        return [Rejected(sent.request_id, ErrorCode.OVERLOADED, "full")]

    hooked.web.engine.script = full
    answer = hooked.ask(TEXT if what == "forward" else {}, what)
    found = {name.lower(): value for name, value in answer.headers.items()}
    assert (answer.status, found.get("retry-after")) == (429, "1"), answer.body


def test_a_compressed_body_is_refused_as_elsewhere(hooked: Hooked) -> None:
    answer = hooked.ask(b"\x1f\x8b", Content_Encoding="gzip")
    assert (answer.status, b"uncompressed" in answer.body) == (415, True)


def test_a_stream_that_its_client_leaves_is_dropped_in_the_log(hooked: Hooked) -> None:
    engine = hooked.web.engine
    engine.script = lambda sent: [output(sent, engine.token_ids("ab")), threading.Event()]
    stream = OpenStream(hooked.web.port, "/invocations", CHAT | {"stream": True}, authorization="Bearer one")
    assert stream.event()
    request_id = stream.response.headers["X-Request-Id"]
    stream.close()
    assert line_of(hooked.web, request_id)["outcome"] == "dropped"


@pytest.mark.parametrize(
    ("phase", "detail", "draining", "words"),
    [
        (Phase.READY, "running /opt/ml/model/code/inference.py", 1, "draining"),
        (Phase.LOADING, "loading the hook /opt/ml/model/code/inference.py", 0, "loading"),
        (Phase.PREPARING, "installing /opt/ml/model/requirements.txt", 0, "installing packages"),
        (Phase.RESTARTING, "died", 0, "restarting"),
    ],
)
def test_why_it_is_not_ready_is_said_without_paths(
    hooked: Hooked, phase: Phase, detail: str, draining: int, words: str
) -> None:
    board = hooked.process.board
    before = board.detail
    board["draining"] = draining
    board.enter(phase, detail)
    try:
        answer = hooked.ask({}, "headers")
    finally:
        board["draining"] = 0
        board.enter(Phase.READY, before)
    assert (answer.status, answer.json["error"]) == (503, f"the hook is not ready: {words}")
    hooked.web.wait(lambda: hooked.ask({}, "headers").status == 200)


def test_the_health_check_names_no_files_of_a_hook_that_cannot_run(hooked: Hooked) -> None:
    board = hooked.process.board
    before = board.detail
    try:
        board.enter(Phase.FAILED, "/opt/ml/model/code/inference.py has no function")
        answer = hooked.web.request("GET", "/ping")
    finally:
        board.enter(Phase.READY, before)
    assert (answer.status, answer.json["phase"]) == (503, "failed")
    assert answer.json["detail"] == "the user's code cannot run; the log says why"
