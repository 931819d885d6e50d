"""The packages of a user's code, installed by the real pip from wheels and from an index on this machine."""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from container.hooks.packages.digest import digest
from container.hooks.packages.pip_run import reason, without_credentials
from container.hooks.requirements import BadRequirements, install
from tests.support.wheels import make_wheel

ARN = "arn:aws:codeartifact:eu-west-1:123456789012:repository/acme/python"
# No index unless a test names one, whatever this machine's configuration says.
ENVIRON = {**{k: v for k, v in os.environ.items() if not k.startswith("PIP_")}, "PIP_CONFIG_FILE": os.devnull}
UNREACHABLE = "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError()': /simple/acme/"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory of user code: acme_search needs what this image has in a version of its own."""
    folder = tmp_path / "code"
    make_wheel(folder / "requirements", "acme_search", needs=["msgspec>=0.1", "acme-index"])
    make_wheel(folder / "requirements", "acme_index", module="msgspec")
    make_wheel(folder / "requirements", "msgspec", "99.0")
    make_wheel(folder / "requirements", "acme_old", needs=["msgspec<0.1"])
    (folder / "requirements.txt").write_text("acme_search  # the index of the shop\n")
    return folder


def run_in(packages: Path, source: str) -> str:
    """What `source` prints in an interpreter that may import from `packages`."""
    text = "from pathlib import Path; from container.hooks.requirements import add_to_path\n"
    text += f"add_to_path(Path({str(packages)!r}))\n"
    run = subprocess.run([sys.executable, "-c", text + source], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_wheels_beside_the_file_are_installed_and_what_is_here_stays(
    code: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    packages = install(code / "requirements.txt", tmp_path / "cache", environ=ENVIRON)
    assert packages
    assert {path.name for path in packages.glob("acme*.dist-info")} == {
        "acme_search-1.0.dist-info",
        "acme_index-1.0.dist-info",
    }
    assert not list(packages.glob("msgspec-*"))
    # acme_index brings a module of the name of ours, which comes first.
    source = "import acme_search, msgspec; print(acme_search.VERSION, msgspec.__version__)"
    assert run_in(packages, source) == f"1.0 {msgspec.__version__}"
    assert any(record.message.startswith("pip: Successfully installed acme") for record in caplog.records)
    assert not list(code.glob("**/__pycache__"))

    caplog.clear()
    assert install(code / "requirements.txt", tmp_path / "cache", environ=ENVIRON) == packages
    assert [record.message for record in caplog.records] == [
        f"{code}/requirements.txt: the packages of an earlier start are used again"
    ]
    # A changed wheel is another installation, which leaves the first for who uses it.
    make_wheel(code / "requirements", "acme_search", "2.0")
    again = install(code / "requirements.txt", tmp_path / "cache", environ=ENVIRON)
    assert again
    assert run_in(again, "import acme_search; print(acme_search.VERSION)") == "2.0"
    assert packages.exists()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("msgspec==99.0", "it asks for msgspec==99.0, and this server keeps its own msgspec " + msgspec.__version__),
        ("acme_old", r"acme-old 1.0 needs msgspec<0.1, and this server keeps its own msgspec"),
        ("acme_missing>2", r"acme_missing>2 .*; no index is asked beside the wheels in .*code/requirements$"),
    ],
)
def test_what_cannot_be_installed_is_one_sentence_and_leaves_nothing(
    lines: str, sentence: str, code: Path, tmp_path: Path
) -> None:
    (code / "requirements.txt").write_text(lines)
    with pytest.raises(BadRequirements, match=sentence) as caught:
        install(code / "requirements.txt", tmp_path / "cache", environ=ENVIRON)
    assert str(caught.value).startswith(f"{code}/requirements.txt cannot be installed: ")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["Collecting x", "ERROR: Invalid requirement: 'a b !!'"], "Invalid requirement: 'a b !!'"),
        ([UNREACHABLE, "ERROR: No matching distribution found for acme"], "the package index could not be reached"),
        (["something unknown", ""], "something unknown"),
        (["    The user requested (constraint) torch==2.13.0+cu126"], "this server keeps its own torch 2.13.0+cu126"),
    ],
)
def test_pips_lines_become_a_sentence(lines: list[str], sentence: str) -> None:
    assert reason(lines).startswith(sentence)


@pytest.mark.parametrize(
    ("args", "environ", "sentence"),
    [
        ("--target=/x acme", {}, "STANDARD_PIP_ARGS has --target, and packages go to"),
        ("acme --prefi /x", {}, "STANDARD_PIP_ARGS has --prefi,"),
        ("-t/x acme", {}, "STANDARD_PIP_ARGS has -t/x,"),
        ("'acme", {}, "STANDARD_PIP_ARGS cannot be split"),
        ("acme", {"PIP_TARGET": "/x"}, "PIP_TARGET is set, and packages go to"),
        ("acme", {"CA_REPOSITORY_ARN": "arn:aws:s3:::bucket"}, "CA_REPOSITORY_ARN 'arn:aws:s3:::bucket' is no ARN"),
    ],
)
def test_packages_never_go_elsewhere(args: str, environ: dict[str, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequirements, match=sentence):
        install(None, tmp_path / "cache", pip_args=args, environ={**ENVIRON, **environ})


def test_nothing_is_installed_without_a_file(tmp_path: Path) -> None:
    assert install(None, tmp_path / "cache", environ=ENVIRON) is None
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(code: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequirements, match=f"cannot be installed in {tmp_path}/file/packages: Not a directory"):
        install(code / "requirements.txt", tmp_path / "file" / "packages", environ=ENVIRON)


def test_files_that_the_file_names_count(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(f"-r more.txt\n-cpins.txt\nacme --hash=sha256:{'a' * 300}\n./own\n")
    for name in ("more.txt", "pins.txt", "own/setup.py", "other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    def now(**environ: str) -> str:
        return digest(("-r", str(tmp_path / "requirements.txt")), tmp_path, "", environ)

    first = now()
    (tmp_path / "other.txt").write_text("changed")
    assert now(HOME="/x") == first
    seen = {first, now(PIP_INDEX_URL="http://x")}
    for name in ("more.txt", "pins.txt", "own/setup.py"):
        (tmp_path / name).write_text("changed")
        seen.add(now())
    assert len(seen) == 5


class Index(ThreadingHTTPServer):
    """A package index of one wheel, and CodeArtifact's API; `hold` keeps answers back until it is cleared."""

    def __init__(self, wheel: Path) -> None:
        super().__init__(("127.0.0.1", 0), _IndexHandler)
        self.wheel = wheel
        self.free = threading.Event()
        self.asked = threading.Event()
        self.authorizations: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _IndexHandler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        if self.path.startswith("/v1/repository/endpoint"):
            return self._answer(json.dumps({"repositoryEndpoint": f"{self.server.url}/pypi/python/"}).encode())
        self.server.authorizations.append(self.headers["Authorization"])
        self.server.asked.set()
        self.server.free.wait()
        if self.path.endswith(".whl"):
            return self._answer(self.server.wheel.read_bytes())
        name = self.server.wheel.name
        return self._answer(f"<a href='/files/{name}'>{name}</a>".encode())

    def do_POST(self) -> None:
        self._answer(json.dumps({"authorizationToken": "sesame"}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json" if body.startswith(b"{") else "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    server = Index(make_wheel(tmp_path / "index", "acme_web"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.free.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_interrupted_installation_is_never_used(index: Index, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("acme_web\n")
    environ = {**ENVIRON, "PIP_INDEX_URL": f"{index.url}/simple/"}
    source = (
        "from pathlib import Path; from container.hooks.requirements import install\n"
        f"install(Path({str(tmp_path / 'requirements.txt')!r}), Path({str(tmp_path / 'cache')!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", source], env=environ, start_new_session=True)
    assert index.asked.wait(60)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    (left,) = (path for path in (tmp_path / "cache").iterdir() if path.name != "lock")
    index.free.set()
    packages = install(tmp_path / "requirements.txt", tmp_path / "cache", environ=environ)
    assert packages
    assert (packages / "acme_web.py").exists()
    assert not left.exists()


def test_an_end_of_this_process_ends_pip(index: Index, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("acme_web\n")
    environ = {**ENVIRON, "PIP_INDEX_URL": f"{index.url}/simple/"}
    source = (
        "import signal, sys; from pathlib import Path; from container.hooks.requirements import install\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        f"install(Path({str(tmp_path / 'requirements.txt')!r}), Path({str(tmp_path / 'cache')!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", source], env=environ, start_new_session=True)
    assert index.asked.wait(60)
    child.terminate()
    assert child.wait(60) == 0
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]
    # pip was in the child's session: nobody is left in it.
    while _has_members(child.pid):
        time.sleep(0.05)


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_codeartifact_is_the_index_and_its_token_stays_secret(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    index.free.set()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_CODEARTIFACT", index.url)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    packages = install(None, tmp_path / "cache", pip_args="acme_web", environ={**ENVIRON, "CA_REPOSITORY_ARN": ARN})
    assert packages
    assert (packages / "acme_web.py").exists()
    assert "Basic " + base64.b64encode(b"aws:sesame").decode() in index.authorizations
    assert "sesame" not in caplog.text
    assert "sesame" not in "".join(path.read_text() for path in (tmp_path / "cache").rglob("*.txt"))
    assert without_credentials("Looking in https://aws:sesame@host/simple/") == "Looking in https://****@host/simple/"
