"""Compiles and runs a model's chat template.

A template is code from a model repository. It runs in jinja2's immutable sandbox with the names that transformers
provides. These are limited: characters of output, characters of one value made by `*`, `+` or `%`, digits made by `**`,
and items of `range`. Everything else (doubling by `~`, `join`, `replace` or captured blocks, widths, other loops) is
limited by the process that runs it (`template_process`). Even so, a request's own template runs only where the operator
trusts it (docs/decisions/0085-a-template-from-a-request.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn, TypeVar

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

T = TypeVar("T")

# Variable that carries the limit of a render; the leading underscore keeps it apart from names in templates.
_LIMIT = "_max_chars"
_MAX_RANGE_ITEMS = 1_000_000
_MAX_POWER_BITS = 4096
_NUMBER = re.compile(r"\d+")

# What evaluating a template's expressions can raise. Anything else is our own defect and must not be hidden.
_EVALUATION_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class TemplateError(Exception):
    """The chat template cannot render the conversation, or cannot run at all; one sentence."""


class TemplateEnded(TemplateError):
    """The renderer was ended before it answered: this says nothing of the template, and a retry may succeed."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for training; here its body is rendered unchanged."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """`namespace()` without names that start with an underscore, which could reach interpreter internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # No `self` in the signature, so that a template may write namespace(self=...), as in jinja2.
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


class _DictFactory:
    """`dict(...)` and `dict.fromkeys(...)` without the type's other attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Range:
    """`range(...)` with a limit on the items of one render."""

    def __init__(self) -> None:
        self._left = _MAX_RANGE_ITEMS

    def __call__(self, *args: int) -> range:
        items = range(*args)
        self._left -= len(items)
        if self._left < 0:
            raise OverflowError("too many range items")
        return items


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if _result_size(operator, left, right) > context.get(_LIMIT, 0):
            raise jinja2.exceptions.SecurityError(f"the result of '{operator}' is too large")
        return super().call_binop(context, operator, left, right)


def _compiling(step: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return step(*args, **kwargs)
    except jinja2.TemplateSyntaxError as exc:
        raise TemplateError(f"The chat template does not compile: {exc.message} (line {exc.lineno}).") from exc
    except _EVALUATION_ERRORS as exc:
        raise TemplateError(f"The chat template does not compile ({type(exc).__name__}).") from exc


class CompiledTemplate:
    """One chat template, ready to render. The result equals transformers' for the same variables."""

    def __init__(self, source: str) -> None:
        """Raises `TemplateError` for a syntax error."""
        self.source = source
        self.tree: jinja2.nodes.Template = _compiling(_ENVIRONMENT.parse, source)

    @cached_property
    def _template(self) -> jinja2.Template:
        """Compiled on first use, because compiling makes jinja2 evaluate constant expressions and filters."""
        return _compiling(_ENVIRONMENT.from_string, source=self.source)

    def compile(self) -> None:
        """Compile now instead of at the first render. Raises `TemplateError`, for example for an unknown filter."""
        self._template  # noqa: B018 - a cached property

    def render(self, variables: Mapping[str, Any], *, max_chars: int) -> str:
        """The rendered text, at most `max_chars` characters. Raises `TemplateError`."""
        pieces: list[str] = []
        room = max_chars
        try:
            for piece in self._template.generate({**variables, _LIMIT: max_chars, "range": _Range()}):
                room -= len(piece)
                if room < 0:
                    raise TemplateError(f"The chat template writes more than {max_chars} characters.")
                pieces.append(piece)
        except jinja2.TemplateError as exc:
            raise TemplateError(str(exc.message or "The chat template refuses this conversation.")) from exc
        except _EVALUATION_ERRORS as exc:
            reason = f"The chat template cannot render this conversation ({type(exc).__name__})."
            raise TemplateError(reason) from exc
        return "".join(pieces)


def _result_size(operator: str, left: Any, right: Any) -> int:
    """Upper bound of the result's length; 0 for results that are always small."""
    if operator == "**":
        bits = left.bit_length() * abs(right) if isinstance(left, int) and isinstance(right, int) else 0
        return 0 if bits <= _MAX_POWER_BITS else bits << 64
    if operator == "*":
        if isinstance(left, int):
            left, right = right, left
        return len(left) * right if isinstance(left, (str, list, tuple)) and isinstance(right, int) else 0
    if operator == "%":
        widths = _NUMBER.findall(left) if isinstance(left, str) else []
        return max((int(width) for width in widths), default=0)
    return len(left) + len(right) if isinstance(left, (str, list, tuple)) and type(left) is type(right) else 0


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace attribute may not start with an underscore: {name[:40]!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON in the form that models were trained on; jinja2's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    filters: dict[str, Callable[..., Any]] = environment.filters
    filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception,
        strftime_now=_strftime_now,
        dict=_DictFactory(),
        namespace=_Namespace,
    )
    return environment


_ENVIRONMENT = _environment()
