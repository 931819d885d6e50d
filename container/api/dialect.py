"""What the application needs of a dialect, and which dialects there are: the folders here that have one."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from flask import Blueprint, Response

from container import api
from container.errors import ServiceError
from container.serving.served_model import ServedModel
from container.settings import Settings

WriteLimits = Callable[[dict[str, Any], Settings, ServedModel], None]


def _no_limits(_schemas: dict[str, Any], _settings: Settings, _served: ServedModel) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One folder of container/api; its package has it as `dialect`.

    `error_response` tells an error as its clients expect it, also for paths that begin with `prefix` and lead nowhere.
    `write_limits` tightens the schemas of its types in the OpenAPI document by what settings and model allow.
    """

    blueprint: Blueprint
    error_response: Callable[[ServiceError], Response]
    prefix: str
    write_limits: WriteLimits = _no_limits

    @property
    def name(self) -> str:
        """The name `g.dialect` has while one of its requests is answered."""
        return self.blueprint.name


def all_dialects() -> tuple[Dialect, ...]:
    """Every dialect, found by its folder, in the order of their names."""
    names = (module.name for module in pkgutil.iter_modules(api.__path__) if module.ispkg)
    packages = (import_module(f"{api.__name__}.{name}") for name in sorted(names))
    return tuple(package.dialect for package in packages if hasattr(package, "dialect"))


def speaking(dialects: tuple[Dialect, ...], name: str | None, path: str) -> Dialect:
    """The dialect of that name, else the one with the longest prefix of `path`."""
    named = next((dialect for dialect in dialects if dialect.name == name), None)
    fitting = (dialect for dialect in dialects if path.startswith(dialect.prefix))
    return named or max(fitting, key=lambda dialect: len(dialect.prefix))
