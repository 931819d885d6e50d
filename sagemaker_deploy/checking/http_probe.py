"""Single HTTP requests with SageMaker's time limits, on the standard library alone."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONNECT_LIMIT_S = 0.25  # SageMaker's time limit for accepting a connection


class Unreachable(Exception):
    """There was no complete answer within the limit."""


@dataclass(frozen=True)
class Reply:
    """A complete answer."""

    status: int
    content_type: str
    body: bytes

    def text(self) -> str:
        """Return the body as text; invalid UTF-8 is replaced."""
        return self.body.decode(errors="replace")


class Probe:
    """Sends requests to one base URL, each on its own connection. Methods raise `Unreachable`."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._tls = parts.scheme == "https"
        self._host = parts.netloc
        self._base = parts.path.rstrip("/")

    def get(self, path: str, limit_s: float) -> Reply:
        return self._send("GET", path, None, limit_s, {})

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | bytes,
        limit_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send JSON. A header with the value "" is not sent."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        wanted = {"Content-Type": "application/json", **(headers or {})}
        return self._send("POST", path, raw, limit_s, {key: value for key, value in wanted.items() if value})

    def _send(self, method: str, path: str, body: bytes | None, limit_s: float, headers: dict[str, str]) -> Reply:
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        connection = kind(self._host, timeout=CONNECT_LIMIT_S if not self._tls else limit_s)
        try:
            connection.connect()
            connection.sock.settimeout(limit_s)
            connection.request(method, self._base + path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers.get("Content-Type", ""), response.read())
        except (OSError, http.client.HTTPException) as exc:
            raise Unreachable(f"{method} {path}: {type(exc).__name__} {exc} (limit {limit_s} s)") from exc
        finally:
            connection.close()
