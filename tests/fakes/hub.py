"""The Hugging Face Hub's side of a download over HTTP: repositories in memory, with every request recorded."""

from __future__ import annotations

import hashlib
import http.server
import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from tools.local_server import LocalServer

SHA = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(LocalServer):
    """Serves `repositories`, id -> path -> content, as of the one commit `SHA`.

    `fetched` holds "id/path" of every file whose content was sent, `num_bytes` their bytes. A file that is larger than
    the first of `cuts` ends after so many bytes, once. Files in `refused` ("id/path") are answered with 403.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        self.repositories = repositories
        self.fetched: list[str] = []
        self.num_bytes = 0
        self.cuts: list[int] = []
        self.refused: set[str] = set()
        super().__init__(_handler(self))

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """What kind of thing `path` names, "json" or "id/path" of a file, and its content; None if there is nothing."""
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            files = self.repositories.get("/".join(parts[2:4]))
            if files is None:
                return None
            if "tree" in parts:
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": _tag(data)} for name, data in files.items()
                ]
                return "json", json.dumps(tree).encode()
            siblings = [{"rfilename": name} for name in files]
            return "json", json.dumps({"id": "/".join(parts[2:4]), "sha": SHA, "siblings": siblings}).encode()
        repository, name = "/".join(parts[:2]), "/".join(parts[4:])
        found = self.repositories.get(repository, {}).get(name)
        return None if found is None else (f"{repository}/{name}", found)


def _tag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _handler(hub: FakeHub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._send(with_body=False)

        def do_GET(self) -> None:
            self._send(with_body=True)

        def _send(self, *, with_body: bool) -> None:
            found = hub.answer(urlsplit(self.path).path)
            if found is None or found[0] in hub.refused:
                self.send_response(404 if found is None else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            kind, data = found
            begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(data) - begin))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.send_header("ETag", f'"{_tag(data)}"')
            self.send_header("X-Repo-Commit", SHA)
            self.end_headers()
            if not with_body:
                return
            if kind != "json":
                hub.fetched.append(kind)
            cut = hub.cuts.pop(0) if kind != "json" and hub.cuts and len(data) > hub.cuts[0] else None
            sent = data[begin:cut]
            hub.num_bytes += len(sent) if kind != "json" else 0
            self.wfile.write(sent)
            if cut is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
