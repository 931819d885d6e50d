"""What no request and no start may cause: unpickling, a look-up of a name, a connection to the outside.

Every test that uses `tiny_server` counts: its processes are watched from their first line to their last.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import audit
from tests.support.server import Server

OUTSIDE = "http://192.0.2.1/x.png"  # reserved for documentation, answers nobody
IMAGE = {"type": "image_url", "image_url": {"url": OUTSIDE}}
HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"inputs": f"![x]({OUTSIDE})", "parameters": {"max_new_tokens": 2}}),
    ("/v1/completions", {"prompt": f"![x]({OUTSIDE})", "max_tokens": 2}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [IMAGE]}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "file", "file": {"url": OUTSIDE}}]}]}),
    ("/invocations", {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "x"}]}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "chat_template": "{% include 'x' %}"}),
    ("/generate", {"inputs": "x", "parameters": {"adapter_id": "someone/adapter"}}),
    ("/generate", {"inputs": "x", "parameters": {"grammar": {"type": "json", "value": {"$ref": OUTSIDE}}}}),
    (
        "/v1/chat/completions",
        {"model": "someone/else", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
    ),
]


def test_nothing_is_unpickled_and_nobody_is_called(tiny_server: Server) -> None:
    for path, body in HOSTILE:
        assert tiny_server.request("POST", path, body).status < 500
        for media_type in ("application/x-pickle", "application/octet-stream", "application/x-npy"):
            tiny_server.request("POST", path, b"\x80\x04\x8c\x02os\x8c\x06system\x93.", Content_Type=media_type)
    log = Path(tiny_server.environ["AUDIT_LOG"])
    assert audit.starts(log) >= 3, "PID 1, gunicorn and the engine"
    assert not audit.findings(log)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle; pickle.loads(b'\\x80\\x04\\x8c\\x02os\\x8c\\x06getcwd\\x93.')", "unpickles os.getcwd"),
        ("import socket; socket.socket().connect_ex(('192.0.2.1', 80))", "connects to ('192.0.2.1', 80)"),
        ("import socket; socket.getaddrinfo('example.invalid', 80)", "asks for 'example.invalid'"),
    ],
)
def test_the_watch_sees_it(tmp_path: Path, code: str, found: str) -> None:
    log = tmp_path / "audit"
    # The socket does not wait for an answer that never comes.
    code = f"import socket; socket.setdefaulttimeout(0.01); {code}"
    subprocess.run([sys.executable, "-c", code], env=audit.watched(log), capture_output=True)
    assert [line.split(" ", 1)[1] for line in audit.findings(log)] == [found]
