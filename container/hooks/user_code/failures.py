"""What a user's code raised, as an answer: its message, never its traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from numbers import Integral

from sagemaker_inference import errors

from container.hooks.model.errors import ModelError
from container.hooks.user_code.hook import HookError

UNSUPPORTED_BODY = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
UNSUPPORTED_ACCEPT = HTTPStatus.NOT_ACCEPTABLE


@contextmanager
def hook_errors() -> Iterator[None]:
    """Raise HookError for every exception of a user's code within; the exception is its cause."""
    try:
        yield
    except HookError:
        raise
    except Exception as exc:
        raise hook_error(exc) from exc


def hook_error(exc: Exception) -> HookError:
    """400 with the exception's own message, or the status and message that it carries.

    It carries them as ModelError, as sagemaker-inference's BaseInferenceToolkitError, as multi-model-server's
    PredictionException (`error_code`, `message`) or as an HTTPException (`status_code`, `detail`).
    """
    if isinstance(exc, HookError):
        return exc
    if isinstance(exc, ModelError):
        return HookError(_status(exc.status), str(exc.message), exc.retry_after_s)
    if isinstance(exc, errors.BaseInferenceToolkitError):
        return HookError(_status(exc.status_code), str(exc.message))
    for status, message in (("error_code", "message"), ("status_code", "detail")):
        if isinstance(getattr(exc, status, None), Integral) and hasattr(exc, message):
            return HookError(_status(getattr(exc, status)), str(getattr(exc, message)))
    return HookError(HTTPStatus.BAD_REQUEST, message_of(exc))


def message_of(exc: BaseException) -> str:
    """The exception's own text, or its type's name. KeyError's text is a bare key."""
    # What Python makes of a StopIteration that leaves a coroutine or a generator, whose message is its own.
    if isinstance(exc, RuntimeError) and isinstance(exc.__cause__, StopIteration | StopAsyncIteration):
        return f"{type(exc.__cause__).__name__}: {message_of(exc.__cause__)}"
    name = type(exc).__name__
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - the class is the user's
        return name
    return f"{name}: {text}" if isinstance(exc, KeyError) else text or name


def _status(status: int) -> int:
    """A status that an error may have."""
    return int(status) if 400 <= status <= 599 else HTTPStatus.BAD_REQUEST
