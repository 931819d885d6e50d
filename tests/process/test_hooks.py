"""A user's code behind the real routes: answers, streams, and hooks that sleep, raise, exit or eat memory."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from handler.seam.status import StatusBoard
from tests.support.hooks import write
from tests.support.server import Answer, Server, processes_below
from tests.support.wheels import make_wheel

# Answers by what the request asks for. It uses the engine, so the other routes are served beside it.
ENGINE_HOOK = """
    import os, time

    def input_fn(body, content_type):
        return body

    def predict_fn(data, model):
        what, _, rest = (data if isinstance(data, str) else data.decode()).partition(" ")
        print("asked to", what)
        if what == "chat":
            prompt = "Known: ducks swim.\\n" + rest
            return model.chat([{"role": "user", "content": prompt}], max_tokens=4, temperature=0)
        if what == "generate":
            return model.generate(rest, max_new_tokens=4)
        if what == "raise":
            raise ValueError("no " + rest)
        if what == "sleep":
            time.sleep(3600)
        if what == "exit":
            os._exit(9)
        if what == "leave":
            raise SystemExit(9)
        if what == "eat":
            return {"length": len([b"x" * 10**7 for _ in range(int(rest))])}
        if what in ("stream", "head"):
            return what
        return {"said": rest}

    def output_fn(prediction, accept, context):
        if prediction == "head":
            context.set_response_header(0, "no token", "x")
        if prediction == "stream":
            def parts():
                for i in range(10):
                    yield f"data: {i}\\n\\n".encode()
                raise ValueError("no eleventh")
            return parts(), "text/event-stream"
        import json
        return json.dumps(prediction), "application/json"
"""
# Loads its own model, with a package that its requirements.txt names.
OWN_MODEL = """
    import pathlib
    import acme_search

    def model_fn(model_dir):
        return {"bias": 3, "directory": pathlib.Path(model_dir)}

    def predict_fn(data, model):
        if "inputs" in data:
            return {"sum": sum(data["inputs"]) + model["bias"]}
        if "package" in data:
            return {"version": acme_search.VERSION, "file": acme_search.__file__}

        def parts():
            try:
                while True:
                    yield b"x" * 1000
            finally:
                (model["directory"] / "closed").touch()
        return parts()
"""
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 4}
TIMEOUT_S = 3
# Begins, then goes on once a file is there.
WAITS = """
    import os, pathlib, time

    def input_fn(body, content_type):
        return body if isinstance(body, str) else body.decode()

    def predict_fn(what, model):
        def wait():
            pathlib.Path(os.environ["HOOK_BEGUN"] + what).touch()
            while not os.path.exists(os.environ["HOOK_GOES_ON"]):
                time.sleep(0.01)

        def parts():
            yield "first"
            wait()
            yield "last"

        if what == "stream":
            return parts()
        wait()
        return model.chat([{"role": "user", "content": "hi"}], max_tokens=2) if what == "chat" else {"said": what}
"""


def ask(server: Server, text: str, **headers: str) -> Answer:
    return server.request("POST", "/invocations", text.encode(), Content_Type="text/plain", **headers)


def hook_process(server: Server) -> list[psutil.Process]:
    return processes_below(server.process.pid, "container.hooks.host")


Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def serve(tiny_llama: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A container whose model's directory holds `files` too, and wheels of the packages in `wheels`."""
    servers: list[Server] = []

    def make(files: dict[str, str], *, with_model: bool = True, wheels: tuple[str, ...] = (), **environ: str) -> Server:
        directory = tmp_path_factory.mktemp("model")
        if with_model:
            shutil.copytree(tiny_llama, directory, dirs_exist_ok=True)
        for name in wheels:
            make_wheel(directory / "code" / "requirements", name, needs=["msgspec"])
        values = {"HF_MODEL_ID": str(write(directory, files)), "CACHE_DIR": str(kept), "WEB_WORKERS": "1"}
        servers.append(Server(directory / "log", values | {"TRUST_CUSTOM_CODE": "true"} | environ))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def hooked(serve: Serve) -> Iterator[Server]:
    server = serve(
        {"code/inference.py": ENGINE_HOOK},
        API_KEY="secret",
        HOOK_THREADS="40",
        HOOK_MAX_MEMORY_MB="700",
        REQUEST_TIMEOUT_S=str(TIMEOUT_S),
        INVOCATIONS_PAYLOAD_LIMIT="1000",
    )
    server.wait_ready()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def own(serve: Serve) -> Iterator[Server]:
    """Without an engine."""
    files = {"code/inference.py": OWN_MODEL, "code/requirements.txt": "acme_search\n"}
    server = serve(files, with_model=False, wheels=("acme_search",))
    server.wait_ready()
    yield server
    assert server.stop() == 0


def asked(server: Server, text: str) -> Answer:
    return ask(server, text, X_Api_Key="secret")


def chat(server: Server) -> Answer:
    return server.request("POST", "/v1/chat/completions", CHAT, X_Api_Key="secret")


def test_invocations_are_the_hooks_and_the_other_routes_the_engines(hooked: Server) -> None:
    assert asked(hooked, "say hello").json == {"said": "hello"}
    assert chat(hooked).json["choices"][0]["message"]["role"] == "assistant"
    assert "generated_text" in hooked.request("POST", "/", {"inputs": "a"}, X_Api_Key="secret").json[0]
    assert ask(hooked, "say hello").status == 401
    info = hooked.request("GET", "/info", X_Api_Key="secret").json
    assert info["custom_code_ignored"] == []
    paths = hooked.request("GET", "/api-doc/openapi.json", X_Api_Key="secret").json["paths"]
    posts = {path: methods["post"] for path, methods in paths.items() if "post" in methods}
    assert [path for path, post in posts.items() if "default" in post["responses"]] == ["/invocations"]
    assert posts["/invocations"]["requestBody"]["content"] == {"*/*": {}}
    assert posts["/invocations"]["security"]
    assert [path.rsplit("/", 1)[1] for path in info["custom_code"]["files"]] == ["inference.py"]


def test_thirty_two_hooks_that_ask_the_engine_get_what_a_client_gets(hooked: Server) -> None:
    prompts = [f"question {i}" for i in range(32)]
    with ThreadPoolExecutor(32) as threads:
        found = [each.json for each in threads.map(lambda text: asked(hooked, f"chat {text}"), prompts)]
    texts = [each["choices"][0]["message"]["content"] for each in found]
    bodies = [CHAT | {"messages": [{"role": "user", "content": f"Known: ducks swim.\n{text}"}]} for text in prompts]
    direct = [hooked.request("POST", "/v1/chat/completions", body, X_Api_Key="secret").json for body in bodies]
    assert texts == [each["choices"][0]["message"]["content"] for each in direct]


REFUSALS = [
    ("raise luck", 400, "no luck"),
    ("leave", 400, "exit"),
    ("head", 400, "the hook's header 'no token' is no header of HTTP"),
    ("eat 100", 500, "memory"),
    ("say " + "x" * 1000, 413, "length limit exceeded"),
]


@pytest.mark.parametrize(("text", "status", "words"), REFUSALS, ids=[text.split()[0] for text, *_ in REFUSALS])
def test_a_hook_that_fails_is_refused_in_words_and_harms_nobody(
    hooked: Server, text: str, status: int, words: str
) -> None:
    (before,) = hook_process(hooked)
    answer = asked(hooked, text)
    assert (answer.status, words in answer.body.decode()) == (status, True), answer.body
    assert b"Traceback" not in answer.body
    assert asked(hooked, "say hello").json == {"said": "hello"}
    assert chat(hooked).status == 200
    assert hook_process(hooked) == [before]


def test_sleeping_hooks_leave_engine_routes_and_the_health_check_alone(hooked: Server) -> None:
    with ThreadPoolExecutor(8) as threads:
        sleeping = [threads.submit(asked, hooked, "sleep") for _ in range(8)]
        assert chat(hooked).status == 200
        assert hooked.ping() == 200
        answers = [each.result() for each in sleeping]
    assert {answer.status for answer in answers} == {504}
    assert all(f"did not answer within {TIMEOUT_S} s" in answer.json["error"] for answer in answers)


def test_a_stream_that_fails_ends_with_an_error_event(hooked: Server) -> None:
    answer = asked(hooked, "stream")
    *parts, error = answer.body.decode().removesuffix("\n\n").split("\n\n")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert parts == [f"data: {i}" for i in range(10)]
    assert json.loads(error.removeprefix("data: "))["error_type"] == "hook"


def test_what_a_hook_prints_carries_the_requests_id(hooked: Server) -> None:
    request_id = asked(hooked, "say hello").headers["X-Request-Id"]
    asked(hooked, "raise luck")
    hooked.settle()
    lines = [json.loads(line) for line in hooked.log.read_text().splitlines()]
    assert any(
        (line["message"], line.get("request_id"), line["process"]) == ("asked to say", request_id, "hook")
        for line in lines
    )
    assert any("ValueError: no luck" in line.get("exception", "") for line in lines)
    assert any(line.get("hook") and line.get("request_id") == request_id for line in lines)
    assert hooked.metric("heir_hook_requests_total") > 0


def test_a_hook_that_exits_is_restarted_and_its_requests_get_503(hooked: Server) -> None:
    (before,), engines = hook_process(hooked), hooked.engines()
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(asked, hooked, "sleep")
        hooked.wait(lambda: hooked_board_running(hooked) > 0)
        answer = asked(hooked, "exit")
        assert (answer.status, waiting.result().status) == (503, 503)
        assert "ended before it answered" in answer.json["error"]
    assert chat(hooked).status == 200
    hooked.wait_ready()
    assert asked(hooked, "say again").json == {"said": "again"}
    assert hook_process(hooked) != [before]
    assert hooked.engines() == engines


def hooked_board_running(server: Server) -> int:
    return StatusBoard(server.run_dir().hook.board)["running"]


def test_a_hook_with_its_own_model_runs_without_an_engine(own: Server) -> None:
    assert own.request("POST", "/invocations", {"inputs": [1, 2]}).json == {"sum": 6}
    assert not own.engines()
    for path in ("/v1/chat/completions", "/generate", "/v1/messages", "/v1/responses"):
        answer = own.request("POST", path, CHAT if path.startswith("/v1") else {"inputs": "a"})
        assert (answer.status, b"no engine" in answer.body) == (404, True), (path, answer.body)
    assert own.request("GET", "/v1/models").status == 404
    info = own.request("GET", "/info").json
    assert (info["version"][:5], info["model_id"]) == ("3.3.7", own.environ["HF_MODEL_ID"])
    assert info["custom_code"]["convention"]
    assert own.request("GET", "/metrics").status == 200


def test_a_model_of_ones_own_has_no_adapters(own: Server) -> None:
    answer = own.request("POST", "/invocations", {"inputs": [1, 2]}, X_Amzn_SageMaker_Adapter_Identifier="mine")
    assert (answer.status, "which has no adapters" in answer.json["error"]) == (422, True)


def test_packages_are_installed_and_imported(own: Server, kept: Path) -> None:
    answer = own.request("POST", "/invocations", {"package": "acme_search"}).json
    assert answer["version"] == "1.0"
    assert Path(answer["file"]).is_relative_to(kept / "packages")


def test_a_client_that_leaves_closes_the_hooks_generator(own: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", own.port, timeout=60)
    connection.request("POST", "/invocations", b"{}", {"Content-Type": "application/json"})
    assert connection.getresponse().read(5000) == b"x" * 5000
    connection.close()
    closed = Path(own.environ["HF_MODEL_ID"]) / "closed"
    own.wait(closed.exists)


# Files, variables, and what the one sentence says.
CANNOT_START: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "import": (
        {"code/inference.py": "import acme_missing", "code/requirements.txt": "acme_missing"},
        {"STANDARD_AUTO_INSTALL_REQ": "false"},
        "package acme_missing is not installed; name it in",
    ),
    "program": ({}, {"SAGEMAKER_PROGRAM": "mine.py", "TRUST_CUSTOM_CODE": ""}, "SAGEMAKER_PROGRAM is 'mine.py'"),
    "requirements": (
        {"handler.py": "", "requirements.txt": "msgspec==0.1"},
        {},
        "requirements.txt cannot be installed: it asks for msgspec==0.1, and this server keeps",
    ),
}


def test_code_that_cannot_be_used_ends_the_start_in_one_sentence(serve: Serve) -> None:
    starts = {name: serve(files, with_model=False, **environ) for name, (files, environ, _) in CANNOT_START.items()}
    for name, server in starts.items():
        assert server.process.wait(120) == 3, name
        errors = [line for line in map(json.loads, server.log.read_text().splitlines()) if line["level"] == "ERROR"]
        assert [CANNOT_START[name][2] in line["message"] for line in errors] == [True], (name, errors)


def test_a_drain_finishes_hooks_in_flight_and_what_they_ask_of_the_engine(serve: Serve, tmp_path: Path) -> None:
    goes_on, kinds = tmp_path / "goes-on", ("whole", "stream", "chat")
    server = serve({"code/inference.py": WAITS}, HOOK_BEGUN=f"{tmp_path}/begun-", HOOK_GOES_ON=str(goes_on))
    server.wait_ready()
    with ThreadPoolExecutor(len(kinds)) as threads:
        answers = [threads.submit(ask, server, kind) for kind in kinds]
        server.wait(lambda: all((tmp_path / f"begun-{kind}").exists() for kind in kinds))
        server.process.terminate()
        server.wait(lambda: "draining: finishing" in server.log.read_text())
        late = ask(server, "whole")
        goes_on.touch()
        whole, stream, chat = (answer.result() for answer in answers)
    assert late.status == 503
    assert whole.json == {"said": "whole"}
    assert stream.body == b"firstlast"
    assert chat.status == 200, chat.body
    assert chat.json["choices"][0]["message"]["role"] == "assistant"
    assert server.process.wait(120) == 0
