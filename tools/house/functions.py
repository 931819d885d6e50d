"""How long functions are, and how many are annotated in full."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from tools.house.source import Module


@dataclass(frozen=True)
class Function:
    """One `def`; `num_lines` counts its signature, docstring and body, without decorators."""

    name: str
    module: Module
    line: int
    num_lines: int
    is_annotated: bool


def functions(modules: Iterable[Module]) -> list[Function]:
    """Every function and method, nested ones too."""
    return [
        Function(node.name, module, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1, _annotated(node))
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _annotated(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """All parameters but `self` and `cls`, and the result."""
    given = node.args
    rest = [one for one in (given.vararg, given.kwarg) if one]
    named = [one for one in (*given.posonlyargs, *given.args) if one.arg not in {"self", "cls"}]
    return node.returns is not None and all(one.annotation for one in (*named, *given.kwonlyargs, *rest))
