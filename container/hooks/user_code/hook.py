"""The seam of a user's code: what goes in, what comes out, and how it fails.

`container.hooks.user_code.files.find` names the files, `container.hooks.user_code.load.load` gives a `Hook`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec
from sagemaker_inference import parameters

from handler.seam.code_names import STANDARDS

# Middlewares of model-hosting-container-standards that are classes or functions of an ASGI application.
_BOUND_TO_FASTAPI = ("CUSTOM_FASTAPI_MIDDLEWARE_THROTTLE", "CUSTOM_FASTAPI_MIDDLEWARE_PRE_POST_PROCESS")


class Convention(StrEnum):
    """Whose rules a file's functions follow."""

    SAGEMAKER = "sagemaker-inference"
    HUGGING_FACE = "sagemaker-huggingface-inference-toolkit"
    ENDPOINTS = "inference-endpoints"
    STANDARDS = "model-hosting-container-standards"


class HookSources(msgspec.Struct, frozen=True):
    """What the environment says about a user's code. Empty: unset, as the SageMaker SDK injects empty values."""

    program: str = ""
    submit_directory: str = ""
    default_accept: str = "application/json"
    script: str = STANDARDS
    pre_process: str = ""
    post_process: str = ""
    ping_handler: str = ""
    invocation_handler: str = ""
    # Names of variables that are set and that only a FastAPI application can honour.
    bound_to_fastapi: tuple[str, ...] = ()

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> HookSources:
        """Read the variables of sagemaker-inference 1.10.1 and of model-hosting-container-standards 0.1.16."""
        return cls(
            program=environ.get(parameters.USER_PROGRAM_ENV, ""),
            submit_directory=environ.get("SAGEMAKER_SUBMIT_DIRECTORY", ""),
            default_accept=environ.get(parameters.DEFAULT_INVOCATIONS_ACCEPT_ENV) or "application/json",
            script=environ.get("CUSTOM_SCRIPT_FILENAME") or STANDARDS,
            pre_process=environ.get("CUSTOM_PRE_PROCESS", ""),
            post_process=environ.get("CUSTOM_POST_PROCESS", ""),
            ping_handler=environ.get("CUSTOM_FASTAPI_PING_HANDLER", ""),
            invocation_handler=environ.get("CUSTOM_FASTAPI_INVOCATION_HANDLER", ""),
            bound_to_fastapi=tuple(name for name in _BOUND_TO_FASTAPI if environ.get(name)),
        )


class HookFiles(msgspec.Struct, frozen=True):
    """The file with a user's functions, and where it stands."""

    convention: Convention
    # The Python file; None: only functions of installed modules, named by variables.
    path: Path | None
    # Stands first in sys.path, so that the file imports its neighbours.
    directory: Path
    # What model_fn and EndpointHandler are given.
    model_directory: Path
    sources: HookSources
    # requirements.txt beside the file, else the one of the model's directory; None: there is none.
    requirements: Path | None = None
    # Other files with a hook's name, which do not run because `path` does.
    unused: tuple[Path, ...] = ()


class HookRequest(msgspec.Struct, frozen=True):
    """One HTTP request for a user's code."""

    request_id: str
    body: bytes
    # As sent; None: no such header.
    content_type: str | None
    accept: str | None
    # Names in lower case.
    headers: tuple[tuple[str, str], ...]
    query: tuple[tuple[str, str], ...]


class HookAnswer(msgspec.Struct, frozen=True):
    """What a user's code answers."""

    status: int
    content_type: str | None
    headers: tuple[tuple[str, str], ...]
    # An iterator: parts to send as they come, an async one only of an async hook. Its next() may raise HookError. Close
    # it if nobody reads on.
    body: bytes | Iterator[bytes] | AsyncIterator[bytes]


class Hook(Protocol):
    """A user's loaded code. Thread-safe."""

    # True: `call` and `ping` return awaitables, to run on the one event loop of the process.
    is_async: bool
    overrides_ping: bool
    # It loads its own model: the engine is not needed.
    owns_model: bool

    def call(self, request: HookRequest) -> HookAnswer | Awaitable[HookAnswer]:
        """Answer a request. Raises HookError."""

    def ping(self) -> HookAnswer | Awaitable[HookAnswer]:
        """Answer /ping; asked only if `overrides_ping`. Raises HookError."""


class HookError(Exception):
    """A request that a user's code did not answer.

    `message` is for the client and never a traceback. The cause (`__cause__`), if any, is for the log.
    `retry_after_s`: when to try again, if the error says so.
    """

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status
        self.message = message


class HookLoadError(Exception):
    """A user's code cannot be used; the message is one line. The cause (`__cause__`), if any, is for the log."""
