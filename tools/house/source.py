"""The modules of a checkout and their syntax trees. Nothing is imported, so an old checkout can be read too."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("container", "handler", "model_memory", "sagemaker_deploy", "tools")


@dataclass(frozen=True)
class Module:
    """`name` is dotted; a package has its own name. `path` is relative to the checkout."""

    name: str
    path: Path
    num_lines: int
    tree: ast.Module

    @property
    def folder(self) -> str:
        """The folder that holds the file, with slashes."""
        return self.path.parent.as_posix()


def read(root: Path) -> dict[str, Module]:
    """Every module below PACKAGES by name. Raises SyntaxError, and ValueError if there is none."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            text, place = path.read_text("utf-8"), path.relative_to(root)
            name = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
            found[name] = Module(name, place, len(text.splitlines()), ast.parse(text, str(place)))
    if not found:
        raise ValueError(f"{root} holds none of {', '.join(PACKAGES)}")
    return found
