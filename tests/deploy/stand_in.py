"""A tiny container that keeps the contract, for the days and machines on which the real one does not run.

It answers as the real container does in everything the deploy tests look at, never more. `{"messages": …}` is
echoed in a chat completion; a few marker texts make it fail the way a container can.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = "naïve café ☃ 雪だるま 🙂 answer"
DROP, HANG, BOOM = "drop the connection", "never answer", "crash"
# Ends that look regular to the platform: between two events but early, and inside one.
EARLY, INSIDE = "end early", "end inside an event"


class StandInContainer:
    """Serves on a free loopback port between `start` and `stop`."""

    def start(self) -> str:
        """Return the base URL."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        routes = {
            "/ping": ("text/plain", b""),
            "/health": ("text/plain", b""),
            "/metrics": (
                "text/plain; version=0.0.4",
                b"# TYPE tgi_request_count counter\ntgi_request_count 0\n",
            ),
            "/v1/models": ("application/json", b'{"object":"list","data":[{"id":"m","object":"model"}]}'),
        }
        kind, body = routes.get(self.path, ("", None))
        if body is None:
            return self._error(404, "not found")
        return self._send(200, kind, body)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(raw)
            prompt = body.get("inputs") or body.get("prompt") or body["messages"][-1]["content"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return self._error(422, "body must hold messages, prompt or inputs")
        if prompt == BOOM:
            return self._error(500, "engine died")
        if prompt == HANG:
            time.sleep(5)
        if body.get("stream"):
            return self._stream(prompt)
        if "inputs" in body:
            return self._send(200, "application/json", json.dumps([{"generated_text": ANSWER}]).encode())
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= {"text": ANSWER} if "prompt" in body else {"message": {"role": "assistant", "content": ANSWER}}
        reply = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return self._send(200, "application/json", json.dumps(reply, ensure_ascii=False).encode())

    def _stream(self, prompt: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self._events(prompt):
            data = event.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if prompt == DROP:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _events(self, prompt: str) -> Iterator[str]:
        yield ": keep-alive\n\n"
        words = ANSWER.split(" ")
        for i, word in enumerate(words):
            if prompt in (DROP, EARLY, INSIDE) and i == 2:
                if prompt == INSIDE:
                    yield 'data: {"choices":[{"index":0,"del'
                return
            delta = {
                "index": 0,
                "delta": {"content": word + " " * (i < len(words) - 1)},
                "finish_reason": None,
            }
            chunk = {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [delta],
            }
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
        yield 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        yield "data: [DONE]\n\n"

    def _error(self, status: int, message: str) -> None:
        body = json.dumps({"error": message, "error_type": "validation"}).encode()
        self._send(status, "application/json", body)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        attributes = self.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        if attributes:
            self.send_header("X-Amzn-SageMaker-Custom-Attributes", attributes)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
