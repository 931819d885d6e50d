"""POST requests to this server over loopback, with connections that are kept. Blocking and thread-safe."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

import msgspec
import urllib3

from container.hooks.model.errors import ModelError
from container.hooks.model.exchange import Exchange, SharedPool, current_exchange

# Connections kept open; more are opened when needed.
_KEPT = 256
_CONNECT_S = 5.0
_DONE = b"[DONE]"
# Of a request that is handed on, these are left out: the connection is another, the body may have changed, and the
# client's credentials and id are not those of the hook's own request.
_NOT_HANDED_ON = frozenset(
    {
        *("connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade", "authorization", "proxy-authorization", "x-api-key", "x-request-id"),
    }
)


class Reply(msgspec.Struct, frozen=True):
    """An answer of any status. `body`: bytes, or, for server-sent events, pieces as they come."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | Iterator[bytes]


class Connection:
    """The server at `url`. `timeout_s` bounds the wait for each piece of an answer.

    Every call raises CallEnded as soon as nobody waits any more for the request whose hook makes it.
    """

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._pool = urllib3.PoolManager(
            maxsize=_KEPT, retries=False, timeout=urllib3.Timeout(connect=_CONNECT_S, read=timeout_s)
        )
        self._pool.pool_classes_by_scheme = {"http": SharedPool}

    def call(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """The JSON that the server answers. Raises ModelError."""
        opened = self._send(path, msgspec.json.encode(body), {"content-type": "application/json", **headers})
        raw = _read(opened)
        if opened.response.status >= 400:
            raise _error(opened.response, raw)
        return msgspec.json.decode(raw)

    def events(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Generator[Any, None, None]:
        """The JSON of each event, as it comes. Raises ModelError, at once and for an event that is an error."""
        opened = self._send(path, msgspec.json.encode(body), {"content-type": "application/json", **headers})
        if opened.response.status >= 400:
            raise _error(opened.response, _read(opened))
        return _events(opened)

    def forward(self, path: str, body: bytes, headers: Mapping[str, str], own: Mapping[str, str]) -> Reply:
        """The answer as it is, to a client's `headers`, over which `own` win.

        Raises ModelError only if there is none.
        """
        handed_on = {name.lower(): value for name, value in headers.items() if name.lower() not in _NOT_HANDED_ON}
        opened = self._send(path, body, {**handed_on, **own})
        response = opened.response
        found = tuple((name.lower(), value) for name, value in response.headers.items())
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        return Reply(response.status, found, _pieces(opened) if is_stream else _read(opened))

    def _send(self, path: str, body: bytes, headers: Mapping[str, str]) -> _Opened:
        """Names of `headers` are in lower case, so that none is sent twice."""
        exchange = Exchange()
        token = current_exchange.set(exchange)
        try:
            response = self._pool.request(
                "POST", self._url + path, body=body, headers={**headers, **self._headers}, preload_content=False
            )
        except BaseException as exc:
            exchange.close()
            if isinstance(exc, urllib3.exceptions.HTTPError):
                raise exchange.lost(exc) from exc
            raise
        finally:
            current_exchange.reset(token)
        return _Opened(response, exchange)


class _Opened(msgspec.Struct, frozen=True):
    """An answer whose head has come."""

    response: urllib3.BaseHTTPResponse
    exchange: Exchange


def _read(opened: _Opened) -> bytes:
    """The whole body; the connection is free again."""
    try:
        return opened.response.read()
    except urllib3.exceptions.HTTPError as exc:
        raise opened.exchange.lost(exc) from exc
    finally:
        opened.exchange.close()
        opened.response.release_conn()


def _pieces(opened: _Opened) -> Generator[bytes, None, None]:
    """Pieces of a body. Whoever stops reading closes the connection, so that the server stops too."""
    response = opened.response
    try:
        yield from response.stream()
    except urllib3.exceptions.HTTPError as exc:
        raise opened.exchange.lost(exc) from exc
    finally:
        opened.exchange.close()
        if response.closed:
            response.release_conn()
        else:
            response.close()


def _events(opened: _Opened) -> Generator[Any, None, None]:
    rest = b""
    with closing(_pieces(opened)) as pieces:
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not line.startswith(b"data:") or (data := line[5:].strip()) == _DONE:
                    continue
                event = msgspec.json.decode(data)
                if isinstance(event, dict) and event.get("error"):
                    raise _model_error(_status(event["error"]), data)
                yield event


def _error(response: urllib3.BaseHTTPResponse, raw: bytes) -> ModelError:
    after = response.headers.get("retry-after", "")
    return _model_error(response.status, raw, int(after) if after.isascii() and after.isdigit() else None)


def _model_error(status: int, raw: bytes, retry_after_s: int | None = None) -> ModelError:
    """The message of OpenAI's `{"error": {"message", "type"}}` or of TGI's `{"error", "error_type"}`."""
    try:
        found = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        found = None
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        return ModelError(status, str(error.get("message", "")), str(error.get("type", "")), retry_after_s)
    if isinstance(found, dict) and isinstance(error, str):
        return ModelError(status, error, str(found.get("error_type", "")), retry_after_s)
    text = raw.decode(errors="replace").strip() or f"the server answered {status}"
    return ModelError(status, text, retry_after_s=retry_after_s)


def _status(error: Any) -> int:
    """The status of an error within a stream, whose head said 200."""
    code = error.get("http_status_code") or error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else 500
