"""Translates errors of the tokenizer library, whose Rust side can panic."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class TokenizerError(Exception):
    """A tokenizer cannot be loaded or failed on a text; one sentence, no traceback."""


def guarded(failure: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call the library; turn its errors and panics into a `TokenizerError` that starts with `failure`.

    pyo3's PanicException derives from BaseException and cannot be imported, so it is recognised by its type's name. Any
    other BaseException (a greenlet's exit, a timeout) propagates.
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
