"""Errors of the tokenizer library, translated where its Rust side is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class TokenizerError(Exception):
    """A tokenizer that cannot be loaded or that failed on a text; one sentence without a traceback."""


def guarded(failure: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call into the library; its errors and panics become one `TokenizerError` that starts with `failure`.

    pyo3's PanicException derives from BaseException and has no importable name, so it is told by its type's
    name; every other BaseException (a greenlet's exit, a timeout) passes.
    """
    try:
        return function(*args, **kwargs)
    except TokenizerError:
        raise
    except BaseException as exc:
        if type(exc).__name__ == "PanicException":
            raise TokenizerError(f"{failure}: the tokenizer library panicked.") from exc
        if isinstance(exc, Exception):
            reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
            raise TokenizerError(f"{failure}: {reason.rstrip('.')}.") from exc
        raise
