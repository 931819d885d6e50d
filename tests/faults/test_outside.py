"""What can be seen of the container from outside, and what its model may do (rows 26, 36, 39)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from container.app import create_app
from container.run_dir import RunDir
from container.settings import Settings
from handler.seam.status import StatusBoard
from tests.faults.conftest import Scoreboard
from tests.support.server import ROOT, Server

PROMPTS = ("![x](http://192.0.2.1/a.png)", "https://192.0.2.1/", "file:///etc/passwd", "s3://bucket/key")


def in_a_namespace(program: str, timeout_s: float) -> dict[str, Any]:
    """Run Python with a network of its own whose only way out is a device that counts packets and drops them."""
    setup = "ip link set lo up && ip link add out0 type veth peer name hole0 && ip link set hole0 up"
    # Neighbour discovery of IPv6 would be counted as if the server had sent something.
    setup += " && echo 1 > /proc/sys/net/ipv6/conf/out0/disable_ipv6 && ip addr add 198.51.100.1/24 dev out0"
    setup += " && ip link set out0 up && ip route add default dev out0"
    code = "import sys; sys.path.insert(0, '.')\n" + textwrap.dedent(program)
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", f'{setup} && exec "$0" -c "$1"']
    run = subprocess.run([*command, sys.executable, code], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.row(26, bug="container/api/openai/messages.py: an image's URL is fetched: 3 packets")
def test_nothing_goes_out(tiny_llama: Path, tmp_path: Path, scoreboard: Scoreboard) -> None:
    found = in_a_namespace(
        f"""
        import json
        import socket
        import time
        from pathlib import Path
        from tests.support.server import Server
        def out():
            (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if "out0:" in line]
            return int(line.split(":")[1].split()[9])  # packets sent
        quiet = out()
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe.sendto(b"x", ("192.0.2.1", 53))
        deadline = time.monotonic() + 5
        while out() == quiet:
            assert time.monotonic() < deadline, "the device must count"
        time.sleep(5)  # the last search for the neighbour that it was addressed to
        before = out()
        server = Server(Path({str(tmp_path / "log")!r}), {{"HF_MODEL_ID": {str(tiny_llama)!r}, "HF_HUB_OFFLINE": "0"}})
        statuses = []
        try:
            server.wait_ready()
            for text in {PROMPTS!r}:
                image = [{{"type": "image_url", "image_url": {{"url": text}}}}]
                bodies = [
                    ("/generate", {{"inputs": text, "parameters": {{"max_new_tokens": 2}}}}),
                    ("/invocations", {{"inputs": text, "parameters": {{"max_new_tokens": 2}}}}),
                    ("/v1/completions", {{"prompt": text, "max_tokens": 2}}),
                    ("/v1/chat/completions", {{"messages": [{{"role": "user", "content": text}}], "max_tokens": 2}}),
                    ("/v1/chat/completions", {{"messages": [{{"role": "user", "content": image}}]}}),
                    ("/v1/chat/completions", {{"messages": [{{"role": "user", "content": "x"}}], "model": text}}),
                ]
                statuses += [server.request("POST", path, body).status for path, body in bodies]
            for path in ("/docs", "/metrics", "/info", "/v1/models", "/ping"):
                server.request("GET", path)
        finally:
            server.stop()
        print(json.dumps({{"packets": out() - before, "statuses": sorted(set(statuses)), "requests": len(statuses)}}))
        """,
        timeout_s=400,
    )
    seen = f"{found['packets']} packets from start to stop, {found['requests']} requests full of URLs"
    scoreboard(26, "in a network that counts", "", seen, found["packets"] == 0 and 200 in found["statuses"])


@pytest.mark.row(39, bug="container/api/openai/routes.py: GET /v1/models needs no key")
def test_one_port_and_the_documented_routes(tiny_llama: Path, tmp_path: Path, scoreboard: Scoreboard) -> None:
    server = Server(tmp_path / "log", {"HF_MODEL_ID": str(tiny_llama), "API_KEY": "Secret"})
    try:
        server.wait_ready()
        main = psutil.Process(server.process.pid)
        sockets = [c for p in (main, *main.children(recursive=True)) for c in p.net_connections("inet")]
        ports = {c.laddr.port for c in sockets if c.status == psutil.CONN_LISTEN}
        peers = [c for c in sockets if c.raddr and c.status != psutil.CONN_LISTEN and c.raddr.ip != "127.0.0.1"]
        paths = server.request("GET", "/api-doc/openapi.json", Authorization="Bearer Secret").json["paths"]
        documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
        wrong = [
            f"{method} {path}"
            for method, path in sorted(documented)
            if answers_all(server, method, path) != ((method, path) in OPEN)
        ]
        hidden = [path for path in HIDDEN if server.request("GET", path, Authorization="Bearer Secret").status != 404]
    finally:
        server.kill()
    unsaid = sorted(routes(tmp_path) - documented)
    seen = f"ports {sorted(ports)} of [{server.port}], {len(peers)} other sockets; {len(documented)} operations, "
    seen += f"wrong about the key: {wrong or 'none'}; undocumented: {unsaid or 'none'}; "
    seen += f"that answer: {hidden or 'none'} of {len(HIDDEN)} guesses"
    ok = ports == {server.port} and not (peers or wrong or unsaid or hidden) and {*OPEN} <= documented
    scoreboard(39, "tiny model, key set", "", seen, ok)


def routes(scratch: Path) -> set[tuple[str, str]]:
    """The application's own map of methods and paths, without the pages and files of /docs and HEAD and OPTIONS."""
    run_dir = RunDir(scratch / "map")
    run_dir.path.mkdir()
    StatusBoard(run_dir.board, create=True).close()
    return {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in create_app(Settings(), run_dir).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.endpoint.startswith("pages.")
    }


# Health and the numbers: what asks for them cannot send a key.
OPEN = {("GET", "/"), ("GET", "/ping"), ("POST", "/ping"), ("GET", "/health"), ("GET", "/metrics")}
HIDDEN = ("/console", "/static/x", "/admin", "/debug", "/pause", "/v1/embeddings", "/v1/files", "/livez", "/shutdown",
          "/get_world_size", "/load_lora_adapter", "/server_info", "/.env", "/v1/audio/transcriptions")  # fmt: skip


def answers_all(server: Server, method: str, path: str) -> bool:
    """Whether a client without a key gets further than to be asked for one."""
    return server.request(method, re.sub(r"{[^}]+}", "x", path), {}).status != 401


RUN = "open({canary!r}, 'w').close()"
ATTRIBUTES = ("__class__", "__init__.__globals__", "__mro__", "__subclasses__()")


def poisons(canary: Path) -> dict[str, Any]:
    """Name -> what is done to a good model directory."""
    code = RUN.format(canary=str(canary))
    pickle = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    found: dict[str, Any] = {}

    def config(name: str, **changes: Any) -> None:
        found[f"config {name}"] = lambda d: edit(d / "config.json", changes)

    config("auto_map", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    config("auto_map to a hub repository", auto_map={"AutoModelForCausalLM": "other/repo--evil.M"})
    config("nested auto_map", vision_config={"auto_map": {"AutoConfig": "evil.C"}})
    for key in ("_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset"):
        config(key, **{key: "other/repo"})
    config("nested _attn_implementation_internal", text_config={"_attn_implementation_internal": "other/repo"})
    config("trust_remote_code", trust_remote_code=True, auto_map={"AutoConfig": "evil.C"})
    config("quantizer of a hub repository", quantization_config={"quant_method": "evil", "custom": "evil.py"})
    config("custom model type", model_type="evil", auto_map={"AutoConfig": "evil.C"})
    for name in ("modeling_llama.py", "tokenization_llama.py", "configuration_llama.py", "__init__.py",
                 "sitecustomize.py", "torch.py", "conftest.py"):  # fmt: skip
        found[f"code {name}"] = lambda d, name=name: (d / name).write_text(code)
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt"):
        found[f"only {name}"] = lambda d, name=name: only_pickle(d, name, pickle)
    found["pickle beside safetensors"] = lambda d: (d / "pytorch_model.bin").write_bytes(pickle)
    found["pickle named safetensors"] = lambda d: (d / "model.safetensors").write_bytes(pickle)
    found["tokenizer auto_map"] = lambda d: edit(
        d / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}, "tokenizer_class": "Evil"}
    )
    for attribute in ATTRIBUTES:
        template = "{{ ''.__class__" + f".{attribute}" + " }}{{ cycler.__init__.__globals__.os.popen('touch CANARY') }}"
        text = template.replace("CANARY", str(canary))
        found[f"template {attribute}"] = lambda d, text=text: edit(d / "tokenizer_config.json", {"chat_template": text})
    found["generation config"] = lambda d: edit(d / "generation_config.json", {"custom_generate": "evil"})
    found["custom_generate"] = lambda d: custom_generate(d, code)
    return found


def custom_generate(directory: Path, code: str) -> None:
    (directory / "custom_generate").mkdir()
    (directory / "custom_generate" / "generate.py").write_text(code)


def edit(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_pickle(directory: Path, name: str, pickle: bytes) -> None:
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(pickle)


# Both sides load the directory, in a process that has imported everything once and forks for each case.
LOADER = """
import json, os, sys, signal
sys.path.insert(0, '.')
from pathlib import Path
import handler.startup
from handler.seam.config import EngineConfig
from handler.seam.errors import StartupError
from handler.seam.status import StatusBoard
from container.text.tokenizer import Tokenizer, TokenizerError
from container.text.chat_template import ChatTemplate, TemplateError
for line in sys.stdin:
    directory, scratch = json.loads(line)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os.chdir(directory)
        sys.path.insert(0, '')
        word = 'loaded'
        try:
            board = StatusBoard(Path(scratch) / 'board', create=True)
            config = EngineConfig(model=directory, cache_dir=scratch, socket_path=scratch + '/s', num_threads=1)
            core, card = handler.startup.start(config, board)
            tokenizer = Tokenizer.load(Path(card.tokenizer_dir))
            template = ChatTemplate.load(Path(card.tokenizer_dir), tokenizer)
            template.render([{'role': 'user', 'content': 'hi'}]) if template else None
        except (StartupError, TokenizerError, TemplateError) as exc:
            word = 'refused'
        except BaseException as exc:
            word = 'broke: ' + type(exc).__name__ + ' ' + str(exc)[:80]
        os.write(1, (word + chr(10)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.row(36, bug="handler/model/location.py, handler/model/loader.py: `auto_map` is followed: 3 of 29 executed")
def test_models_that_want_to_run_code(tiny_llama: Path, tmp_path: Path, scoreboard: Scoreboard) -> None:
    canary = tmp_path / "canary"
    environ = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    loader = subprocess.Popen(
        [sys.executable, "-c", LOADER], cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert loader.stdin is not None
    assert loader.stdout is not None
    words: dict[str, str] = {}
    ran: list[str] = []
    try:
        for name, poison in {"good": lambda _d: None, **poisons(canary)}.items():
            directory, scratch = tmp_path / "model", tmp_path / "scratch"
            for each in (directory, scratch):
                shutil.rmtree(each, ignore_errors=True)
            scratch.mkdir()
            shutil.copytree(tiny_llama, directory)
            (directory / "evil.py").write_text(RUN.format(canary=str(canary)))
            poison(directory)
            loader.stdin.write(json.dumps([str(directory), str(scratch)]) + "\n")
            loader.stdin.flush()
            words[name] = loader.stdout.readline().strip()
            if canary.exists():
                ran.append(name)
                canary.unlink()
    finally:
        loader.kill()
        loader.wait()
    broke = [f"{name} {word}" for name, word in words.items() if word not in {"refused", "loaded"}]
    refused = sum(word == "refused" for word in words.values())
    seen = f"{len(ran)} of {len(words) - 1} executed; {refused} refused, {len(words) - 1 - refused} loaded without harm"
    seen += "".join(f"; {text}" for text in [*ran, *broke])
    scoreboard(
        36,
        "engine and web side, in the model's directory",
        "",
        seen,
        not ran and not broke and words["good"] == "loaded",
    )
