"""Renders templates in a separate process (`template_process`), so that none blocks or fills a web worker."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from container.text.template_process import MAX_CPU_S, MAX_MEMORY_BYTES, receive, send
from container.text.template_sandbox import CompiledTemplate, TemplateEnded, TemplateError

# Much more than MAX_CPU_S: on a busy machine one second of processor time may take many seconds.
_MAX_WAIT_S = 60.0
_ENDED = f"The chat template takes more than {MAX_CPU_S:g} s or {MAX_MEMORY_BYTES >> 20} MiB for this conversation."


class Renderer(Protocol):
    """Runs templates."""

    def compile(self, template: CompiledTemplate) -> None:
        """Check that the template compiles. Raises `TemplateError`."""

    def render(self, template: CompiledTemplate, variables: Mapping[str, Any], *, max_chars: int) -> str:
        """As `CompiledTemplate.render`. Raises `TemplateError`; `TemplateEnded` if it was not answered."""


class InProcess:
    """Runs templates in this process, for tools and tests that trust them."""

    def compile(self, template: CompiledTemplate) -> None:
        """As `Renderer.compile`."""
        template.compile()

    def render(self, template: CompiledTemplate, variables: Mapping[str, Any], *, max_chars: int) -> str:
        """As `Renderer.render`."""
        return template.render(variables, max_chars=max_chars)


class RenderProcess:
    """Runs templates in one child process, started on first use and restarted after it was killed.

    Renders run one at a time. Waiting lets other greenlets run, because gevent has patched lock and socket.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def render(self, template: CompiledTemplate, variables: Mapping[str, Any], *, max_chars: int) -> str:
        """As `Renderer.render`. `variables` are JSON values."""
        return self._asked([template.source, dict(variables), max_chars])

    def compile(self, template: CompiledTemplate) -> None:
        """As `Renderer.compile`."""
        self._asked([template.source, None, 0])

    def close(self) -> None:
        """End the process."""
        connection, process = self._connection, self._process
        self._connection = self._process = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.wait()

    def _asked(self, request: list[Any]) -> str:
        with self._lock:
            answer = self._exchange(request)
        if "error" in answer:
            raise TemplateError(answer["error"])
        return answer["text"]

    def _exchange(self, request: list[Any]) -> dict[str, str]:
        connection = self._connected()
        answered = False
        try:
            send(connection, request)
            answer: dict[str, str] = receive(connection)
            answered = True
        except (OSError, EOFError) as exc:
            raise TemplateEnded(_ENDED) from exc
        finally:
            # After a broken exchange the socket may hold half a frame; the next exchange needs a new one.
            if not answered:
                self.close()
        return answer

    def _connected(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._connection is None:
            ours, theirs = socket.socketpair()
            ours.settimeout(_MAX_WAIT_S)
            with theirs:
                number = theirs.fileno()
                command = [sys.executable, "-m", "container.text.template_process", str(number)]
                self._process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.DEVNULL)  # noqa: S603
            self._connection = ours
        return self._connection
