"""The Hugging Face Hub's side of a download over HTTP: repositories in memory, with every request recorded."""

from __future__ import annotations

import hashlib
import http.server
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tools.local_server import LocalServer

SHA = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(LocalServer):
    """Serves `repositories`, id -> path -> content, as of the commit `SHA`; each of `pushes` is a commit after it.

    The next of `pushes` is made once a list of files has been sent.
    `fetched` holds "id/path" of every file whose content was sent, `num_bytes` their bytes. A file that is larger than
    the first of `cuts` ends after so many bytes, once. Files in `refused` ("id/path") are answered with 403.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        self.repositories = repositories
        self.commits = {SHA: repositories}
        self.pushes: list[Mapping[str, Mapping[str, bytes]]] = []
        self.fetched: list[str] = []
        self.num_bytes = 0
        self.cuts: list[int] = []
        self.refused: set[str] = set()
        self.is_gone = False
        super().__init__(_handler(self))

    def __exit__(self, *exc: Any) -> None:
        """Also connections that are open get no answer any more."""
        self.is_gone = True
        super().__exit__(*exc)

    def push(self) -> None:
        """Make the next of `pushes`, if there is one."""
        if self.pushes:
            self.repositories = self.pushes.pop(0)
            self.commits[f"{len(self.commits):040x}"] = self.repositories

    def commit_of(self, path: str) -> str:
        """The hash that `path` names, or that of the newest commit."""
        return next((sha for sha in self.commits if f"/{sha}" in path), next(reversed(self.commits)))

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """What kind of thing `path` names, "json", "list" or "id/path" of a file, and its content; None if nothing."""
        commit = self.commit_of(path)
        repositories, parts = self.commits[commit], path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            files = repositories.get("/".join(parts[2:4]))
            if files is None:
                return None
            if "tree" in parts:
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": _tag(data)} for name, data in files.items()
                ]
                return "json", json.dumps(tree).encode()
            siblings = [{"rfilename": name} for name in files]
            return "list", json.dumps({"id": "/".join(parts[2:4]), "sha": commit, "siblings": siblings}).encode()
        repository, name = "/".join(parts[:2]), "/".join(parts[4:])
        found = repositories.get(repository, {}).get(name)
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
            if hub.is_gone:
                self.close_connection = True
                return
            path = urlsplit(self.path).path
            found, commit = hub.answer(path), hub.commit_of(path)
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
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if not with_body:
                return
            is_file = "/" in kind
            if is_file:
                hub.fetched.append(kind)
            cut = hub.cuts.pop(0) if is_file and hub.cuts and len(data) > hub.cuts[0] else None
            sent = data[begin:cut]
            hub.num_bytes += len(sent) if is_file else 0
            self.wfile.write(sent)
            if kind == "list":
                hub.push()
            if cut is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
