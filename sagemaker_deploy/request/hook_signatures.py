"""The functions of a user's file as its text defines them, compared with how the container calls them.

Sources of names and arguments: sagemaker-inference 1.10.1, sagemaker-huggingface-inference-toolkit 2.6.0, custom
handlers of Inference Endpoints, model-hosting-container-standards 0.1.16.
"""

from __future__ import annotations

import ast
import difflib
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
_METHODS = {"__init__": ("path",), "__call__": ("data",)}

_Function = ast.FunctionDef | ast.AsyncFunctionDef


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
        _check_arguments(path, defined[name], FUNCTIONS[name], "context")
    hints = (
        f"line {defined[name].lineno}: {name} is never called{near}" for name, near in _misspelt(defined, FUNCTIONS)
    )
    return Signatures(frozenset(known), tuple(hints), owns_model="model_fn" in known)


def _handler(path: Path, tree: ast.Module) -> Signatures:
    names = _top_level(tree)
    if _CLASS not in names and not _star_imports(tree):
        raise SpecError(f"{path} defines no class {_CLASS}", remedy=_nearest(names, (_CLASS,)))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == _CLASS), None)
    methods = {node.name: node for node in found.body if isinstance(node, _Function)} if found else {}
    if found and not found.bases and "__call__" not in methods:
        raise SpecError(f"{path} line {found.lineno}: {_CLASS} has no __call__(self, data)")
    takes_model = "__init__" in methods and "model" in _names(methods["__init__"].args)
    for name, arguments in _METHODS.items():
        if name in methods:
            _check_arguments(path, methods[name], ("self", *arguments), "model" if takes_model else "")
    return Signatures(frozenset(names & {_CLASS}), owns_model=not takes_model)


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


def _names(arguments: ast.arguments) -> list[str]:
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _check_arguments(path: Path, function: _Function, called_with: tuple[str, ...], optional: str) -> None:
    """Raise `SpecError` unless `function` takes what it is called with: one argument more if it has just one more.

    As the container and both toolkits count; `optional` is what that argument is, "" if there is none.
    """
    given = function.args
    count = len(_names(given)) + (given.vararg is not None) + (given.kwarg is not None)
    wanted = len(called_with) + (bool(optional) and count == len(called_with) + 1)
    positional = len(given.posonlyargs) + len(given.args)
    most = wanted if given.vararg else positional
    keywords = [one.arg for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    if positional - len(given.defaults) <= wanted <= most and not keywords:
        return
    more = f" or with {optional} after them" if optional else ""
    raise SpecError(
        f"{path} line {function.lineno}: {function.name} is called with ({', '.join(called_with)}){more}, "
        f"and takes ({ast.unparse(given)})"
    )


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
