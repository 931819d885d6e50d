"""The `context` that a user's function may take: multi-model-server's, for one request."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from container.hooks.user_code.hook import HookRequest
from container.version import VERSION

logger = logging.getLogger(__name__)


class RequestProcessor:
    """Headers of the request, and what is to be the answer's head."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers
        self._answer: dict[str, str] = {}
        self.status: int | None = None
        self.phrase: str | None = None

    def get_request_properties(self) -> dict[str, str]:
        """All headers of the request."""
        return self._headers

    def get_request_property(self, key: str) -> str | None:
        """One header of the request, in any case of letters; None: it has none."""
        return self._headers.get(key) or self._headers.get(key.lower())

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """The answer's status; an answer has no phrase of its own here."""
        self.status, self.phrase = code, reason_phrase

    def get_response_status_code(self) -> int:
        """The answer's status."""
        return 200 if self.status is None else self.status

    def get_response_status_phrase(self) -> str | None:
        """The phrase given with the status."""
        return self.phrase

    def add_response_property(self, key: str, value: str) -> None:
        """A header of the answer."""
        self._answer[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """Headers of the answer set so far."""
        return self._answer

    def get_response_header(self, key: str) -> str | None:
        """A header of the answer."""
        return self._answer.get(key)


class Metrics:
    """multi-model-server wrote a hook's metrics to the log; so does this."""

    def _log(self, name: str, value: float, idx: int | None = None, unit: str | None = None, **_other: Any) -> None:
        logger.info("metric of the hook: %s %s %s", name, value, unit or "")

    add_counter = add_time = add_size = add_percent = add_error = add_metric = _log


class Context:
    """multi-model-server 1.1.11's Context of one request. `idx` is 0 everywhere: a request is no batch here."""

    def __init__(self, model_directory: Path, request: HookRequest | None = None) -> None:
        """`request` is None while the model is loaded."""
        self.model_name = "model"
        self.manifest: dict[str, Any] = {}
        self.metrics = Metrics()
        self.system_properties: dict[str, Any] = {
            "model_dir": str(model_directory),
            "gpu_id": None,
            "batch_size": 1,
            "server_name": "tgi-heir",
            "server_version": VERSION,
        }
        headers = {} if request is None else dict(request.headers)
        if request is not None and request.content_type is not None:
            headers.setdefault("content-type", request.content_type)
        self.request_ids = {} if request is None else {0: request.request_id}
        self.request_processor = [RequestProcessor(headers)]

    def get_request_id(self, idx: int = 0) -> str | None:
        """The request's id."""
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> str | None:
        """One header of the request."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        """All headers of the request; names are in lower case."""
        return self.request_processor[idx].get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        """The answer's media type."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """The answer's media type set so far."""
        return self.get_response_headers(idx).get("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """A header of the answer."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Headers of the answer set so far."""
        return self.request_processor[idx].get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """The answer's status."""
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """The answer's status."""
        self.set_response_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """The answer's status set so far, with its phrase."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()
