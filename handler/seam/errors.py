"""Errors of the engine process. A startup error is one sentence, logged without a traceback, and an exit code."""

from __future__ import annotations


class StartupError(Exception):
    """Base of all errors that end the engine before it is ready. 70 is EX_SOFTWARE of sysexits.h."""

    exit_code = 70


class BadConfiguration(StartupError):
    """A setting is impossible for this model or machine."""

    exit_code = 2


class BadModel(StartupError):
    """The model is missing, damaged or refused."""

    exit_code = 3


class UnsupportedModel(BadModel):
    """The model is sound, but no runner computes it correctly."""


class EngineBroken(Exception):
    """The engine cannot compute anything any more; only a new process helps."""


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The text of `error` on one line, cut to `limit` characters; an exception without text yields its class name."""
    text = " ".join(str(error).split())[:limit]
    return text or ("" if isinstance(error, str) else type(error).__name__)
