"""The functions of a user's file as its text defines them, compared with how the container calls them.

Sources of names and arguments: sagemaker-inference 1.10.1, sagemaker-huggingface-inference-toolkit 2.6.0, custom
handlers of Inference Endpoints, model-hosting-container-standards 0.1.16. The rules are those of
container/hooks/user_code/, which this package may not import; tests/unit/hooks/test_deploy_check.py compares both.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sagemaker_deploy.errors import SpecError

# The image's Python.
_PYTHON = (3, 11)
# Arguments of each function; all of inference.py's may take the context too.
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "pre_model_fn": ("model_dir",),
    "model_fn": ("model_dir",),
    "model_warmup_fn": ("model_dir", "model"),
    "input_fn": ("body", "content_type"),
    "predict_fn": ("data", "model"),
    "predict_fn_batch": ("data", "model"),
    "output_fn": ("prediction", "accept"),
    "transform_fn": ("model", "body", "content_type", "accept"),
}
_AROUND = ("pre_model_fn", "model_warmup_fn")
_ANSWERING = ("input_fn", "predict_fn", "predict_fn_batch", "output_fn", "transform_fn")
_STANDARDS = ("custom_sagemaker_ping_handler", "custom_sagemaker_invocation_handler")
_PACKAGE = "model_hosting_container_standards"
_CLASS = "EndpointHandler"
# Bases without a constructor of their own.
_PLAIN_BASES = {"object", "ABC"}

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class _Elsewhere(Exception):
    """The text of this file does not say."""


@dataclass(frozen=True)
class Signatures:
    """`names` are the top-level names of the file that the container knows; `hints` what may be misspelt.

    `owns_model`: the code loads its own model, by model_fn or by a constructor without a parameter `model`.
    """

    names: frozenset[str]
    hints: tuple[str, ...] = ()
    owns_model: bool = False


def read_signatures(path: Path) -> Signatures:
    """Read inference.py, handler.py or model.py. Raises `SpecError` if the container could not call what it defines."""
    try:
        tree = ast.parse(path.read_bytes(), str(path), feature_version=_PYTHON)
    except (SyntaxError, ValueError) as exc:
        line = getattr(exc, "lineno", None)
        raise SpecError(f"{path}{f' line {line}' if line else ''} is not Python: {getattr(exc, 'msg', exc)}") from exc
    check = {"inference.py": _inference, "handler.py": _handler}.get(path.name, _model)
    return check(path, tree)


def _inference(path: Path, tree: ast.Module) -> Signatures:
    names, defined = _top_level(tree), _functions(tree)
    known = names & FUNCTIONS.keys()
    if not known - {*_AROUND} and not _star_imports(tree):
        raise SpecError(f"{path} defines none of {', '.join(FUNCTIONS)}", remedy=_nearest(names, FUNCTIONS))
    beside = sorted(known & {*_ANSWERING} - {"transform_fn"})
    if "transform_fn" in known and beside:
        raise SpecError(f"{path} defines transform_fn, which takes the place of {', '.join(beside)}; define either")
    for name in sorted(known & defined.keys()):
        _check_function(path, defined[name], FUNCTIONS[name])
    hints = [
        f"line {defined[name].lineno}: {name} is never called{near}" for name, near in _misspelt(defined, FUNCTIONS)
    ]
    if {"predict_fn", "predict_fn_batch"} <= known:
        hints.append("has predict_fn_batch, so its predict_fn is never called")
    return Signatures(frozenset(known), tuple(hints), owns_model="model_fn" in known)


def _handler(path: Path, tree: ast.Module) -> Signatures:
    names = _top_level(tree)
    if _CLASS not in names and not _star_imports(tree):
        raise SpecError(f"{path} defines no class {_CLASS}", remedy=_nearest(names, (_CLASS,)))
    defined = dict(_definitions(tree.body))
    found = defined.get(_CLASS)
    if isinstance(found, ast.ClassDef):
        if not found.bases and "__call__" not in set(_bound(found.body)):
            raise SpecError(f"{path} line {found.lineno}: {_CLASS} has no __call__(self, data)")
        for method in found.body:
            if isinstance(method, _Function) and method.name == "__call__":
                _check_call(path, method, ("self", "data"))
    try:
        takes_model = _takes_model(path, _constructor(_CLASS, defined))
    except _Elsewhere:
        hint = f"has an {_CLASS} whose constructor is not in it: taken as one that loads its own model"
        return Signatures(frozenset(names & {_CLASS}), (hint,), owns_model=True)
    return Signatures(frozenset(names & {_CLASS}), owns_model=not takes_model)


def _takes_model(path: Path, constructor: _Function | None) -> bool:
    """Whether the handler is made with our model. Raises `SpecError` if it cannot be made as the container does."""
    if constructor is None:
        raise SpecError(f"{path}: {_CLASS} has no __init__(self, path)")
    takes_model = "model" in _signature(constructor.args).parameters
    start = () if constructor.name == _CLASS else ("self",)
    _check_call(path, constructor, (*start, "path"), ("model",) if takes_model else ())
    return takes_model


def _constructor(name: str, defined: dict[str, ast.AST]) -> _Function | None:
    """The function that makes a `name`: itself, or its class's or the first base's `__init__`; None: there is none.

    Raises `_Elsewhere`.
    """
    node, others = defined.get(name), {other: found for other, found in defined.items() if other != name}
    if isinstance(node, ast.Name):
        return _constructor(node.id, others)
    if isinstance(node, _Function):
        return node
    if not isinstance(node, ast.ClassDef):
        raise _Elsewhere
    own = dict(_definitions(node.body))
    if "__init__" in own:
        return _constructor("__init__", own)
    if node.decorator_list or node.keywords or "__new__" in own:
        raise _Elsewhere
    for base in node.bases:
        base_name = base.id if isinstance(base, ast.Name) else ""
        found = None if base_name in _PLAIN_BASES else _constructor(base_name, others)
        if found is not None:
            return found
    return None


def _definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Functions and classes by name, also inside `if` and `try`, and names that are another name for one."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            yield from ((one.id, node.value) for one in node.targets if isinstance(one, ast.Name))
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            for field in ("body", "orelse", "finalbody"):
                yield from _definitions(getattr(node, field, []))


def _model(path: Path, tree: ast.Module) -> Signatures:
    """AWS's model.py: functions of two names, or functions of any name that its package decorates."""
    names = _top_level(tree)
    if not names & {*_STANDARDS} and _PACKAGE not in path.read_text(errors="replace"):
        raise SpecError(f"{path} defines none of {', '.join(_STANDARDS)}", remedy=_nearest(names, _STANDARDS))
    return Signatures(frozenset(names & {*_STANDARDS}))


def _functions(tree: ast.Module) -> dict[str, _Function]:
    return {node.name: node for node in tree.body if isinstance(node, _Function)}


def _top_level(tree: ast.Module) -> set[str]:
    """All names that the file's top level binds, also inside `if` and `try`."""
    return set(_bound(tree.body))


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            for field in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _bound(handler.body)
        else:
            yield from (
                one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
            )


def _star_imports(tree: ast.Module) -> bool:
    """True if names may come from `from x import *`."""
    return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body)


def _signature(given: ast.arguments) -> inspect.Signature:
    """What `inspect` says of the function once it is imported; defaults are None."""
    kind, empty = inspect.Parameter, inspect.Parameter.empty
    positional = [*given.posonlyargs, *given.args]
    kinds = [kind.POSITIONAL_ONLY] * len(given.posonlyargs) + [kind.POSITIONAL_OR_KEYWORD] * len(given.args)
    defaults = [empty] * (len(positional) - len(given.defaults)) + [None] * len(given.defaults)
    found = [kind(one.arg, its, default=default) for one, its, default in zip(positional, kinds, defaults, strict=True)]
    found += [] if given.vararg is None else [kind(given.vararg.arg, kind.VAR_POSITIONAL)]
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append(kind(one.arg, kind.KEYWORD_ONLY, default=empty if default is None else None))
    found += [] if given.kwarg is None else [kind(given.kwarg.arg, kind.VAR_KEYWORD)]
    return inspect.Signature(found)


def _check_function(path: Path, function: _Function, called_with: tuple[str, ...]) -> None:
    """Raise `SpecError` unless it can be called so, or with the context too if it has just one parameter more.

    As the container and both toolkits count.
    """
    count = len(_signature(function.args).parameters)
    context = ("context",) if count == len(called_with) + 1 else ()
    _check_call(path, function, (*called_with, *context), says=f"({', '.join(called_with)}) or with context after them")


def _check_call(
    path: Path, function: _Function, given: tuple[str, ...], keywords: tuple[str, ...] = (), says: str = ""
) -> None:
    """Raise `SpecError` unless `function` takes these arguments by position, and these by keyword."""
    try:
        _signature(function.args).bind(*given, **dict.fromkeys(keywords))
    except TypeError as exc:
        shown = ", ".join((*given, *(f"{name}={name}" for name in keywords)))
        raise SpecError(
            f"{path} line {function.lineno}: {function.name} is called with {says or f'({shown})'}, "
            f"and takes ({ast.unparse(function.args)})"
        ) from exc


def _misspelt(defined: dict[str, _Function], known: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for name in sorted(defined.keys() - known.keys()):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if near:
            yield name, f"; is {near[0]} meant?"


def _nearest(names: set[str], known: tuple[str, ...] | dict[str, tuple[str, ...]]) -> str:
    for name in sorted(names):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        if near:
            return f"is {near[0]} meant by {name}?"
    return ""
