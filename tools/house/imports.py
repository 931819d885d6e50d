"""Who imports whom, and where imports run in circles."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tools.house.source import Module


@dataclass(frozen=True)
class Import:
    """One module names another. `is_late` if the import stands in a function or below `if TYPE_CHECKING`."""

    importer: str
    imported: str
    is_late: bool


def imports(modules: Mapping[str, Module]) -> set[Import]:
    """All imports between `modules`; `from package import module` names the module."""
    return {
        Import(module.name, name, is_late)
        for module in modules.values()
        for node, is_late in _import_nodes(module.tree, is_late=False)
        for name in _named(node, module, modules)
        if name in modules and name != module.name
    }


def _import_nodes(parent: ast.AST, *, is_late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, is_late
        else:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from _import_nodes(node, is_late=is_late or is_function or for_types)


def _named(node: ast.Import | ast.ImportFrom, module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """For `from a import b` this is `a.b` if that is a module, else `a`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    package = module.path.parent.parts
    above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
    base = ".".join(part for part in (above, node.module or "") if part)
    for alias in node.names:
        yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base


def circles(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Groups whose members all reach each other, each sorted (Tarjan's strongly connected components)."""
    following: dict[str, list[str]] = {}
    for one, other in sorted(arrows):
        following.setdefault(one, []).append(other)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in following.get(node, []):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(following):
        if node not in index:
            visit(node)
    return found


def between_folders(found: set[Import], modules: Mapping[str, Module]) -> Counter[tuple[str, str]]:
    """How many pairs of modules tie one folder to another."""
    pairs = {(one.importer, one.imported) for one in found}
    return Counter(
        (modules[one].folder, modules[other].folder)
        for one, other in pairs
        if modules[one].folder != modules[other].folder
    )
