"""One request to a container, bounded by a wall-clock limit as the platform bounds it."""

from __future__ import annotations

import http.client
import time
import urllib.parse
from collections.abc import Iterator, Mapping


class CallOverran(Exception):
    """The container did not finish within the limit."""


class CallBroken(Exception):
    """The container refused the connection or dropped it before the end of its reply."""


class ContainerCall:
    """An open request; `status` and `headers` are set once the container has begun to answer.

    Raises `CallOverran` when `limit_s` has passed since the start, `CallBroken` when the connection fails;
    both may come from the constructor or, later, from `chunks`. `received` is the body as far as it has come.
    """

    def __init__(
        self,
        url: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        limit_s: float,
        connect_s: float,
        method: str = "POST",
    ) -> None:
        self._deadline = time.monotonic() + limit_s
        self._response: http.client.HTTPResponse | None = None
        self.received = b""
        host = urllib.parse.urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(host, timeout=connect_s)
        try:
            self._connection.connect()
            self._sock = self._connection.sock
            self._arm()
            self._connection.request(method, path, body, dict(headers))
            self._response = self._connection.getresponse()
        except TimeoutError as exc:
            self.close()
            raise CallOverran from exc
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            raise CallBroken(str(exc)) from exc
        self.status = self._response.status
        self.headers = self._response.headers

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives, in pieces of no particular size."""
        try:
            while True:
                self._arm()
                data = self._response.read1(65536)
                if not data:
                    self._check_complete()
                    return
                self.received += data
                yield data
        except TimeoutError as exc:
            raise CallOverran from exc
        except (OSError, http.client.HTTPException) as exc:
            raise CallBroken(str(exc)) from exc
        finally:
            self.close()

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.chunks())

    def close(self) -> None:
        """Drop the connection, which tells the container that nobody listens any more."""
        self._connection.close()
        if self._response is not None:
            self._response.close()

    def _arm(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)

    def _check_complete(self) -> None:
        """`read1` reports the early end of a reply with Content-Length as an ordinary end."""
        if self._response.length:
            raise http.client.IncompleteRead(b"", self._response.length)
