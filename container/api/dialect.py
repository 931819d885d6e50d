"""What the application needs of a dialect, and which dialects there are: the packages here that define one."""

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
    """One package of container/api, which has it as `dialect`.

    `error_response` writes an error as its clients expect it, also for unknown paths that begin with `prefix`.
    `write_limits` tightens the schemas of its types in the OpenAPI document to what settings and model allow. `about`
    says in the log what the dialect makes of a loaded model; it may raise TemplateError. `id_header` is where its
    clients look for the request's id, if not in `X-Request-Id` alone.
    """

    name: str
    blueprints: tuple[Blueprint, ...]
    error_response: Callable[[ServiceError], Response]
    prefix: str
    write_limits: WriteLimits = _no_limits
    about: Callable[[ServedModel], str] | None = None
    id_header: str | None = None


def all_dialects() -> dict[str, Dialect]:
    """Every dialect by its name: the packages of container/api that define one, in the order of their names."""
    names = (module.name for module in pkgutil.iter_modules(api.__path__) if module.ispkg)
    packages = (import_module(f"{api.__name__}.{name}") for name in sorted(names))
    found: tuple[Dialect, ...] = tuple(package.dialect for package in packages if hasattr(package, "dialect"))
    return {dialect.name: dialect for dialect in found}


def dialect_of_route(dialects: dict[str, Dialect], blueprint: str | None, path: str) -> Dialect:
    """The dialect that owns the route's blueprint, else the one with the longest prefix of `path`."""
    every = dialects.values()
    owner = next((each for each in every if any(one.name == blueprint for one in each.blueprints)), None)
    fitting = (each for each in every if path.startswith(each.prefix))
    return owner or max(fitting, key=lambda each: len(each.prefix))
